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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from fledge.engine.batcher import Batcher, Cost, Picked, Request
from fledge.engine.packing import Row
from fledge.errors import BackendUnavailable, ComputeError, DeadlineExceeded, Overloaded
from fledge.types import Vectors

log = logging.getLogger(__name__)

MIN_BUDGET = 64.0
"""Cost that a batch may always have: below it a batch's fixed costs show."""

MAX_BUDGET = 16_384.0
"""Beyond it a batch gains nothing on any hardware measured so far, and takes memory."""

PAYING_BUDGET = 512.0
LONGEST_ALONE_S = 0.2
"""What a batch may cost and take while a single request waits. A bert-base shape in bf16 computes
1,742 tokens/s at 160 tokens a batch, 1,980 at 320 and 2,035 at 512; whoever comes meanwhile waits
for that one batch, and then the usual target holds again."""

LEARNING_RATE = 0.2
"""Weight of the newest batch in the learned speed: settled after about ten batches."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What became of one request's rows.

    Attributes:
        vectors: `[n, dim]` float32, in the order of the rows.
        queue_ms: until its first row was computed.
        compute_ms: the time of all batches that it had rows in.
    """

    vectors: Vectors
    queue_ms: float
    compute_ms: float


@dataclass(eq=False, slots=True)
class Work:
    """A request on its way: what the batcher sees of it, and what the lane keeps for it.

    Attributes:
        entered: `time.perf_counter()` seconds, as all times that are only subtracted: the clock
            of deadlines is too coarse for a batch on some systems.
        future: the caller's; cancelling it takes the work out of the queue.
        vectors: filled batch by batch, by the lane's thread alone.
    """

    rows: Sequence[Row]
    request: Request
    deadline: float | None
    entered: float
    future: "Future[Computed]" = field(default_factory=Future)
    vectors: Vectors | None = None
    rows_left: int = 0
    started: float = 0.0
    compute_ms: float = 0.0


class Channel:
    """One model's way into the lane.

    Args:
        compute: a batch of rows to vectors; called by the lane's thread only.
        cost: how the model's batches are weighed.
        rate: cost computed per second, as far as known; learned from then on.
    """

    def __init__(
        self, compute: Callable[[Sequence[Row]], Vectors], cost: Cost, *, rate: float
    ) -> None:
        self.compute = compute
        self.cost = cost
        self.rate = rate
        self.batcher = Batcher(cost)
        self.works: dict[Request, Work] = {}
        self.is_open = True

    def budget(self, target_s: float, *, is_alone: bool) -> float:
        """The cost that takes `target_s` at the learned speed.

        Args:
            is_alone: nobody waits but one request: it may have a batch as large as pays.
        """
        budget = max(self.rate * target_s, MIN_BUDGET)
        if is_alone:
            budget = max(budget, min(PAYING_BUDGET, self.rate * LONGEST_ALONE_S))
        return min(budget, MAX_BUDGET)

    def learn(self, cost: float, seconds: float, budget: float) -> None:
        """Take a batch's speed into account. Small ones say little about a full one's."""
        if cost >= budget / 2:
            self.rate += LEARNING_RATE * (cost / seconds - self.rate)


