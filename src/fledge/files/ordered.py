"""Bounded work in order: cut into chunks, a few in flight, results in the order of the chunks.

What keeps memory flat while an engine is kept busy: the next chunk is taken from its iterator only
when an earlier one has been handed on.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

CHUNK_ITEMS = 1000
CHUNK_CHARS = 50_000
# Guessed: large enough that texts of like length meet in the engine's batches (tens of batches of
# the default model), small enough that an interrupt on a slow model costs seconds of work: the
# engine joins the chunks in flight by length, so they end together.

IN_FLIGHT = 2
"""One chunk is computed while the next one already waits: more only costs memory."""


def next_chunk(items: Iterator[Item], chars: Callable[[Item], int]) -> list[Item]:
    """The next items, no more than a chunk in number and in characters; [] when none are left."""
    chunk: list[Item] = []
    total = 0
    for item in items:
        chunk.append(item)
        total += chars(item)
        if len(chunk) >= CHUNK_ITEMS or total >= CHUNK_CHARS:
            break
    return chunk


async def in_order(
    work: Callable[[Chunk], Awaitable[Result]],
    chunks: AsyncIterable[Chunk],
    *,
    in_flight: int = IN_FLIGHT,
) -> AsyncGenerator[Result, None]:
    """Run `work` on each chunk, at most `in_flight` at a time, and yield the results in order.

    The first error ends it: what is in flight is cancelled and waited for. Close it (as with
    `contextlib.aclosing`) when you may leave before its end.
    """
    pending: deque[asyncio.Future[Result]] = deque()
    try:
        async for chunk in chunks:
            pending.append(asyncio.ensure_future(work(chunk)))
            if len(pending) >= in_flight:
                yield await pending.popleft()
        while pending:
            yield await pending.popleft()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
