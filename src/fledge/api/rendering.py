"""Values to bytes: JSON bodies and header values that are safe whatever a client sent."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any
from urllib.parse import quote

import orjson
from starlette.responses import Response

from fledge.types import Vectors

# About 2 ms of work on one core (1.3 million float32 a 40 ms, Zen 4): between two slices the
# event loop serves others, so that a bulk answer does not hold up a short one.
_NUMBERS_PER_SLICE = 65_536

_LONGEST_NAME = 64
_MOST_NAMES = 16
# Printable ASCII that means nothing inside a header's comma-separated list.
_PLAIN = "!#$&'()*+-./:;<=>?@[]^_`{|}~ "


class JsonResponse(Response):
    """Bytes of JSON. The type has no charset: some old clients compare it as a whole."""

    media_type = "application/json"

    def with_headers(self, more: Mapping[str, str]) -> "JsonResponse":
        """The same with more headers."""
        if not more:
            return self
        twin = copy(self)
        own = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in more.items()]
        twin.raw_headers = [*self.raw_headers, *own]
        return twin


def dump(value: Any) -> bytes:
    """A value as JSON; NumPy arrays are lists of numbers."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


async def dump_list(values: Sequence[Any] | Vectors, numbers_each: int) -> bytes:
    """A list as JSON, in slices, for values of so many numbers each."""
    step = max(1, _NUMBERS_PER_SLICE // numbers_each)
    if len(values) <= step:
        return dump(values)
    slices = []
    for start in range(0, len(values), step):
        slices.append(dump(values[start : start + step])[1:-1])
        await asyncio.sleep(0)
    return b"[" + b",".join(slices) + b"]"


def header_value(text: str, *, limit: int = 512) -> str:
    """Text as a header value: anything but plain ASCII is percent-encoded, long text is cut."""
    return quote(text[:limit], safe=_PLAIN + ",", errors="replace")[:limit].strip()


def header_names(names: Iterable[str]) -> str:
    """Names from a client as one comma-separated header value of bounded length."""
    safe = [
        quote(name[:_LONGEST_NAME], safe=_PLAIN, errors="replace")[: 3 * _LONGEST_NAME].strip()
        for name in names
    ]
    more = len(safe) - _MOST_NAMES
    return ",".join(safe[:_MOST_NAMES]) + (f",...{more} more" if more > 0 else "")
