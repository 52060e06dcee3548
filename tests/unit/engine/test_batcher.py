"""Which rows are computed next: nothing lost, nothing late, nobody starved."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.engine.batcher import BANDS, PATIENCE, Batcher, Cost, Picked, Request, band_of

COST = Cost(per_cell=0.001)
LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=30)
BUDGETS = st.floats(1, 3000)
QUERY, BULK = 10, 500


def cost_of(batch: Sequence[Picked], cost: Cost = COST) -> float:
    lengths = lengths_of(batch)
    return cost.of(sum(lengths), len(lengths), max(lengths))


def lengths_of(batch: Sequence[Picked]) -> list[int]:
    return [request.lengths[row] for request, row in batch]


def drained(batcher: Batcher, budget: float = 1000) -> list[list[Picked]]:
    batches = []
    while batch := batcher.next_batch(budget):
        batches.append(batch)
    return batches


def filled(*requests: Request) -> Batcher:
    batcher = Batcher(COST)
    for request in requests:
        batcher.add(request)
    return batcher


@given(st.lists(LENGTHS, max_size=8), BUDGETS, st.floats(0, 0.1))
def test_every_row_comes_out_once_in_batches_of_one_band_within_the_budget(
    all_lengths: list[list[int]], budget: float, per_cell: float
) -> None:
    cost = Cost(per_cell)
    batcher = Batcher(cost)
    requests = [Request(lengths) for lengths in all_lengths]
    for request in requests:
        batcher.add(request)
    batches = drained(batcher, budget)
    picked = [pair for batch in batches for pair in batch]
    assert len(picked) == len(set(picked))
    assert set(picked) == {(one, row) for one in requests for row in range(len(one.lengths))}
    for batch in batches:
        assert len(batch) == 1 or cost_of(batch, cost) <= budget
        assert len({band_of(length) for length in lengths_of(batch)}) == 1
    assert len(batcher) == batcher.waiting_tokens == 0


@given(LENGTHS, LENGTHS, BUDGETS)
def test_rows_of_one_request_stand_together_in_a_batch(
    first: list[int], second: list[int], budget: float
) -> None:
    for batch in drained(filled(Request(first), Request(second)), budget):
        owners = [request for request, _ in batch]
        assert sum(a is not b for a, b in pairwise(owners)) <= 1


@dataclass(frozen=True)
class Add:
    lengths: list[int]
    priority: int = 0


@dataclass(frozen=True)
class Take:
    budget: float


@dataclass(frozen=True)
class Remove:
    index: int


STEPS = st.lists(
    st.one_of(
        st.builds(Add, LENGTHS, st.integers(0, 1)),
        st.builds(Take, BUDGETS),
        st.builds(Remove, st.integers(0, 9)),
    ),
    max_size=40,
)


@given(STEPS)
def test_waiting_tokens_are_always_the_sum_of_the_rows_that_wait(
    steps: list[Add | Take | Remove],
) -> None:
    batcher = Batcher(COST)
    waiting: dict[Request, set[int]] = {}
    for step in steps:
        if isinstance(step, Add):
            request = Request(step.lengths, step.priority)
            waiting[request] = set(range(len(step.lengths)))
            batcher.add(request)
        elif isinstance(step, Take):
            for request, row in batcher.next_batch(step.budget):
                waiting[request].remove(row)
        elif step.index < len(waiting):
            request = list(waiting)[step.index]
            waiting[request].clear()
            batcher.remove(request)
        waiting = {request: rows for request, rows in waiting.items() if rows}
        left = {one: sum(one.lengths[row] for row in rows) for one, rows in waiting.items()}
        assert list(batcher) == list(waiting)
        assert {one: one.tokens_left for one in batcher} == left
        assert batcher.waiting_tokens == sum(left.values())


def test_the_request_with_the_least_left_goes_first_however_long_it_was() -> None:
    nearly_done = Request([BULK] * 8)
    batcher = filled(nearly_done)
    for _ in range(7):
        batcher.next_batch(BULK)
    batcher.add(Request([BULK, BULK]))
    assert batcher.next_batch(BULK)[0][0] is nearly_done


def test_among_equals_the_one_that_came_first_goes_first() -> None:
    first, second = Request([QUERY]), Request([QUERY])
    assert [one for one, _ in filled(first, second).next_batch(1000)] == [first, second]


def test_priority_counts_before_size() -> None:
    large, small = Request([BULK] * 2, priority=0), Request([QUERY], priority=1)
    assert filled(small, large).next_batch(BULK)[0][0] is large


def test_a_batch_is_filled_with_rows_of_other_requests_of_the_same_band() -> None:
    queries = [Request([QUERY]) for _ in range(5)]
    assert [one for one, _ in filled(*queries).next_batch(1000)] == queries


def test_rows_of_another_band_wait_for_their_own_batch() -> None:
    short, long = Request([QUERY]), Request([BULK])
    batches = drained(filled(short, long))
    assert [[one for one, _ in batch] for batch in batches] == [[short], [long]]


def test_a_row_beyond_every_budget_is_computed_alone() -> None:
    batcher = filled(Request([4000, 4000]))
    assert [len(batch) for batch in drained(batcher, 1)] == [1, 1]


def test_a_removed_request_takes_its_tokens_out() -> None:
    stays, goes = Request([QUERY]), Request([BULK] * 3)
    batcher = filled(stays, goes)
    batcher.remove(goes)
    batcher.remove(goes)
    assert batcher.waiting_tokens == QUERY
    assert drained(batcher) == [[(stays, 0)]]
    batcher.remove(stays)
    assert batcher.waiting_tokens == 0


def test_a_request_without_rows_is_refused_before_it_can_wait_for_ever() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Request([])


@pytest.mark.parametrize("end", BANDS)
def test_a_band_ends_with_its_own_length(end: int) -> None:
    assert band_of(end - 1) == band_of(end) == band_of(end + 1) - 1


ARRIVALS = st.lists(st.lists(st.builds(Add, LENGTHS, st.integers(0, 1)), max_size=3), max_size=30)


@given(ARRIVALS, st.integers(0, 30), st.floats(QUERY, 2000))
def test_a_query_never_waits_for_two_bulk_batches_in_a_row(
    arrivals: list[list[Add]], moment: int, budget: float
) -> None:
    """Whatever waits and whatever arrives; the batch that runs when it arrives counts, too."""
    batcher = Batcher(COST)
    query = Request([QUERY])
    is_bulk = [False]
    for now, adds in enumerate([*arrivals, *([[]] * 2000)]):
        for add in adds:
            batcher.add(Request(add.lengths, add.priority))
        if now == min(moment, len(arrivals)):
            batcher.add(query)
        before = {one: one.tokens_left for one in batcher}
        batch = batcher.next_batch(budget)
        if any(request is query for request, _ in batch):
            break
        is_bulk.append(bool(batch) and before[batch[0][0]] > budget)
        if query in before:
            assert not (is_bulk[-1] and is_bulk[-2])
    assert query not in list(batcher)


@pytest.mark.parametrize("bulk", [[BULK], [BULK, BULK + 100], [BULK, BULK + 100, 800, 1000]])
def test_a_query_waits_for_one_bulk_batch_at_most_the_running_one_included(bulk: list[int]) -> None:
    batcher = filled(*(Request([length] * 1000) for length in bulk))
    running = batcher.next_batch(BULK)
    waits = []
    for _ in range(100):
        query = Request([QUERY])
        batcher.add(query)  # it arrives while `running` is computed
        waits.append(0)
        while all(request is not query for request, _ in running):
            waits[-1] += len(running[0][0].lengths) > 1
            running = batcher.next_batch(BULK)
    assert set(waits) == {0, 1}


@given(st.lists(LENGTHS, min_size=1, max_size=6), st.integers(1, 3), BUDGETS)
def test_nothing_starves_under_an_endless_stream_of_queries(
    bulk: list[list[int]], queries: int, budget: float
) -> None:
    """Every other batch is for whoever was passed over most often: nobody can come in between."""
    batcher = filled(*(Request(lengths) for lengths in bulk))
    bounds: dict[Request, int] = {}
    for now in range(200):
        for _ in range(queries):
            batcher.add(Request([1]))
        waiting = list(batcher)
        served = {request for request, _ in batcher.next_batch(budget)}
        for request in waiting:
            if request in served or request not in bounds:
                bounds[request] = now + PATIENCE + 2 * (len(waiting) + queries)
            assert now <= bounds[request]


def test_several_bulk_requests_move_on_together_beside_queries() -> None:
    """The oldest one alone would keep all others waiting until it is done."""
    bulk = [Request([length] * 1000) for length in (300, 400, 600, 900)]
    batcher = filled(*bulk)
    for _ in range(100):
        batcher.add(Request([QUERY]))
        batcher.next_batch(1000)
    assert all(one.tokens_left < sum(one.lengths) for one in bulk)


def test_after_a_late_turn_comes_one_for_those_with_the_least_left() -> None:
    first, second = Request([BULK] * 9), Request([BULK + 100] * 9)
    batcher = filled(first, second)
    leaders = []
    for _ in range(20):
        batcher.add(Request([QUERY]))
        leaders.append(batcher.next_batch(BULK)[0][0])
    is_bulk = [leader in (first, second) for leader in leaders]
    assert any(is_bulk)
    assert not any(a and b for a, b in pairwise(is_bulk))
