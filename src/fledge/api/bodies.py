"""Request bodies: bytes to JSON to typed fields, each failure naming the place and what was there.

What every dialect shares. A dialect declares its fields as a `Body`, from which the OpenAPI
document is made too, so that the two cannot disagree.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.types import Receive, Scope

from fledge.errors import BodyTooLarge, DeadlineExceeded, InvalidRequest, MalformedBody
from fledge.inputs import check_lengths
from fledge.settings import Settings
from fledge.types import Item

_LONGEST_QUOTE = 40
_LONGEST_LENGTH = 19
_UTF8_MARK = b"\xef\xbb\xbf"

# What a field should have been, by the type of pydantic's complaint.
_EXPECTED = {
    "string_type": "a string",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "greater_than_equal": "at least 1",
}


class ClientLeft(Exception):
    """The client closed the connection before its answer was ready. Nobody is to be told."""


class Body(BaseModel):
    """The fields of one kind of body. Strict: `"5"` is no number. Unknown fields are kept aside."""

    model_config = ConfigDict(extra="allow", strict=True)

    def unknown_fields(self) -> list[str]:
        """The names of fields that the route does not know."""
        return list(self.model_extra or ())


BodyT = TypeVar("BodyT", bound=Body)


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body; one that is too large is refused as soon as that is known.

    Raises:
        BodyTooLarge: by its content-length, or once more bytes came than may.
        MalformedBody: it is compressed.
        ClientLeft: the client went away while sending.
    """
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise MalformedBody(
                f"the header content-encoding is {described(value.decode('latin-1'))}; "
                "send the body without it, as plain JSON"
            )
        # Compared by length first: Python refuses to read a number of thousands of digits.
        if (
            name == b"content-length"
            and value.isdigit()
            and (len(value) > _LONGEST_LENGTH or int(value) > max_bytes)
        ):
            raise _too_large(f"{value[:_LONGEST_LENGTH].decode()} bytes", max_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(f"{size} bytes so far", max_bytes)
        if not message.get("more_body", False):
            return b"".join([*chunks, chunk]) if chunks else chunk
        chunks.append(chunk)


async def read_in_time(request: Request, timeout_s: float, max_bytes: int) -> bytes:
    """The whole body, if it comes within some seconds.

    Raises:
        DeadlineExceeded: it did not.
        BodyTooLarge, MalformedBody, ClientLeft: as `read_body`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await read_body(request.scope, request.receive, max_bytes)
    except TimeoutError:
        raise DeadlineExceeded(
            f"the body did not arrive within {timeout_s:g} s, the time-out of this server"
        ) from None


def parse_json(body: bytes) -> Any:
    """The JSON value of a body.

    Raises:
        MalformedBody: it is empty, not UTF-8, or not JSON; the message says where.
    """
    body = body.removeprefix(_UTF8_MARK)
    if not body:
        raise MalformedBody("the body is empty: send a JSON object")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        problem = f"{error.msg} (line {error.lineno}, column {error.colno})"
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise MalformedBody(
            f"the body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}"
        ) from None
    raise MalformedBody(f"the body is not JSON: {problem}")


def parse_fields(kind: type[BodyT], data: Any, *, prefix: str = "") -> BodyT:
    """The typed fields of a JSON object; `prefix` says where in the body it stands.

    Raises:
        MalformedBody: it is no object.
        InvalidRequest: a field has a value of the wrong kind; the first such one is named.
    """
    if not isinstance(data, dict):
        raise MalformedBody(f"the body must be a JSON object, not {described(data)}")
    try:
        return kind.model_validate(data)
    except ValidationError as errors:
        error = errors.errors(include_url=False)[0]
    path = prefix + _path(error["loc"])
    if error["type"] == "missing":
        raise InvalidRequest(f"`{path}` is required", field=path)
    context = error.get("ctx", {})
    # A literal's complaint lists its values; anything else unforeseen speaks for itself.
    expected = _EXPECTED.get(error["type"], context.get("expected", error["msg"]))
    raise wrong_type(path, expected, error["input"])


def parse_items(value: Any, field: str, settings: Settings) -> tuple[list[Item], bool]:
    """Inputs as a list, and whether the caller gave one bare input.

    One input is a string or a list of token ids; several are a list of those, mixed as one likes.

    Raises:
        TooManyInputs: more of them, or more token ids in all, than the limits of the settings.
        InvalidRequest: anything else; the message names the entry at fault.
    """
    if isinstance(value, str):
        return [value], True
    if not isinstance(value, list):
        raise wrong_type(field, "a string, a list of strings, or lists of token ids", value)
    # Types are compared, never isinstance: true is an int to Python, but no token id.
    is_single = bool(value) and type(value[0]) in (int, float)
    items = [value] if is_single else value
    # Lengths first: what comes after looks at every id, and holds up everybody else meanwhile.
    check_lengths(
        items,
        field,
        max_inputs=settings.max_inputs_per_request,
        max_ids=settings.max_tokens_per_request,
    )
    if is_single:
        _check_ids(value, field)
    elif set(map(type, value)) - {str}:
        for index, item in enumerate(value):
            _check_item(item, f"{field}[{index}]")
    return items, is_single


def wrong_type(path: str, expected: str, value: Any) -> InvalidRequest:
    """The error for a value of the wrong kind."""
    return InvalidRequest(f"`{path}` must be {expected}, not {described(value)}", field=path)


def described(value: Any) -> str:
    """What a JSON value is, for an error message: numbers in full, texts by their beginning."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        cut = value[:_LONGEST_QUOTE]
        return f"the string {json.dumps(cut, ensure_ascii=False)}" + ("..." * (cut != value))
    if isinstance(value, float) and not -(2**63) < value < 2**64:
        # It may have been written as a whole number; the parser rounded it.
        return "a number beyond 64 bits"
    return json.dumps(value)


def _check_item(item: Any, path: str) -> None:
    if type(item) is list:
        _check_ids(item, path)
    elif type(item) is not str:
        raise wrong_type(path, "a string or a list of token ids", item)


def _check_ids(ids: list[Any], path: str) -> None:
    if set(map(type, ids)) - {int}:
        place, wrong = next((i, t) for i, t in enumerate(ids) if type(t) is not int)
        raise wrong_type(f"{path}[{place}]", "a token id (a whole number)", wrong)


def _path(parts: Sequence[str | int]) -> str:
    """`parameters.normalize`, `sentences[3]`."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _too_large(size: str, max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has {size}; one request takes at most {max_bytes} bytes")
