"""The compute lane: one thread that computes the batches of every model, with all cores.

Several models sharing all cores one batch at a time lose a tenth of the speed of one model alone;
models computing side by side would lose more, and a query would wait behind strangers (OpenVINO
2026.4, 2 to 6 MiniLMs: 13.5-14.5 against 16.0 thousand tokens/s). Callers hand rows in from any
thread and get a future; the batchers decide with plain data, under one lock; computing happens
outside it.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import groupby

import numpy as np

from fledge.engine.admission import Admission, Tally, Tenant
from fledge.engine.batcher import Picked, Request
from fledge.engine.channel import Channel, Computed, Work
from fledge.engine.observing import LaneObserver, Unobserved
from fledge.engine.packing import Row
from fledge.engine.watch import Watch
from fledge.errors import BackendUnavailable, ComputeError, DeadlineExceeded
from fledge.types import Vectors

log = logging.getLogger(__name__)


class Lane:
    """Owns the thread. Make one per process for all models.

    The thread begins with the first of them and ends with the last.

    Args:
        batch_target_ms: how long a batch should take.
        max_queued_tokens: most tokens that may wait.
        observer: is told of every batch.
        watch: knows when the lane is stuck.
    """

    def __init__(
        self,
        *,
        batch_target_ms: float,
        max_queued_tokens: int,
        observer: LaneObserver | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._target_s = batch_target_ms / 1000
        self._admission = Admission(max_queued_tokens)
        self._observer = observer or Unobserved()
        self._watch = watch or Watch()
        # guards the channels and their batchers; held for bookkeeping only, never while computing
        self._wake = threading.Condition()
        self._channels: list[Channel] = []
        self._arriving = Tally()  # about so many are being tokenized, and will wait soon
        self._thread: threading.Thread | None = None  # None: no model, or it died
        self._last_thread: threading.Thread | None = None  # which may have a batch to finish

    def attach(self, channel: Channel) -> None:
        """Let a model's work be computed."""
        with self._wake:
            if self._thread is None:
                last = self._last_thread
                thread = threading.Thread(
                    target=self._run, args=(last,), name="fledge-lane", daemon=True
                )
                thread.start()
                self._thread = thread
            self._channels.append(channel)

    def detach(self, channel: Channel) -> None:
        """Wait until a model's work is done, then forget it; the last one ends the thread."""
        with self._wake:
            channel.is_open = False
            self._wake.wait_for(lambda: not channel.works)
            self._channels = [one for one in self._channels if one is not channel]
            if self._channels:
                return
            # it ends by finding that it is not the lane's any more, whoever comes next
            self._let_thread_go()
            last = self._last_thread
            self._wake.notify_all()
        if last is not None:
            last.join()

    def _let_thread_go(self) -> None:
        if self._thread is not None:
            self._thread, self._last_thread = None, self._thread

    @contextmanager
    def arriving(self, channel: Channel, tokens: int, *, tenant: Tenant = None) -> Iterator[None]:
        """Announce work while it is tokenized, so that what waits for that is bounded as well.

        Args:
            tokens: about how many there will be.
            tenant: who asks.

        Raises:
            Overloaded: more are waiting and arriving than may.
        """
        with self._wake:
            self._admit(channel, tokens, tenant)
            self._arriving.add(tenant, tokens)
        try:
            yield
        finally:
            with self._wake:
                self._arriving.add(tenant, -tokens)

    def submit(
        self,
        channel: Channel,
        rows: Sequence[Row],
        *,
        priority: int,
        deadline: float | None,
        tenant: Tenant = None,
    ) -> "Future[Computed]":
        """Queue rows for computation.

        Args:
            deadline: `time.monotonic()` seconds after which the work is not begun any more.
            tenant: who asks; tenants take turns.

        Returns:
            A future to wait for or to cancel. It fails with `ComputeError` or `DeadlineExceeded`.

        Raises:
            Overloaded: more tokens are waiting than may wait.
        """
        request = Request([len(row.ids) for row in rows], priority, tenant)
        work = Work(rows, request, deadline, time.perf_counter(), rows_left=len(rows))
        with self._wake:
            if self._thread is None or not channel.is_open:
                raise BackendUnavailable("the model is being unloaded")
            self._admit(channel, request.tokens_left, tenant)
            channel.works[request] = work
            channel.batcher.add(request)
            self._watch.expect(channel.model_id)
            self._wake.notify_all()
        work.future.add_done_callback(lambda _: self._forget(channel, work))
        return work.future

    def _admit(self, channel: Channel, tokens: int, tenant: Tenant) -> None:
        self._admission.check(
            tokens,
            tenant,
            waiting=self._waiting_tokens(),
            by_tenant=self._waiting_by_tenant,
            tokens_per_s=channel.rate,
        )

    def _waiting_tokens(self) -> int:
        return self._arriving.total + sum(one.batcher.waiting_tokens for one in self._channels)

    def _waiting_by_tenant(self) -> dict[Tenant, int]:
        waiting = Counter(self._arriving.by_tenant())
        for channel in self._channels:
            waiting.update(channel.batcher.waiting_by_tenant())
        return waiting

    @property
    def waiting_requests(self) -> int:
        """Requests with rows that wait."""
        with self._wake:
            return sum(len(one.batcher) for one in self._channels)

    @property
    def waiting_tokens(self) -> int:
        """Tokens of the rows that wait, and about how many are being tokenized."""
        with self._wake:
            return self._waiting_tokens()

    @property
    def waiting_tenants(self) -> int:
        """How many different tenants they are of."""
        with self._wake:
            return len(self._waiting_by_tenant())

    def _forget(self, channel: Channel, work: Work) -> None:
        """A future is done, failed or cancelled: nothing of its work waits any more."""
        with self._wake:
            channel.batcher.remove(work.request)
            channel.works.pop(work.request, None)
            if not channel.works:
                self._wake.notify_all()  # somebody may be waiting to detach it

    @property
    def alive(self) -> bool:
        """Whether the thread runs; false once the last model has left, or if it ever died."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def problem(self) -> str | None:
        """What keeps its models from being computed; None: nothing. Waits for no lock."""
        return self._watch.problem() if self.alive else "the compute lane died"

    def _run(self, last: threading.Thread | None) -> None:
        """Compute until the last model has left, beginning when the `last` thread has ended."""
        if last is not None:
            last.join()
        try:
            while (turn := self._next_turn()) is not None:
                channel, batch, budget = turn
                self._compute(channel, batch, budget)
        except BaseException:
            log.exception("the compute lane died")
            with self._wake:
                works: list[Work] = []
                if self._thread is threading.current_thread():  # else others came, with their own
                    self._let_thread_go()
                    works = [work for one in self._channels for work in one.works.values()]
            for work in works:
                work.fail(BackendUnavailable("the compute lane died; see the server's log"))
            raise
        finally:
            self._watch.rest()

    def _next_turn(self) -> tuple[Channel, list[Picked], float] | None:
        """Wait for work; the models take turns. None once the last model has left."""
        while True:
            self._fail_late_work()
            with self._wake:
                if self._thread is not threading.current_thread():
                    return None
                for index, channel in enumerate(self._channels):
                    if len(channel.batcher):
                        waiting = sum(len(one.batcher) for one in self._channels)
                        budget = channel.budget(self._target_s, is_alone=waiting == 1)
                        batch = channel.batcher.next_batch(budget)
                        self._channels.append(self._channels.pop(index))
                        return channel, batch, budget
                self._watch.rest()
                self._wake.wait()

    def _fail_late_work(self) -> None:
        now = time.monotonic()
        with self._wake:
            late = [
                work
                for channel in self._channels
                for work in channel.works.values()
                if work.deadline is not None and work.deadline < now
            ]
        for work in late:
            waited = time.perf_counter() - work.entered
            work.fail(DeadlineExceeded(f"gave up after {waited:.1f} s in the queue"))

    def _compute(self, channel: Channel, batch: Sequence[Picked], budget: float) -> None:
        """Compute one batch and hand every row's vector to its work."""
        with self._wake:
            picked = [
                (channel.works[request], number)
                for request, number in batch
                if request in channel.works
            ]
        if not picked:
            return
        rows = [work.rows[number] for work, number in picked]
        lengths = [len(row.ids) for row in rows]
        cost = channel.cost.of(sum(lengths), len(rows), max(lengths))
        self._watch.begin(channel.model_id, cost / channel.rate)
        start = time.perf_counter()
        try:
            vectors = channel.compute(rows)
            seconds = time.perf_counter() - start
            channel.learn(cost, seconds, budget)
            self._deliver(picked, vectors, start, seconds)
            fill = cost / budget
            self._observer.on_batch(channel.model_id, len(rows), sum(lengths), fill, seconds)
        except Exception as error:
            log.exception("a batch of %d rows failed", len(rows))
            for work in {id(work): work for work, _ in picked}.values():
                work.fail(ComputeError(f"the computation failed: {type(error).__name__}"))

    @staticmethod
    def _deliver(
        picked: Sequence[tuple[Work, int]], vectors: Vectors, start: float, seconds: float
    ) -> None:
        """Scatter a batch's vectors; rows of one work stand together in a batch."""
        finite = np.isfinite(vectors)
        batch_tokens = sum(len(work.rows[number].ids) for work, number in picked)
        place = 0
        for _, group in groupby(picked, key=lambda pair: id(pair[0])):
            members = list(group)
            work, numbers = members[0][0], [number for _, number in members]
            own = slice(place, place + len(members))
            place += len(members)
            if not finite[own].all():
                work.fail(ComputeError("the model computed a vector that is not finite"))
                continue
            if work.vectors is None:
                work.vectors = np.empty((len(work.rows), vectors.shape[1]), np.float32)
                work.started = start
            work.vectors[numbers] = vectors[own]
            tokens = sum(len(work.rows[number].ids) for number in numbers)
            work.compute_ms += seconds * 1000
            work.busy_ms += seconds * 1000 * tokens / batch_tokens
            work.rows_left -= len(numbers)
            if work.rows_left == 0 and work.future.set_running_or_notify_cancel():
                work.future.set_result(work.computed(work.vectors))
