"""Requests that come again in every byte: their answers, kept as they were written.

The cache of vectors knows single texts, whatever request they come in. What is left of a request
whose texts are all known is to read JSON, to check it and to write JSON, which takes ten times as
long as to look the vectors up. A client that repeats itself repeats its bytes, so that can be saved
too, from the third time on: the first time computes, the second finds every text in the cache.

An answer depends on the bytes of the body, the path, and the headers that dialects are shown
(`READ_HEADERS`); on the model that runs, which is compared by its card, since a model that was
loaded anew has another one; and on settings, which do not change. Who asks, and whether they may,
is looked at anew each time, and so is the time it took. Whoever asks for a new computation puts it
in the place of what was kept of the same texts, in whatever requests they stand: then all is
forgotten.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from starlette.datastructures import Headers

from fledge.requests import Answer

READ_HEADERS = ("x-use-cache", "x-wait-for-model")
"""All that a dialect sees of a request's headers."""

LARGEST_BODY_BYTES = 2**18
"""Longer ones are rarely repeated, and take long to compare."""

_ENTRY_BYTES = 4096
"""What an entry takes besides its bytes: the objects of an answer and of its headers."""

Key: TypeAlias = tuple[int, bytes, tuple[tuple[str, str], ...], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Given:
    """An answer as it is written.

    Attributes:
        answer: what is told of it; of one that is kept, without vectors and scores.
        content: the body.
        headers: the dialect's own, from the answer and the seconds it took.
        notes: those that say what was done to the request.
    """

    answer: Answer
    content: bytes
    headers: Callable[[Answer, float], dict[str, str]]
    notes: Mapping[str, str]


class Repeats:
    """Answers by request, up to a number of bytes; the one used longest ago leaves first.

    For one event loop.

    Args:
        budget_bytes: of requests and answers together; 0 keeps none.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.size_bytes = 0
        self._entries: OrderedDict[Key, Given] = OrderedDict()

    def key(
        self, operation: object, body: bytes, headers: Headers, path: Mapping[str, Any]
    ) -> Key | None:
        """What makes a request the same as another; None for one that is not worth keeping."""
        if not self.budget_bytes or len(body) > LARGEST_BODY_BYTES:
            return None
        return id(operation), body, shown(headers), tuple(path.items())

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
        self._entries[key] = replace(given, answer=given.answer.again())
        self.size_bytes += size_bytes
        while self.size_bytes > self.budget_bytes:
            self.size_bytes -= _bytes(*self._entries.popitem(last=False))

    def clear(self) -> None:
        """Forget all answers."""
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
    return len(key[1]) + len(given.content) + 8 * len(given.answer.token_counts) + _ENTRY_BYTES
