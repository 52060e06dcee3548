"""How many requests may be on their way to one provider, and who is next."""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count


class Places:
    """A semaphore that serves smaller priorities first, and equal ones in turn.

    For one event loop.

    Args:
        total: how many places there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._arrivals = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @property
    def taken(self) -> int:
        """How many are taken now."""
        return self.total - self._free

    @asynccontextmanager
    async def take(self, priority: int) -> AsyncIterator[None]:
        """One place, for as long as the block lasts; waits for it."""
        await self._enter(priority)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, priority: int) -> None:
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), place))
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._leave()  # it was given one, and will not use it
            raise

    def _leave(self) -> None:
        """Hand the place to who is next; those who gave up are still in line, and passed over."""
        while self._waiting:
            _, _, place = heapq.heappop(self._waiting)
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
