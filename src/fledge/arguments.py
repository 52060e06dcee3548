"""What a caller of the Python API passed, checked before anything is computed.

Type hints are not enforced, so a value of another kind arrives here sooner or later; the error
names the argument, what it takes and what came.
"""

from collections.abc import Iterable
from numbers import Integral
from typing import Any, TypeAlias

from fledge.errors import InvalidRequest
from fledge.types import Item, TruncationSide

SIDES: dict[str, TruncationSide] = {"left": "left", "right": "right"}
BYTES: TypeAlias = bytes | bytearray | memoryview


def as_items(texts: object) -> tuple[list[Item], bool]:
    """A list of inputs, and whether the caller gave one bare input.

    Raises:
        InvalidRequest: something in it is neither a text nor a list of token ids.
    """
    if isinstance(texts, str):
        return [texts], True
    # Bytes are numbers to Python: they would pass for token ids.
    if not isinstance(texts, Iterable) or isinstance(texts, BYTES):
        raise _refusal("texts", texts, "a text or a list of texts")
    values = list(texts)
    if values and all(_is_whole(value) for value in values):
        return [[int(value) for value in values]], True
    return [_as_item(value, index) for index, value in enumerate(values)], False


def as_text(name: str, value: object) -> str:
    """A text.

    Raises:
        InvalidRequest: it is none.
    """
    if not isinstance(value, str):
        raise _refusal(name, value, "a text")
    return value


def as_texts(name: str, values: object) -> list[str]:
    """A list of texts, from any iterable of them but a text, whose letters nobody means.

    Raises:
        InvalidRequest: it is no list, or something in it is no text.
    """
    if not isinstance(values, Iterable) or isinstance(values, (str, BYTES)):
        raise _refusal(name, values, "a list of texts")
    return [as_text(f"{name}[{index}]", value) for index, value in enumerate(values)]


def as_text_or_none(name: str, value: object) -> str | None:
    """A text, such as a name, or None.

    Raises:
        InvalidRequest: it is neither.
    """
    if value is not None and not isinstance(value, str):
        raise _refusal(name, value, "a text, or None")
    return value


def as_count(name: str, value: object) -> int | None:
    """A whole number, NumPy's too, or None. Its range is for others to check.

    Raises:
        InvalidRequest: it is neither.
    """
    if value is None:
        return None
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise _refusal(name, value, "a whole number, or None")
    return int(value)


def as_side(name: str, value: object) -> TruncationSide | None:
    """A side of a text, in any case, or None.

    Raises:
        InvalidRequest: it is neither.
    """
    if value is None:
        return None
    side = SIDES.get(value.lower()) if isinstance(value, str) else None
    if side is None:
        shown = repr(value[:50]) if isinstance(value, str) else _kind(value)
        raise InvalidRequest(
            f'`{name}` is {shown}; give "left" or "right", the side that is cut away', field=name
        )
    return side


def _as_item(value: Any, index: int) -> Item:  # Any: whatever the caller's list holds
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable) and not isinstance(value, BYTES):
        ids = list(value)
        if all(_is_whole(one) for one in ids):
            return [int(one) for one in ids]
    raise _refusal(f"texts[{index}]", value, "a text or a list of token ids")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _refusal(name: str, value: object, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"`{name}` is {_kind(value)}; give {wanted}", field=name)


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
