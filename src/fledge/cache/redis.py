"""The tier that instances share. Needs the extra `redis`; any server that speaks its protocol does.

Redis is here to save time, so whatever is wrong with it is a miss. Two tasks speak to it, one that
reads and one that writes, each one batch after the other on a connection of its own. Requests ask
the reader, and wait for it for a bounded time. So nobody gives up in the middle of an exchange,
which would leave its answer behind for the next question, and no request waits for a connection to
be made.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context

from redis.exceptions import RedisError, ResponseError

from fledge.cache.breaker import Breaker
from fledge.cache.entry import Cached
from fledge.cache.tiers import Pair, TierName
from fledge.redis_client import client_of
from fledge.telemetry.states import TierCounts

log = logging.getLogger(__name__)

PREFIX = b"fledge:1:"
"""Before every key. The number is that of the form of keys and values."""

PATIENCE_S = 0.02
"""How long a request waits for each batch of its keys."""

BATCH = 256
"""Keys of one exchange: redis-py takes milliseconds to read that many, and nobody else has the
event loop meanwhile."""

GIVE_UP_S = 1.0
"""How long an exchange may take, connecting included, before its connection is closed."""

LATE_AS_A_FAILURE = 5
"""So many exchanges in a row that took longer than anybody waited count as one failure: they may be
late because the event loop is busy, which is not for Redis to answer for. A guess."""

QUEUE_BYTES = 32 * 2**20
"""Entries that may wait to be written."""

CLOSE_S = 1.0
"""How long closing may take, with what still waits to be written."""


class _Ask:
    """Keys that one request waits for."""

    __slots__ = ("found", "future", "keys", "taken")

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = keys
        self.found: list[Cached | None] = [None] * len(keys)
        self.taken = 0
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def is_over(self) -> bool:
        return self.future.done()

    def end(self, *, is_late: bool = False) -> None:
        if not self.future.done():
            self.future.set_result(is_late)


class RedisTier:
    """Entries in Redis, which leave after a time, or when Redis has no room for them.

    Args:
        url: `redis://`, `rediss://` or `unix://`. Not a cluster: one question has many keys.
        ttl_s: whole seconds after which an entry leaves.

    Raises:
        SettingsError: the URL is none of Redis.
    """

    name: TierName = "redis"

    def __init__(self, url: str, *, ttl_s: int) -> None:
        self.counts = TierCounts()
        self._ttl_s = ttl_s
        self._client = client_of(url, name="fledge", give_up_s=GIVE_UP_S)
        self._reading = Breaker("reading the cache in Redis")
        self._writing = Breaker("writing the cache in Redis")
        self._asks: deque[_Ask] = deque()
        self._asked = asyncio.Event()
        self._overdue_s = math.inf  # when the exchange that is under way will be late
        self._late_in_a_row = 0
        self._writes: deque[Pair] = deque()
        self._writes_bytes = 0
        self._has_writes = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closing = False

    @property
    def is_usable(self) -> bool:
        """Whether it has not failed in a row."""
        return not (self._reading.is_open or self._writing.is_open)

    async def get(self, keys: Sequence[bytes]) -> list[Cached | None]:
        """The entry of each key; None where there is none, or Redis is too slow."""
        if not keys or self._is_closing or self._reading.is_open or self._is_overdue():
            self.counts.misses += len(keys)
            return [None] * len(keys)
        ask = _Ask(keys)
        self._asks.append(ask)
        self._start()
        self._asked.set()
        wait_s = PATIENCE_S * math.ceil(len(keys) / BATCH)
        timer = asyncio.get_running_loop().call_later(wait_s, lambda: ask.end(is_late=True))
        try:
            is_late = await ask.future
        finally:
            timer.cancel()
        found = list(ask.found)  # what comes later goes into the ask's own list
        misses = found.count(None)
        self.counts.hits += len(keys) - misses
        self.counts.misses += misses
        self.counts.late += misses if is_late else 0
        return found

    def put(self, pairs: Sequence[Pair]) -> None:
        """Write entries soon; they are dropped while too many wait already."""
        for pair in pairs:
            size_bytes = len(pair[1])
            if self._is_closing or self._writing.remaining_s or self._is_full(size_bytes):
                self.counts.dropped += 1
            else:
                self._writes.append(pair)
                self._writes_bytes += size_bytes
        if self._writes:
            self._start()
            self._has_writes.set()

    async def aclose(self) -> None:
        """Write what waits, if Redis is there, and disconnect. Safe to call twice."""
        self._is_closing = True
        self._has_writes.set()
        if self._tasks:
            reader, writer = self._tasks
            reader.cancel()
            await asyncio.wait([writer], timeout=CLOSE_S)
            self._writes.clear()
            writer.cancel()
            # In Python 3.11 `wait_for`, which redis-py writes with, may overlook that it has been
            # cancelled. The tasks see by themselves then that there is nothing more to do.
            await asyncio.wait([reader, writer], timeout=2 * GIVE_UP_S)
        self._miss_all()
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._client.aclose()

    def _start(self) -> None:
        if not self._tasks:
            # For all requests: their lines in the log are none of the one that came first.
            self._tasks = [
                asyncio.create_task(work, context=Context())
                for work in (self._read(), self._write())
            ]

    def _is_full(self, size_bytes: int) -> bool:
        return self._writes_bytes + size_bytes > QUEUE_BYTES

    def _is_overdue(self) -> bool:
        return time.monotonic() > self._overdue_s

    def _miss_all(self) -> None:
        while self._asks:
            self._asks.popleft().end()

    async def _read(self) -> None:
        """Answer asks, for as long as the tier is open."""
        while not self._is_closing:
            if self._reading.is_open:
                self._miss_all()
                await asyncio.sleep(self._reading.remaining_s)
                await self._exchange([])
            elif batch := self._next_asks():
                await self._exchange(batch)
            else:
                self._asked.clear()
                await self._asked.wait()

    def _next_asks(self) -> list[tuple[_Ask, int]]:
        """As many keys as one exchange may have, each with its place in its ask."""
        batch: list[tuple[_Ask, int]] = []
        while self._asks and len(batch) < BATCH:
            ask = self._asks[0]
            stop = min(len(ask.keys), ask.taken + BATCH - len(batch))
            if not ask.is_over:
                batch.extend((ask, index) for index in range(ask.taken, stop))
            ask.taken = stop
            if ask.is_over or stop == len(ask.keys):
                self._asks.popleft()
        return batch

    async def _exchange(self, batch: list[tuple[_Ask, int]]) -> None:
        """Ask for a batch, or with none whether anybody is there, and give out what comes."""
        begun_s = time.monotonic()
        self._overdue_s = begun_s + PATIENCE_S
        try:
            async with asyncio.timeout(GIVE_UP_S):
                if batch:
                    keys = [PREFIX + ask.keys[index] for ask, index in batch]
                    blobs = await self._client.mget(keys)
                    self._give_out(batch, blobs)
                else:
                    await self._client.ping()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a miss and no error
            self.counts.failures += 1
            self._reading.fail(_reason(error))
        else:
            self._note(time.monotonic() - begun_s, is_probe=not batch)
        finally:
            self._overdue_s = math.inf
            for ask in {ask for ask, _ in batch}:
                if ask.taken == len(ask.keys):
                    ask.end()

    def _note(self, took_s: float, *, is_probe: bool) -> None:
        """Judge an exchange that has come to its end."""
        if took_s <= PATIENCE_S:
            self._late_in_a_row = 0
            self._reading.succeed()
            return
        self._late_in_a_row += 1
        if is_probe or self._late_in_a_row % LATE_AS_A_FAILURE == 0:
            self._reading.fail(f"it took {took_s * 1000:.0f} ms")

    def _give_out(self, batch: list[tuple[_Ask, int]], blobs: Sequence[object]) -> None:
        for (ask, index), blob in zip(batch, blobs, strict=True):
            if blob is not None:
                entry = Cached.read(ask.keys[index], blob)
                self.counts.damaged += entry is None
                ask.found[index] = entry

    async def _write(self) -> None:
        """Write what is put, for as long as the tier is open, and then what is left."""
        while self._writes or not self._is_closing:
            if not self._writes:
                self._has_writes.clear()
                await self._has_writes.wait()
                continue
            batch = [self._writes.popleft() for _ in range(min(BATCH, len(self._writes)))]
            self._writes_bytes -= sum(len(entry) for _, entry in batch)
            written = 0 if self._writing.remaining_s else await self._try_to_set(batch)
            self.counts.written += written
            self.counts.dropped += len(batch) - written

    async def _try_to_set(self, batch: list[Pair]) -> int:
        try:
            async with asyncio.timeout(GIVE_UP_S):
                written = await self._set(batch)
        except Exception as error:  # noqa: BLE001 - likewise
            self.counts.failures += 1
            self._writing.fail(_reason(error))
            return 0
        self._writing.succeed()
        return written

    async def _set(self, batch: list[Pair]) -> int:
        """Set all keys in one exchange; how many were set.

        Raises:
            ResponseError: none was, since the server refuses it.
        """
        async with self._client.pipeline(transaction=False) as pipeline:
            for key, entry in batch:
                pipeline.set(PREFIX + key, entry, ex=self._ttl_s)
            replies = await pipeline.execute(raise_on_error=False)
        refused = [reply for reply in replies if isinstance(reply, Exception)]
        if len(refused) == len(batch):
            raise ResponseError(str(refused[0]))
        return len(batch) - len(refused)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
