"""How much of one batch is on its way at once: enough to fill the engine's batches, and no more."""

import asyncio
from dataclasses import dataclass

QUEUE_SHARE = 40
"""One batch has at most this part of `max_queued_tokens` on its way: with all that run at once a
tenth of the queue, so that nobody who waits for an answer is refused for their sake."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Most of what may be on its way; a single request always may.

    Attributes:
        lines: requests. Enough for single texts to fill a batch of the engine.
        inputs: vectors, which decide the memory that answers take.
        tokens: by estimate.
    """

    tokens: int
    lines: int = 64
    inputs: int = 1024


class Room:
    """Room for requests on their way. For one event loop, and one task that enters."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._lines = self._inputs = self._tokens = 0
        self._left = asyncio.Event()

    async def enter(self, *, inputs: int, tokens: int) -> None:
        """Wait until there is room for a request, and take it."""
        bounds = self._bounds
        while self._lines and (
            self._lines >= bounds.lines
            or self._inputs + inputs > bounds.inputs
            or self._tokens + tokens > bounds.tokens
        ):
            self._left.clear()
            await self._left.wait()
        self._lines += 1
        self._inputs += inputs
        self._tokens += tokens

    def leave(self, *, inputs: int, tokens: int) -> None:
        """Give a request's room back."""
        self._lines -= 1
        self._inputs -= inputs
        self._tokens -= tokens
        self._left.set()
