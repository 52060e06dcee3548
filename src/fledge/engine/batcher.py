"""Which rows are computed next: plain data, no tensors, no clock of its own.

The rules, each with its reason:

- A batch has a budget of cost, and whoever runs the batcher learns what fits the time that a batch
  should take. Large batches gain next to nothing on a CPU, and everybody waits for them.
- Like goes with like: attention pads to the longest row of a batch, so a batch takes rows of one
  band of lengths only.
- Tenants take turns. A batch is led by the tenant that would have been served the fewest tokens
  after it, so that none gets ahead by flooding, and one with little to do is served next. One that
  comes, or comes back, starts where it would be had all who wait been served at the same pace.
  (Weighted fair queueing with equal weights: Demers, Keshav and Shenker 1989; Parekh and Gallager
  1993. Its clock counts tokens.)
- Within a tenant, the request with the least left to do goes first, so that a query never waits
  for more than the batch that is running and one of bulk work. The request that was passed over
  most often, if `PATIENCE` times or more, goes first in every other batch of its tenant, so that
  bulk work moves on under any number of queries, and many bulk requests move on together.
- A smaller priority goes before all that, but a request of a larger one that was passed over by
  `PATIENCE` batches is served as such a late one.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import TypeAlias

BANDS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384)
"""Upper ends, in tokens. Below 64 attention is so small a part that padding costs nothing."""

PATIENCE = 3
"""Batches that may pass a request over before it goes first."""

LEAD = 4
"""Batches' worth of tokens by which a tenant may be ahead of the one that was served least, and
still fill up other tenants' batches. Without a limit, one whose rows fit into everybody's bands
would get most of the machine; without any lead, batches of mixed lengths would go half empty."""


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
        tenant: who asks; tenants take turns, and None is one as well.
        bands: row numbers that wait, by band, the next one last. Owned by the batcher.
        tokens_left: what decides who goes first within a tenant.
        passed_over: batches, of those that it could have led, since it last had a row in one.
    """

    lengths: Sequence[int]
    priority: int = 0
    tenant: str | None = None
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


Picked = tuple[Request, int]
"""A request, and the number of one of its rows."""

_Turns: TypeAlias = Sequence[Sequence[Request]]

_tokens_left = attrgetter("tokens_left")
_passed_over = attrgetter("passed_over")
_served = attrgetter("served")


def _urgency(request: Request) -> tuple[int, int]:
    """The smaller, the sooner."""
    return request.priority, request.tokens_left


@dataclass(eq=False, slots=True)
class _Flow:
    """One tenant's waiting requests of one priority.

    Attributes:
        served: tokens, on a scale that all flows of the priority share.
        waiting_tokens: of all its requests.
    """

    served: float
    requests: dict[Request, None] = field(default_factory=dict)  # in order of arrival
    waiting_tokens: int = 0

    def in_order(self) -> list[Request]:
        """Its requests, the one with the least left first."""
        return sorted(self.requests, key=_tokens_left)


@dataclass(eq=False, slots=True)
class _Level:
    """All flows of one priority.

    Attributes:
        pace: tokens that a flow would have been served that always waited, had all been served at
            the same pace; no less than what everybody who waits was served.
        share: of a batch's tokens, what each flow is due.
        least: tokens served to the flow that was served least.
    """

    flows: dict[str | None, _Flow] = field(default_factory=dict)
    pace: float = 0.0
    share: float = 1.0
    least: float = 0.0

    def enter(self, tenant: str | None) -> _Flow:
        """The tenant's flow. A new one starts at the pace: it has no claim to what it missed, and
        what it was ahead when it left, less than a batch's worth, is forgotten."""
        flow = self.flows.get(tenant)
        if flow is None:
            flow = self.flows[tenant] = _Flow(self.pace)
        return flow

    def serve(self, flow: _Flow, tokens: int) -> None:
        """Charge a flow for what it was given."""
        flow.served += tokens
        flow.waiting_tokens -= tokens
        self.pace += tokens * self.share

    def ranked(self, budget: float) -> list[_Flow]:
        """The flows, the one whose turn it is first."""
        flows = list(self.flows.values())
        self.share = 1 / len(flows)
        self.least = min(map(_served, flows))
        self.pace = max(self.pace, self.least)
        if len(flows) > 1:
            flows.sort(key=lambda flow: flow.served + min(budget, flow.waiting_tokens))
        return flows


