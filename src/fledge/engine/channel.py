"""One model's way into the compute lane: the work that it has there, and how fast it gets done."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from fledge.engine.batcher import Batcher, Cost, Request
from fledge.engine.packing import Row
from fledge.types import Vectors

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
        busy_ms: its part of that time, by its part of each batch's tokens.
    """

    vectors: Vectors
    queue_ms: float
    compute_ms: float
    busy_ms: float


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
    busy_ms: float = 0.0

    def computed(self, vectors: Vectors) -> Computed:
        """What to answer, now that the last row is done."""
        queue_ms = (self.started - self.entered) * 1000
        return Computed(vectors, queue_ms, self.compute_ms, self.busy_ms)

    def fail(self, error: Exception) -> None:
        """Give an error to whoever waits, unless they have left."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Channel:
    """One model's way into the lane.

    Args:
        compute: a batch of rows to vectors; called by the lane's thread only.
        cost: how the model's batches are weighed.
        rate: cost computed per second, as far as known; learned from then on.
        model_id: for whoever is told of its batches.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Row]], Vectors],
        cost: Cost,
        *,
        rate: float,
        model_id: str = "",
    ) -> None:
        self.model_id = model_id
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
