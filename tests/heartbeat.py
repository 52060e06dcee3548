"""Whether an event loop goes on serving others while something runs."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

TICK_S = 0.005

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a task that ticks every 5 ms saw while a call ran.

    Attributes:
        elapsed_s: how long the call took.
        ticks: how often the task ran meanwhile.
        longest_gap_s: the longest time without a tick.
    """

    elapsed_s: float
    ticks: int
    longest_gap_s: float


async def with_heartbeat(call: Awaitable[Result]) -> tuple[Result, Heartbeat]:
    """Await the call beside a task that ticks."""
    times = [time.perf_counter()]

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK_S)
            times.append(time.perf_counter())

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(2 * TICK_S)
    start = time.perf_counter()
    before = len(times)
    try:
        result = await call
        elapsed = time.perf_counter() - start
        ticks = len(times) - before
    finally:
        ticking.cancel()
    # The time since the last tick counts too: a call that never let the loop go has no other gap.
    points = [start, *times[before:], start + elapsed]
    gaps = [later - earlier for earlier, later in pairwise(points)]
    return result, Heartbeat(elapsed, ticks, max(gaps))