class Batcher:
    """The waiting rows of one model."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self._requests: dict[Request, None] = {}  # in order of arrival
        self._levels: dict[int, _Level] = {}  # by priority; none of them is empty
        self._led: dict[str | None, tuple[int, int]] = {}  # urgency of who led a tenant's last one
        self._last_priority = 0  # of the request that led the last batch
        self.waiting_tokens = 0

    def __len__(self) -> int:
        """Requests with at least one waiting row."""
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        """The waiting requests, oldest first."""
        return iter(tuple(self._requests))

    def add(self, request: Request) -> None:
        """Let a request wait."""
        level = self._levels.get(request.priority)
        if level is None:
            level = self._levels[request.priority] = _Level()
        flow = level.enter(request.tenant)
        flow.requests[request] = None
        flow.waiting_tokens += request.tokens_left
        self._requests[request] = None
        self.waiting_tokens += request.tokens_left

    def remove(self, request: Request) -> None:
        """Take a request's waiting rows out; nothing happens when it has none."""
        if request in self._requests:
            flow = self._levels[request.priority].flows[request.tenant]
            flow.waiting_tokens -= request.tokens_left
            self.waiting_tokens -= request.tokens_left
            self._forget(request, flow)

    def waiting_by_tenant(self) -> Counter[str | None]:
        """Whose the waiting tokens are: everybody who waits."""
        waiting: Counter[str | None] = Counter()
        for level in self._levels.values():
            for tenant, flow in level.flows.items():
                waiting[tenant] += flow.waiting_tokens
        return waiting

    def next_batch(self, budget: float) -> list[Picked]:
        """Take the rows of the next batch: at least one if any waits, else those that fit."""
        if not self._requests:
            return []
        turns, leader, followers = self._queue(budget)
        band = max(leader.bands)
        batch: list[Picked] = []
        taken: list[tuple[Request, int]] = []  # and how many tokens
        num_tokens = width = 0
        is_full = False
        for request in chain((leader,), followers):
            rows = request.bands.get(band)
            rows_before, tokens_before = len(batch), num_tokens
            while rows:
                length = request.lengths[rows[-1]]
                wider = max(width, length)
                cost = self._cost.of(num_tokens + length, len(batch) + 1, wider)
                if batch and cost > budget:
                    is_full = True
                    break
                num_tokens, width = num_tokens + length, wider
                batch.append((request, rows.pop()))
            if len(batch) > rows_before:
                taken.append((request, num_tokens - tokens_before))
            if is_full:
                break
        self._account(taken, band, turns)
        return batch

    def _queue(self, budget: float) -> tuple[_Turns, Request, Iterable[Request]]:
        """The requests of the flows whose turn it is, one for each priority; who of them leads the
        batch; and all who may fill it up, the one to be served first at the front."""
        if len(self._requests) == 1:  # as often as not, and all the rest would change nothing
            (only,) = self._requests
            self._levels[only.priority].share = 1.0
            return ((only,),), only, ()
        levels = [self._levels[priority] for priority in sorted(self._levels)]
        ranked = [level.ranked(budget) for level in levels]
        turns = [flows[0].in_order() for flows in ranked]
        followers = _followers(zip(levels, ranked, turns, strict=True), budget)
        return turns, self._leader(turns), followers

    def _leader(self, turns: _Turns) -> Request:
        """Who is served first.

        Whoever was passed over too often goes first, but not when the one with the least left has
        just waited for the batch of a larger request, or of a larger priority: it would wait for a
        second one.
        """
        first = turns[0][0]
        late = max(chain.from_iterable(turns), key=_passed_over)
        led = self._led.get(first.tenant, (0, 0))
        has_waited = self._last_priority > first.priority or led > _urgency(first)
        leader = late if late.passed_over >= PATIENCE and not has_waited else first
        self._led[leader.tenant] = _urgency(leader)
        self._last_priority = leader.priority
        return leader

    def _account(self, taken: Iterable[tuple[Request, int]], band: int, turns: _Turns) -> None:
        """Bring the books up to date after a batch of a band, with so many tokens of each."""
        for turn in turns:
            for request in turn:
                request.passed_over += 1
        for request, tokens in taken:
            level = self._levels[request.priority]
            flow = level.flows[request.tenant]
            level.serve(flow, tokens)
            self.waiting_tokens -= tokens
            request.tokens_left -= tokens
            request.passed_over = 0
            if not request.bands[band]:
                del request.bands[band]
                if not request.bands:
                    self._forget(request, flow)

    def _forget(self, request: Request, flow: _Flow) -> None:
        """Nothing of it waits any more."""
        del self._requests[request]
        del flow.requests[request]
        if flow.requests:
            return
        priority, tenant = request.priority, request.tenant
        del self._levels[priority].flows[tenant]
        if not self._levels[priority].flows:
            del self._levels[priority]  # nobody waits whom anybody could be ahead of
        if not any(tenant in level.flows for level in self._levels.values()):
            self._led.pop(tenant, None)


def _followers(
    levels: Iterable[tuple[_Level, Sequence[_Flow], Sequence[Request]]], budget: float
) -> Iterator[Request]:
    """All requests, but of the flows that are too far ahead."""
    for level, flows, turn in levels:
        yield from turn
        for flow in flows[1:]:
            if flow.served <= level.least + LEAD * budget:
                yield from flow.in_order()