class Lane:
    """Owns the thread. Make one per process for all models.

    The thread begins with the first of them and ends with the last.
    """

    def __init__(self, *, batch_target_ms: float, max_queued_tokens: int) -> None:
        self._target_s = batch_target_ms / 1000
        self._max_queued_tokens = max_queued_tokens
        # guards the channels and their batchers; held for bookkeeping only, never while computing
        self._wake = threading.Condition()
        self._channels: list[Channel] = []
        # about so many are being tokenized, and will wait soon: by tenant, none of them 0
        self._arriving_tokens: dict[str | None, int] = {}
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
    def arriving(
        self, channel: Channel, tokens: int, *, tenant: str | None = None
    ) -> Iterator[None]:
        """Announce work while it is tokenized, so that what waits for that is bounded as well.

        Args:
            tokens: about how many there will be.
            tenant: who asks.

        Raises:
            Overloaded: more are waiting and arriving than may.
        """
        with self._wake:
            self._admit(channel, tokens, tenant)
            self._arrive(tenant, tokens)
        try:
            yield
        finally:
            with self._wake:
                self._arrive(tenant, -tokens)

    def submit(
        self,
        channel: Channel,
        rows: Sequence[Row],
        *,
        priority: int,
        deadline: float | None,
        tenant: str | None = None,
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
            self._wake.notify_all()
        work.future.add_done_callback(lambda _: self._forget(channel, work))
        return work.future

    def _admit(self, channel: Channel, tokens: int, tenant: str | None) -> None:
        """Refuse work beyond the limit, unless nothing waits: one big request always may."""
        waiting = sum(one.batcher.waiting_tokens for one in self._channels)
        waiting += sum(self._arriving_tokens.values())
        if not waiting or waiting + tokens <= self._max_queued_tokens:
            return
        if not self._has_room(waiting, tokens, tenant):
            raise Overloaded(
                f"{waiting} tokens are waiting already, and at most {self._max_queued_tokens} may "
                f"(max_queued_tokens); this request has about {tokens}: try again later",
                retry_after_s=max(1.0, waiting / channel.rate),
            )

    def _has_room(self, waiting: int, tokens: int, tenant: str | None) -> bool:
        """Whether a tenant may come in although the queue is full: others may have filled it.

        It may up to its part of the queue, when each who waits has an equal one. Those who wait
        for more are not let in meanwhile, so the queue shrinks to its limit again; until then it
        is at most twice as long.
        """
        batchers = [one.batcher for one in self._channels]
        tenants = {tenant, *self._arriving_tokens}.union(*(one.tenants() for one in batchers))
        own = sum(one.waiting_tokens_of(tenant) for one in batchers)
        own += self._arriving_tokens.get(tenant, 0)
        is_within_part = own + tokens <= self._max_queued_tokens / len(tenants)
        return is_within_part and waiting + tokens <= 2 * self._max_queued_tokens

    def _arrive(self, tenant: str | None, tokens: int) -> None:
        """Count what is being tokenized; forget a tenant with nothing of it."""
        arriving = self._arriving_tokens.pop(tenant, 0) + tokens
        if arriving:
            self._arriving_tokens[tenant] = arriving

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
                _fail(work, BackendUnavailable("the compute lane died; see the server's log"))
            raise

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
            _fail(work, DeadlineExceeded(f"gave up after {waited:.1f} s in the queue"))

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
        start = time.perf_counter()
        try:
            vectors = channel.compute(rows)
        except Exception as error:
            log.exception("a batch of %d rows failed", len(rows))
            for work in {id(work): work for work, _ in picked}.values():
                _fail(work, ComputeError(f"the computation failed: {type(error).__name__}"))
            return
        seconds = time.perf_counter() - start
        lengths = [len(row.ids) for row in rows]
        cost = channel.cost.of(sum(lengths), len(rows), max(lengths))
        channel.learn(cost, seconds, budget)
        self._deliver(picked, vectors, start, seconds)

    @staticmethod
    def _deliver(
        picked: Sequence[tuple[Work, int]], vectors: Vectors, start: float, seconds: float
    ) -> None:
        """Scatter a batch's vectors; rows of one work stand together in a batch."""
        finite = np.isfinite(vectors)
        place = 0
        for _, group in groupby(picked, key=lambda pair: id(pair[0])):
            members = list(group)
            work, numbers = members[0][0], [number for _, number in members]
            own = slice(place, place + len(members))
            place += len(members)
            if not finite[own].all():
                _fail(work, ComputeError("the model computed a vector that is not finite"))
                continue
            if work.vectors is None:
                work.vectors = np.empty((len(work.rows), vectors.shape[1]), np.float32)
                work.started = start
            work.vectors[numbers] = vectors[own]
            work.compute_ms += seconds * 1000
            work.rows_left -= len(numbers)
            if work.rows_left == 0 and work.future.set_running_or_notify_cancel():
                queue_ms = (work.started - work.entered) * 1000
                work.future.set_result(Computed(work.vectors, queue_ms, work.compute_ms))


def _fail(work: Work, error: Exception) -> None:
    """Give an error to whoever waits, unless they have left."""
    if not work.future.done() and work.future.set_running_or_notify_cancel():
        work.future.set_exception(error)
