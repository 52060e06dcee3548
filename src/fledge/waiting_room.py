"""Requests that wait for a model to be warm, and how much of them may."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fledge.errors import Overloaded
from fledge.types import Item

RETRY_AFTER_S = 5.0
"""A guess: some model that is waited for is warm by then, and those who waited for it have left."""

CHARS_PER_TOKEN = 4
"""Of ordinary English; a token id counts for as much."""


class WaitingRoom:
    """Holds what waits for models, up to a number of tokens in all.

    What is in here is in memory for as long as a load takes, which may be minutes; the engine
    counts tokens only from when the model is warm. For use from one event loop.

    Args:
        max_tokens: about the most that may wait at once; one request alone always may.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._tokens = 0

    @contextmanager
    def place(self, items: Sequence[Item]) -> Iterator[None]:
        """A place for a request with these items, until the block ends.

        Raises:
            Overloaded: more is waiting than may.
        """
        tokens = sum(len(item) for item in items) // CHARS_PER_TOKEN + 1
        if self._tokens and self._tokens + tokens > self._max_tokens:
            raise Overloaded(
                f"requests of about {self._tokens} tokens are waiting for models to load, and at "
                f"most {self._max_tokens} may (max_queued_tokens): try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        self._tokens += tokens
        try:
            yield
        finally:
            self._tokens -= tokens
