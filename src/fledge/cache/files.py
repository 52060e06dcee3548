"""The tier that outlives the process: a store in a folder, which several processes may share.

One thread reads and writes. Who reads goes first, unless very much waits to be written; what is to
be written waits for more of its kind, but not for long.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeAlias

from fledge.cache.breaker import Breaker
from fledge.cache.database import Database, Unusable
from fledge.cache.entry import Cached
from fledge.cache.known import KnownKeys
from fledge.cache.tiers import Pair, TierName
from fledge.telemetry.states import TierCounts

log = logging.getLogger(__name__)

PATIENCE_S = 0.25
PATIENCE_A_KEY_S = 0.001
"""How long a read is waited for, which matters where a disk hangs. A guess: usually it is a tenth
of a millisecond and five microseconds a key, but a machine that computes with all its cores lets a
thread wait for its turn."""

BATCH = 64
"""Entries written at once. More would hold up whoever reads next: 64 take 1 to 2 ms."""

LINGER_S = 0.05
"""How long an entry waits for others: what a killed process loses, while its disk keeps up."""

QUEUE_BYTES = 32 * 2**20
"""Entries that may wait to be written."""

CLOSE_S = 5.0
"""A guess: what waits is written in well under a second, unless the disk is stuck."""

Found: TypeAlias = list[Cached | None]


class FileTier:
    """Entries in a folder; the ones written longest ago leave.

    Written, not used: the memory in front of it keeps what is in use, and to note every use would
    make a write of every read.

    Args:
        folder: for nothing else; made if need be.
        budget_bytes: what the store's file may take; its log takes a few MiB more, and one that is
            damaged is left beside it.
    """

    name: TierName = "files"

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.counts = TierCounts()
        self._reading = Breaker(f"reading the cache in {folder}")
        self._writing = Breaker(f"writing the cache in {folder}")
        # The thread's: the store, what it has, and whether some of it has to leave.
        self._database = Database(folder, budget_bytes)
        self._known = KnownKeys(self._database, budget_bytes)
        self._has_surplus = False
        # The rest is shared with the thread, under the lock of `_changed`.
        self._changed = threading.Condition()
        self._reads: deque[tuple[Sequence[bytes], Future[Found]]] = deque()
        self._writes: deque[Pair] = deque()
        self._writes_bytes = 0
        self._due_s = 0.0
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._ended: Future[None] = Future()
        # The event loop's: a read that was given up, and may be going on.
        self._late: Future[Found] | None = None

    @property
    def is_usable(self) -> bool:
        """Whether it has not failed in a row."""
        return not (self._reading.is_open or self._writing.is_open)

    async def get(self, keys: Sequence[bytes]) -> Found:
        """The entry of each key; None where there is none, or the disk is too slow."""
        found: Found = [None] * len(keys)
        asked = self._known.among(keys)
        if asked and not self._is_closing and self._is_sound():
            future = self._read(asked)
            wait_s = PATIENCE_S + PATIENCE_A_KEY_S * len(asked)
            await asyncio.wait([asyncio.wrap_future(future)], timeout=wait_s)
            if future.done():
                entries = dict(zip(asked, future.result(), strict=True))
                found = [entries.get(key) for key in keys]
            else:
                self._late = future
                self.counts.late += len(asked)
        misses = found.count(None)
        self.counts.hits += len(keys) - misses
        self.counts.misses += misses
        return found

    def put(self, pairs: Sequence[Pair]) -> None:
        """Write entries soon; they are dropped while too many wait already."""
        with self._changed:
            if self._is_closing or self._writing.remaining_s:
                self.counts.dropped += len(pairs)
                return
            waited = len(self._writes)
            for pair in pairs:
                size_bytes = len(pair[1])
                if self._writes_bytes + size_bytes > QUEUE_BYTES:
                    self.counts.dropped += 1
                else:
                    self._writes.append(pair)
                    self._writes_bytes += size_bytes
            if not waited:
                self._due_s = time.monotonic() + LINGER_S
            if not waited or len(self._writes) >= BATCH:
                self._wake()

    async def aclose(self) -> None:
        """Write what waits, and let go of the file. Safe to call twice."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.wait([asyncio.wrap_future(self._ended)], timeout=CLOSE_S)
            if not self._ended.done():
                log.warning("the cache's files were not closed within %g s", CLOSE_S)

    def _is_sound(self) -> bool:
        """Whether there is any point in asking."""
        is_stuck = self._late is not None and not self._late.done()
        return not is_stuck and not self._reading.remaining_s

    def _read(self, keys: Sequence[bytes]) -> Future[Found]:
        future: Future[Found] = Future()
        with self._changed:
            self._reads.append((keys, future))
            self._wake()
        return future

    def _wake(self) -> None:
        if self._thread is None:
            # A daemon: a disk that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name="fledge-cache", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        """Do what there is to do, until the tier is closed. This and what follows: the thread."""
        while work := self._next():
            try:
                work()
            except Exception:
                log.exception("the cache's files: a mistake of Fledge's")
        self._database.close()
        self._ended.set_result(None)

    def _next(self) -> Callable[[], None] | None:
        """Wait for something to do; None when all is done and the tier is being closed."""
        with self._changed:
            while True:
                if self._reads and self._writes_bytes <= QUEUE_BYTES // 2:
                    return partial(self._serve, *self._reads.popleft())
                wait_s = max(self._due_s - time.monotonic(), 0.0) if self._writes else None
                if wait_s == 0 or len(self._writes) >= BATCH or (self._writes and self._is_closing):
                    return partial(self._write, self._take())
                if self._is_closing:
                    return None
                if self._has_surplus:
                    return self._trim
                if self._known.has_more:
                    return self._known.step
                self._changed.wait(wait_s)

    def _take(self) -> list[Pair]:
        batch = [self._writes.popleft() for _ in range(min(BATCH, len(self._writes)))]
        self._writes_bytes -= sum(len(entry) for _, entry in batch)
        return batch

    def _serve(self, keys: Sequence[bytes], future: Future[Found]) -> None:
        found: Found = [None] * len(keys)
        try:
            found = self._database.get(keys)
            self._reading.succeed()
        except Unusable as error:
            self._fail(self._reading, error)
        finally:
            self.counts.damaged = self._database.damaged
            future.set_result(found)

    def _write(self, pairs: Sequence[Pair]) -> None:
        kept = 0
        try:
            if not self._writing.remaining_s:
                self._has_surplus = self._database.put(pairs)
                kept = len(pairs)
                self._known.wrote([key for key, _ in pairs])
                self._writing.succeed()
        except Unusable as error:
            self._fail(self._writing, error)
        with self._changed:
            self.counts.written += kept
            self.counts.dropped += len(pairs) - kept

    def _trim(self) -> None:
        self._has_surplus = False  # unless it works; the next write will see
        try:
            self._has_surplus = self._database.trim()
        except Unusable as error:
            self._fail(self._writing, error)

    def _fail(self, breaker: Breaker, error: Unusable) -> None:
        breaker.fail(str(error))
        with self._changed:
            self.counts.failures += 1
