"""Runs the batches of one `data_dir`: of all the instances that share it, one at a time.

Which one is settled by a lock on a file, which the system takes away from a process that dies: the
next instance that looks takes over, and goes on where the files of the results end.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout

from fledge.batches.answers import Answerer
from fledge.batches.documents import FILE_MODE, make_folder, storage
from fledge.batches.records import Batch
from fledge.batches.room import QUEUE_SHARE, Bounds
from fledge.batches.run import KeyOf, Run
from fledge.batches.stages import conclude, finish, validate
from fledge.batches.store import BatchStore
from fledge.errors import StorageUnavailable

_log = logging.getLogger(__name__)

MOST_AT_ONCE = 4
"""Batches that are answered at once, of different owners: one owner's follow one another."""

POLL_S = 1.0
"""Between two looks for what other instances were asked."""

CLEAN_S = 600.0
STOP_S = 3.0
"""For lines on their way when the server stops: they are few, and this is part of its time."""

_RETRY_S = 5.0
_LONGEST_RETRY_S = 300.0


@dataclass(slots=True)
class _Trouble:
    """A batch that failed for the server's own reasons, and when it is tried again."""

    count: int
    until: float


class Runner:
    """Runs batches beside a server, in its event loop.

    Args:
        store: the batches.
        answerer: answers their requests.
        key_of: looks their keys up.
        max_line_bytes: of their input: what one request may have.
        max_queued_tokens: what may wait for the engine, everybody's together.
        is_draining: whether the server is about to stop, so that no more lines begin.
    """

    def __init__(
        self,
        store: BatchStore,
        answerer: Answerer,
        key_of: KeyOf,
        *,
        max_line_bytes: int,
        max_queued_tokens: int,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._answerer = answerer
        self._key_of = key_of
        self._max_line_bytes = max_line_bytes
        self._bounds = Bounds(max(1, max_queued_tokens // QUEUE_SHARE))
        self._is_draining = is_draining
        self._poked = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._lock = FileLock(store.folder / "lock", timeout=0, mode=FILE_MODE, thread_local=False)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[str, Run] = {}
        self._owners: dict[str, str | None] = {}  # of the batches that are being answered
        self._validating: str | None = None
        self._troubles: dict[str, _Trouble] = {}
        self._cleaned = float("-inf")

    def start(self) -> None:
        """Begin to look for batches. Nothing is made on the disk before there are any."""
        self._main = asyncio.create_task(self._look())

    def poke(self) -> None:
        """Look now: something was asked."""
        self._poked.set()

    async def aclose(self) -> None:
        """Stop, within seconds: what is unfinished goes on after the next start."""
        if self._main is not None:
            self._main.cancel()
            await asyncio.wait({self._main})
        for run in self._runs.values():
            run.stop()
        tasks = set(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_S)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        with suppress(OSError):
            await asyncio.to_thread(self._lock.release)

    async def _look(self) -> None:
        while True:
            try:
                await self._turn()
            except Exception:  # noqa: BLE001 - the next look may find it mended
                _log.exception("batches cannot be looked at")
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._poked.wait()
            self._poked.clear()

    async def _turn(self) -> None:
        if self._is_draining():
            for run in self._runs.values():
                run.stop()
            return
        if not await asyncio.to_thread(self._has_lock):
            return
        if time.monotonic() - self._cleaned >= CLEAN_S:
            self._cleaned = time.monotonic()
            await asyncio.to_thread(self._store.clean)
        for batch in await asyncio.to_thread(self._store.unfinished):
            if batch.id not in self._tasks and self._may_try(batch):
                await self._begin(batch)

    def _has_lock(self) -> bool:
        """Whether this instance is the one that runs batches."""
        if self._lock.is_locked:
            return True
        # Where no file ever came there is nothing to run, and nothing is to be made.
        if not self._store.is_used():
            return False
        with storage():
            make_folder(self._store.folder)
            try:
                self._lock.acquire()
            except Timeout:
                return False
        return True

    def _may_try(self, batch: Batch) -> bool:
        trouble = self._troubles.get(batch.id)
        return trouble is None or trouble.until <= time.monotonic()

    async def _begin(self, batch: Batch) -> None:
        """Do what comes next for a batch, unless that has to wait for others."""
        store = self._store
        if batch.ending is not None:
            self._spawn(batch, asyncio.to_thread(finish, batch, store))
            return
        cancelled_at = await asyncio.to_thread(store.cancelled_at, batch)
        if cancelled_at is not None:
            self._spawn(batch, asyncio.to_thread(conclude, batch, store, "cancelled", cancelled_at))
        elif batch.status == "validating":
            if self._validating is None:
                self._validating = batch.id
                self._spawn(batch, validate(batch, store, max_line_bytes=self._max_line_bytes))
        elif len(self._runs) < MOST_AT_ONCE and batch.owner not in self._owners.values():
            run = Run(
                batch, store, self._answerer, self._key_of, self._bounds, self._max_line_bytes
            )
            self._runs[batch.id], self._owners[batch.id] = run, batch.owner
            self._spawn(batch, run.run())

    def _spawn(self, batch: Batch, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[batch.id] = task
        task.add_done_callback(lambda done: self._done(batch.id, done))

    def _done(self, batch_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[batch_id]
        self._runs.pop(batch_id, None)
        self._owners.pop(batch_id, None)
        if self._validating == batch_id:
            self._validating = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._troubles.pop(batch_id, None)
        else:
            self._note(batch_id, error)
        self._poked.set()

    def _note(self, batch_id: str, error: BaseException) -> None:
        """A batch failed by no fault of its own: it is tried again, later and later."""
        trouble = self._troubles.setdefault(batch_id, _Trouble(0, 0.0))
        pause_s = min(_RETRY_S * 2**trouble.count, _LONGEST_RETRY_S)
        trouble.count = min(trouble.count + 1, 10)
        trouble.until = time.monotonic() + pause_s
        level = logging.WARNING if isinstance(error, StorageUnavailable) else logging.ERROR
        _log.log(level, "%s is tried again in %g s", batch_id, pause_s, exc_info=error)
