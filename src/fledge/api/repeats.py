"""Requests that come again in every byte: their answers, kept as they were written.

The cache of vectors knows single texts, whatever request they come in. What is left of a request
whose texts are all known is to read JSON, to check it and to write JSON, which takes ten times as
long as to look the vectors up. A client that repeats itself repeats its bytes, so that can be saved
too, from the third time on: the first time computes, the second finds every text in the cache.

An answer depends on the bytes of the body, the path, and the headers that dialects are shown
(`READ_HEADERS`); on the model that has the name now and runs, which is compared by its card, since
a model that was loaded anew has another one; and on settings, which do not change. Who asks, and
whether they may, is looked at anew each time. Whoever asks for a new computation puts it in the
place of what was kept of the same texts, in whatever requests they stand: then all is forgotten.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.datastructures import Headers

from fledge.api.rendering import JsonResponse
from fledge.requests import Answer

READ_HEADERS = ("x-use-cache", "x-wait-for-model")
"""All that a dialect sees of a request's headers."""

LARGEST_BODY_BYTES = 2**18
"""Longer ones are rarely repeated, and take long to compare."""

_ENTRY_BYTES = 4096
"""What an entry takes besides its bytes: the objects of an answer and of its headers."""

Key: TypeAlias = tuple[int, int, bytes, tuple[tuple[str, str], ...], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Given:
    """An answer as it is written.

    Attributes:
        answer: what is told of it when it is given again, without vectors and scores.
        model: as the request named it.
        response: its bytes and its headers, but for those about limits.
    """

    answer: Answer
    model: str | None
    response: JsonResponse


class Repeats:
    """Answers by request, up to a number of bytes; the one used longest ago leaves first.

    For one event loop.

    Args:
        budget_bytes: of requests and answers together; 0 keeps none.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.size_bytes = 0
        self._times_cleared = 0
        self._entries: OrderedDict[Key, Given] = OrderedDict()

    def key(
        self, operation: object, body: bytes, headers: Headers, path: Mapping[str, Any]
    ) -> Key | None:
        """What makes a request the same as another; None for one that is not worth keeping."""
        if not self.budget_bytes or len(body) > LARGEST_BODY_BYTES:
            return None
        return self._times_cleared, id(operation), body, shown(headers), tuple(path.items())

    def get(self, key: Key) -> Given | None:
        """What was answered before."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: Key, given: Given) -> None:
        """Keep an answer, in place of the one that was kept for the same request."""
        self.drop(key)
        size_bytes = _bytes(key, given)
        if size_bytes > self.budget_bytes:
            return
        self._entries[key] = given
        self.size_bytes += size_bytes
        while self.size_bytes > self.budget_bytes:
            self.size_bytes -= _bytes(*self._entries.popitem(last=False))

    def clear(self) -> None:
        """Forget all answers, and those of requests that are still being answered."""
        self._times_cleared += 1
        self._entries.clear()
        self.size_bytes = 0

    def drop(self, key: Key) -> None:
        """Forget an answer, if there is one."""
        found = self._entries.pop(key, None)
        if found is not None:
            self.size_bytes -= _bytes(key, found)


def shown(headers: Headers) -> tuple[tuple[str, str], ...]:
    """Those of `READ_HEADERS` that a request has, and their values."""
    return tuple([(name, headers[name]) for name in READ_HEADERS if name in headers])


def _bytes(key: Key, given: Given) -> int:
    _, _, body, headers, path = key
    named = sum(len(str(value)) for _, value in (*headers, *path))
    content_bytes = len(given.response.body) + 8 * len(given.answer.token_counts)
    return len(body) + named + content_bytes + _ENTRY_BYTES
