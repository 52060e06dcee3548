"""From the JSON of a reply to vectors: every answer is checked, whoever gave it.

What is said of a wrong one names kinds and lengths, never what was in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from fledge.providers.shapes import WrongAnswer
from fledge.types import Vectors

Json: TypeAlias = Any  # what a server that nobody here wrote has sent


def parse(body: bytes) -> Json:
    """The JSON value of a body.

    Raises:
        WrongAnswer: it is none; NaN and Infinity are none.
    """
    if not body.strip():
        raise WrongAnswer("an empty body")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        kind = "a page of HTML" if body.lstrip()[:1] == b"<" else "a body that is not JSON"
        raise WrongAnswer(kind) from None


def member(value: Json, name: str) -> Json:
    """A member of an object.

    Raises:
        WrongAnswer: it is no object, or has none of that name.
    """
    if not isinstance(value, Mapping) or name not in value:
        raise WrongAnswer(f"{kind_of(value)} without `{name}`")
    return value[name]


def rows(value: Json, count: int) -> list[Json]:
    """A list of as many vectors as there were inputs, whatever they are.

    Raises:
        WrongAnswer: it is no list, or has another length.
    """
    if not isinstance(value, list):
        raise WrongAnswer(f"{kind_of(value)} where a list of vectors belongs")
    if len(value) != count:
        raise WrongAnswer(f"{len(value)} vectors for {count} inputs")
    return value


def as_vectors(found: Sequence[Json]) -> Vectors:
    """Vectors from lists of numbers, or from base64 of little-endian float32.

    Raises:
        WrongAnswer: they are not of one length, or hold what is not a finite number.
    """
    if all(isinstance(one, str) for one in found):
        numbers = _from_base64(found)
    else:
        numbers = _from_lists(found)
    with np.errstate(over="ignore"):  # it is infinite then, and refused for that
        vectors = np.ascontiguousarray(numbers, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise WrongAnswer("a vector with a value that is not finite")
    return vectors


def _from_lists(found: Sequence[Json]) -> NDArray[Any]:
    for one in found:
        if not isinstance(one, list) or not one:
            raise WrongAnswer(f"{kind_of(one)} where a vector belongs")
    if len(set(map(len, found))) > 1:
        raise WrongAnswer("vectors of different lengths")
    try:
        # No type is asked for: NumPy would read texts as numbers, and null as one that is none.
        numbers = np.array(found)
    except (ValueError, OverflowError):
        raise WrongAnswer("vectors of lists of different lengths") from None
    if numbers.ndim != 2:
        raise WrongAnswer("vectors of lists, one for each token it seems")
    if numbers.dtype.kind not in "fiu":
        raise WrongAnswer("a vector with a value that is not a number")
    return numbers


def _from_base64(found: Sequence[str]) -> NDArray[Any]:
    try:
        decoded = [pybase64.b64decode(one, validate=True) for one in found]
    except ValueError:  # of binascii, or characters beyond ASCII
        raise WrongAnswer("a vector that is no base64") from None
    sizes = set(map(len, decoded))
    if len(sizes) > 1:
        raise WrongAnswer("vectors of different lengths")
    size = sizes.pop()
    if not size or size % 4:
        raise WrongAnswer(f"a vector of {size} bytes, which are no numbers of 4")
    return np.frombuffer(b"".join(decoded), dtype="<f4").reshape(len(decoded), -1)


def whole_number(value: Json) -> int | None:
    """A count, if it is one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return value if is_count and value > 0 else None


def kind_of(value: Json) -> str:
    """What a JSON value is, for people."""
    kinds = {bool: "a boolean", str: "a text", list: "a list", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), "a number")
