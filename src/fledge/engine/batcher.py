"""Which rows are computed next: plain data, no tensors, no clock of its own.

The rules, each with its reason:

- A batch has a budget of cost, and whoever runs the batcher learns what fits the time that a batch
  should take. Large batches gain next to nothing on a CPU, and everybody waits for them.
- Like goes with like: attention pads to the longest row of a batch, so a batch takes rows of one
  band of lengths only.
- The request with the least left to do goes first, so that a query never waits for more than the
  batch that is running and one of bulk work. The request that was passed over most often, if
  `PATIENCE` times or more, goes first in every other batch, so that bulk work moves on under any
  number of queries, and many bulk requests move on together.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

BANDS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384)
"""Upper ends, in tokens. Below 64 attention is so small a part that padding costs nothing."""

PATIENCE = 3
"""Batches that may pass a request over before it goes first."""


def band_of(length: int) -> int:
    """The number of the band that a row of this length belongs to."""
    return bisect_left(BANDS, length)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a batch costs, in units of one token's matmuls.

    Attributes:
        per_cell: cost of one pair of tokens in the padded attention square.
    """

    per_cell: float

    def of(self, num_tokens: int, num_rows: int, width: int) -> float:
        """Cost of a batch of `num_rows` rows padded to `width`."""
        return num_tokens + self.per_cell * num_rows * width * width


@dataclass(eq=False, slots=True)
class Request:
    """One caller's rows, at least one, as far as the batcher is concerned.

    Attributes:
        priority: smaller goes first, before anything else is considered.
        bands: row numbers that wait, by band, the next one last. Owned by the batcher.
        tokens_left: what decides who goes first.
        passed_over: batches since the request last had a row in one.
    """

    lengths: Sequence[int]
    priority: int = 0
    bands: dict[int, list[int]] = field(init=False, default_factory=dict)
    tokens_left: int = field(init=False)
    passed_over: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if not self.lengths:
            raise ValueError("a request has at least one row")
        self.tokens_left = sum(self.lengths)
        # sorted, so that neighbours in a band are alike as well; the longest are taken first
        for row in sorted(range(len(self.lengths)), key=self.lengths.__getitem__):
            self.bands.setdefault(band_of(self.lengths[row]), []).append(row)


def _urgency(request: Request) -> tuple[int, int]:
    """The smaller, the sooner."""
    return request.priority, request.tokens_left


Picked = tuple[Request, int]
"""A request, and the number of one of its rows."""


class Batcher:
    """The waiting rows of one model."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self._requests: dict[Request, None] = {}  # in order of arrival
        self._last_urgency = (0, 0)  # of the request that led the last batch
        self.waiting_tokens = 0

    def __len__(self) -> int:
        """Requests with at least one waiting row."""
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        """The waiting requests, oldest first."""
        return iter(tuple(self._requests))

    def add(self, request: Request) -> None:
        """Let a request wait."""
        self._requests[request] = None
        self.waiting_tokens += request.tokens_left

    def remove(self, request: Request) -> None:
        """Take a request's waiting rows out; nothing happens when it has none."""
        if request in self._requests:
            del self._requests[request]
            self.waiting_tokens -= request.tokens_left

    def next_batch(self, budget: float) -> list[Picked]:
        """Take the rows of the next batch: at least one if any waits, else those that fit."""
        queue = self._queue()
        if not queue:
            return []
        band = max(queue[0].bands)
        batch: list[Picked] = []
        num_tokens = width = 0
        for request in queue:
            rows = request.bands.get(band)
            while rows:
                length = request.lengths[rows[-1]]
                wider = max(width, length)
                cost = self._cost.of(num_tokens + length, len(batch) + 1, wider)
                if batch and cost > budget:
                    self._taken(batch)
                    return batch
                num_tokens, width = num_tokens + length, wider
                batch.append((request, rows.pop()))
        self._taken(batch)
        return batch

    def _queue(self) -> list[Request]:
        """The requests, the one to be served first at the front.

        Whoever was passed over too often goes first, but not when the one with the least left has
        just waited for the batch of a larger request: it would wait for a second one.
        """
        queue = sorted(self._requests, key=_urgency)
        if not queue:
            return queue
        late = max(queue, key=lambda request: request.passed_over)
        has_waited = self._last_urgency > _urgency(queue[0])
        if late.passed_over >= PATIENCE and not has_waited:
            queue.remove(late)
            queue.insert(0, late)
        self._last_urgency = _urgency(queue[0])
        return queue

    def _taken(self, batch: Sequence[Picked]) -> None:
        """Bring the books up to date after a batch."""
        for request in self._requests:
            request.passed_over += 1
        for request, row in batch:
            request.passed_over = 0
            request.tokens_left -= request.lengths[row]
            self.waiting_tokens -= request.lengths[row]
            band = band_of(request.lengths[row])
            if not request.bands.get(band, True):
                del request.bands[band]
            if not request.bands:
                self._requests.pop(request, None)
