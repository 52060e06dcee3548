"""One batch on its way: its lines are answered, several at a time, behind everybody who waits.

What is only for now is waited for and tried again: a full queue, a model that loads or leaves,
limits or keys that cannot be looked up. Everything else is the line's answer, as it would have
been over HTTP.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import TypeAlias

from fledge.accounts.callers import Caller
from fledge.accounts.keys import Key
from fledge.batches.answers import Answerer, Rendering, Work
from fledge.batches.documents import storage
from fledge.batches.lines import BadLine, Line, LineReader, pending
from fledge.batches.records import Batch, BatchError, Ending
from fledge.batches.results import Reply, Results
from fledge.batches.room import Bounds, Room
from fledge.batches.stages import FILE_GONE, STEP_BYTES, conclude, counted
from fledge.batches.store import BatchStore
from fledge.errors import (
    BackendUnavailable,
    DatabaseUnavailable,
    DeadlineExceeded,
    FledgeError,
    LimitsUnavailable,
    ModelLoading,
    Overloaded,
    StorageUnavailable,
    TryLater,
    Unauthorized,
)

_log = logging.getLogger(__name__)

KeyOf: TypeAlias = Callable[[str], Key | None]
"""The living key of an id."""

TICK_S = 0.2
"""Between two looks at whether a batch is to end."""

REPORT_S = 1.0
"""Between two writings of how far it is."""

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
"""Before a line is tried again: twice as long each time, from the first to the longest."""

_FOR_NOW = (
    BackendUnavailable,
    DatabaseUnavailable,
    DeadlineExceeded,
    LimitsUnavailable,
    ModelLoading,
    Overloaded,
)

_EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}


class Run:
    """Answers what is left of a batch that is in progress.

    Args:
        batch: as it is written down.
        store: where.
        answerer: answers its requests.
        key_of: looks the batch's key up.
        bounds: how much of it is on its way at once.
        max_line_bytes: of its input.
    """

    def __init__(
        self,
        batch: Batch,
        store: BatchStore,
        answerer: Answerer,
        key_of: KeyOf,
        bounds: Bounds,
        max_line_bytes: int,
    ) -> None:
        self._batch = batch
        self._store = store
        self._answerer = answerer
        self._key_of = key_of
        self._room = Room(bounds)
        self._max_line_bytes = max_line_bytes
        self._stopping = asyncio.Event()
        self._is_over = False
        self._is_refused = False
        self._finding_out = asyncio.Lock()
        self._quiet_until = 0.0
        self._reported = 0.0
        self._writing = asyncio.Lock()
        self._writings: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Begin no more lines; those on their way end. The batch goes on after the next start."""
        self._stopping.set()

    async def run(self) -> None:
        """Until the batch has ended, or is to stop. Being cancelled loses lines on their way.

        Raises:
            StorageUnavailable: the disk failed; what was answered is kept.
        """
        batch, store = self._batch, self._store
        self._results = await asyncio.to_thread(
            Results, store.output_path(batch), store.errors_path(batch)
        )
        try:
            ending = await self._until_over()
            if ending == "expired":
                await asyncio.to_thread(self._expire_rest)
        except BadLine as error:
            await asyncio.to_thread(self._fail, error)
            return
        finally:
            await asyncio.to_thread(self._results.close)
        if ending is None:
            return
        begun = store.cancelled_at(batch) if ending == "cancelled" else None
        await asyncio.to_thread(conclude, batch, store, ending, begun or store.now())

    async def _until_over(self) -> Ending | None:
        """How the batch ends; None: it does not yet.

        Raises:
            BadLine: its file is not the one that was checked.
        """
        ending = await self._ordered_ending()
        if ending is not None:
            return ending
        work = asyncio.create_task(self._dispatch())
        try:
            while ending is None:
                await asyncio.wait({work}, timeout=TICK_S)
                if work.done():
                    break
                await self._report()
                ending = await self._ordered_ending()
        finally:
            work.cancel()
            self._is_over = True
            await asyncio.wait({work})
            await asyncio.gather(*self._writings, return_exceptions=True)
        if ending is not None:
            if not work.cancelled():
                work.exception()  # looked at: it makes no difference any more
            return ending
        try:
            return "completed" if await work else None
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _ordered_ending(self) -> Ending | None:
        """How somebody or the time wants it to end."""
        if await asyncio.to_thread(self._store.cancelled_at, self._batch) is not None:
            return "cancelled"
        return "expired" if self._store.now() >= self._batch.expires else None

    async def _dispatch(self) -> bool:
        """Answer every line; whether all of them are."""
        reader = await asyncio.to_thread(self._open)
        try:
            async with asyncio.TaskGroup() as group:
                while lines := await asyncio.to_thread(reader.take, STEP_BYTES):
                    for line in pending(lines, self._batch.endpoint, self._results.done):
                        work = self._parsed(line)
                        if isinstance(work, Reply):
                            await self._keep(line, _ready(work))
                            continue
                        await self._room.enter(inputs=work.inputs, tokens=work.tokens)
                        if self._stopping.is_set():
                            return False
                        group.create_task(self._answer(line, work))
        finally:
            reader.close()
        # Lines that waited to be tried again were left alone by then.
        return not self._stopping.is_set()

    def _open(self) -> LineReader:
        try:
            with storage():
                path = self._store.files.path(self._batch.input_file_id)
                return LineReader(path, self._max_line_bytes)
        except StorageUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise BadLine(FILE_GONE.code, FILE_GONE.message) from None
            raise

    def _parsed(self, line: Line) -> Work | Reply:
        try:
            return self._answerer.parse(line.body)
        except FledgeError as error:
            return self._answerer.failure(error)

    async def _answer(self, line: Line, work: Work) -> None:
        try:
            rendering = await self._computed(work)
            if rendering is not None:
                await self._keep(line, rendering)
        finally:
            self._room.leave(inputs=work.inputs, tokens=work.tokens)

    async def _computed(self, work: Work) -> Rendering | None:
        """What becomes of a line; None: that is not known before the batch stops."""
        for attempt in count():
            try:
                return await self._tried(work)
            except _FOR_NOW as error:
                self._pause(attempt, _least_pause_s(error))
            except FledgeError as error:
                return _ready(self._answerer.failure(error))
            except Exception as error:  # noqa: BLE001 - one line must not break the rest
                _log.exception("a line of %s failed", self._batch.id)
                return _ready(self._answerer.failure(error))
        return None

    async def _tried(self, work: Work) -> Rendering | None:
        """Compute a line, when its turn comes. After a refusal one line at a time finds out
        whether it is over: each try costs the server something, and is counted as an error."""
        while self._is_refused and not self._stopping.is_set():
            async with self._finding_out:
                await self._quiet()
                if self._stopping.is_set() or not self._is_refused:
                    continue
                rendering = await work.compute(self._caller())
                self._is_refused = False
                return rendering
        if self._stopping.is_set():
            return None
        return await work.compute(self._caller())

    def _caller(self) -> Caller:
        """On whose account the batch is, now.

        Raises:
            Unauthorized: its key is valid no more.
            DatabaseUnavailable: nobody can say.
        """
        owner, bill_to = self._batch.owner, self._batch.bill_to
        if owner is None:
            return Caller(None, bill_to, is_bulk=True)
        key = self._key_of(owner)
        if key is None:
            raise Unauthorized("the key of this batch was revoked, or has expired")
        return Caller(key, bill_to, is_bulk=True)

    def _pause(self, attempt: int, least_s: float) -> None:
        """Let no line of the batch be tried for a while."""
        self._is_refused = True
        until = time.monotonic() + _pause_s(attempt, least_s)
        self._quiet_until = max(self._quiet_until, until)

    async def _quiet(self) -> None:
        """Wait until lines may be tried, or are not to be any more."""
        while not self._stopping.is_set() and (left_s := self._quiet_until - time.monotonic()) > 0:
            await self._rest(left_s)

    async def _rest(self, seconds: float) -> None:
        """Wait, but not for longer than until the batch stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _keep(self, line: Line, rendering: Rendering) -> None:
        """Write an answer down, whoever is cancelled meanwhile: it is charged already."""
        task = asyncio.create_task(self._write(line, rendering))
        self._writings.add(task)
        task.add_done_callback(self._writings.discard)
        await asyncio.shield(task)

    async def _write(self, line: Line, rendering: Rendering) -> None:
        # One at a time, so that the memory for answers is bounded too.
        async with self._writing:
            reply = await self._rendered(rendering)
            for attempt in count():
                try:
                    await asyncio.to_thread(self._results.add, line.number, line.custom_id, reply)
                except StorageUnavailable:
                    if self._is_over or self._stopping.is_set():
                        raise
                    _log.warning("%s waits for its disk", self._batch.id, exc_info=True)
                    await self._rest(_pause_s(attempt, 0.0))
                else:
                    return

    async def _rendered(self, rendering: Rendering) -> Reply:
        try:
            return await rendering()
        except Exception as error:  # noqa: BLE001 - likewise
            _log.exception("an answer of %s cannot be written as JSON", self._batch.id)
            return self._answerer.failure(error)

    async def _report(self) -> None:
        """Write down how far the batch is, if that has changed, and not too often."""
        now = time.monotonic()
        report = counted(self._batch, self._results)
        if report != self._batch and now - self._reported >= REPORT_S:
            self._reported, self._batch = now, report
            await asyncio.to_thread(self._store.write, report)

    def _expire_rest(self) -> None:
        reader = self._open()
        try:
            while lines := reader.take(STEP_BYTES):
                for line in pending(lines, self._batch.endpoint, self._results.done):
                    self._results.add_unanswered(line.number, line.custom_id, _EXPIRED)
        finally:
            reader.close()

    def _fail(self, error: BadLine) -> None:
        told = BatchError(code=error.code, message=str(error))
        failed = counted(self._batch, self._results)
        self._store.write(failed.entered("failed", self._store.now(), errors=(told,)))


def _pause_s(attempt: int, least_s: float) -> float:
    return min(max(least_s, FIRST_PAUSE_S * 2.0 ** min(attempt, 20)), LONGEST_PAUSE_S)


def _least_pause_s(error: FledgeError) -> float:
    return error.retry_after_s if isinstance(error, TryLater) else 0.0


def _ready(reply: Reply) -> Rendering:
    async def rendering() -> Reply:
        return reply

    return rendering
