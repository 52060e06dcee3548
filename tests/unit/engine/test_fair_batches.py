"""Tenants take turns: nobody's flood starves another, and alone everything is as it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.engine.batcher import LEAD, Batcher, Cost, Picked, Request
from tests.unit.engine.one_tenant import OneTenantBatcher

COST = Cost(per_cell=0.001)
LONGEST = 600
LENGTHS = st.lists(st.integers(1, LONGEST), min_size=1, max_size=30)
BUDGETS = st.floats(64, 3000)
QUERY, BULK = 10, 500


def served(batch: Sequence[Picked]) -> dict[str | None, int]:
    """Tokens of a batch, by tenant."""
    tokens: dict[str | None, int] = {}
    for request, row in batch:
        tokens[request.tenant] = tokens.get(request.tenant, 0) + request.lengths[row]
    return tokens


def filled(*requests: Request) -> Batcher:
    batcher = Batcher(COST)
    for request in requests:
        batcher.add(request)
    return batcher


@dataclass(frozen=True)
class Add:
    lengths: list[int]
    priority: int = 0
    tenant: str | None = None


@dataclass(frozen=True)
class Take:
    budget: float


@dataclass(frozen=True)
class Remove:
    index: int


TENANTS = st.sampled_from([None, "a", "b", "c"])
ANYTHING = st.lists(
    st.one_of(
        st.builds(Add, LENGTHS, st.integers(0, 2)),
        st.builds(Add, st.lists(st.integers(1, LONGEST), min_size=1, max_size=2)),
        st.builds(Take, st.floats(1, 3000)),
        st.builds(Take, st.floats(1, 3000)),
        st.builds(Remove, st.integers(0, 20)),
    ),
    max_size=80,
)
SHORT = st.builds(Add, st.just([QUERY]), st.integers(0, 1))
LONG = st.builds(
    Add, st.integers(300, LONGEST).map(lambda length: [length] * 20), st.integers(0, 1)
)
MIXED = st.lists(
    st.one_of(SHORT, SHORT, SHORT, LONG, *[st.just(Take(BULK))] * 4), min_size=20, max_size=120
)
"""Where lateness counts."""


@given(st.one_of(ANYTHING, MIXED), TENANTS)
def test_the_batches_of_one_tenant_are_what_they_were_before_tenants_took_turns(
    steps: list[Add | Take | Remove], tenant: str | None
) -> None:
    now, before = Batcher(COST), OneTenantBatcher(COST)
    pairs: list[tuple[Request, Request]] = []
    for step in steps:
        if isinstance(step, Add):
            pairs.append((Request(step.lengths, step.priority, tenant), _twin(step)))
            now.add(pairs[-1][0])
            before.add(pairs[-1][1])
        elif isinstance(step, Remove):
            for own, twin in pairs[step.index : step.index + 1]:
                now.remove(own)
                before.remove(twin)
        else:
            twins = dict(pairs)
            batch = [(twins[own], row) for own, row in now.next_batch(step.budget)]
            assert batch == before.next_batch(step.budget)


def _twin(step: Add) -> Request:
    return Request(step.lengths, step.priority)


HISTORY = st.lists(
    st.one_of(
        st.builds(Add, LENGTHS, st.just(0), st.sampled_from("abcdefgh")),
        st.builds(Take, BUDGETS),
        st.builds(Take, BUDGETS),
    ),
    max_size=60,
)


def after(history: list[Add | Take]) -> Batcher:
    batcher = Batcher(COST)
    for step in history:
        if isinstance(step, Add):
            batcher.add(Request(step.lengths, step.priority, step.tenant))
        else:
            batcher.next_batch(step.budget)
    return batcher


@given(HISTORY, st.lists(LENGTHS, min_size=2, max_size=4), BUDGETS, st.integers(0, 5))
def test_tenants_who_always_wait_are_served_alike(
    history: list[Add | Take], shapes: list[list[int]], budget: float, every: int
) -> None:
    """Whoever else was there before or comes meanwhile, and whatever the shapes of the requests."""
    batcher = after(history)
    tenants = {f"always {n}": shape for n, shape in enumerate(shapes)}
    totals = dict.fromkeys(tenants, 0)
    for now in range(80):
        for tenant, shape in tenants.items():
            while batcher.waiting_by_tenant()[tenant] < 2 * budget + LONGEST:
                batcher.add(Request(shape, tenant=tenant))
        if every and now % every == 0:
            batcher.add(Request([QUERY], tenant="abcdefgh"[now // every % 8]))
        for one, tokens in served(batcher.next_batch(budget)).items():
            if one in totals:
                totals[str(one)] += tokens
        assert max(totals.values()) - min(totals.values()) <= (LEAD + 2) * budget + 2 * LONGEST


def test_tenants_with_equal_work_lead_in_turn() -> None:
    batcher = filled(*(Request([BULK] * 100, tenant=tenant) for tenant in "abc"))
    leaders = [batcher.next_batch(BULK)[0][0].tenant for _ in range(30)]
    for turn in range(0, 30, 3):
        assert sorted(filter(None, leaders[turn : turn + 3])) == list("abc")


FLOOD = st.lists(st.builds(Add, LENGTHS, st.just(0), st.just("flood")), min_size=1, max_size=5)


@given(FLOOD, st.integers(0, 30), st.lists(st.integers(0, 5), min_size=1, max_size=12), BUDGETS)
def test_a_short_request_of_a_quiet_tenant_is_in_the_next_batch_or_the_one_after(
    flood: list[Add], before: int, pauses: list[int], budget: float
) -> None:
    """However long the flood has run, however often the quiet one came before."""
    batcher = Batcher(COST)

    def batch() -> Sequence[Picked]:
        for add in flood:
            batcher.add(Request(add.lengths, tenant="flood"))
        return batcher.next_batch(budget)

    for _ in range(before):
        batch()
    for pause in pauses:
        query = Request([QUERY], tenant="quiet")
        batcher.add(query)
        assert any((query, 0) in batch() for _ in range(2))
        for _ in range(pause):
            batch()


@pytest.mark.parametrize("floods", [1, 5, 50])
def test_a_quiet_tenant_does_not_wait_for_every_flood_in_turn(floods: int) -> None:
    batcher = filled(*(Request([BULK] * 1000, tenant=f"flood {n}") for n in range(floods)))
    waits = []
    for _ in range(200):
        query = Request([QUERY], tenant="quiet")
        batcher.add(query)
        waits.append(0)
        while (query, 0) not in batcher.next_batch(BULK):
            waits[-1] += 1
    assert sum(wait <= 1 for wait in waits) >= 0.95 * len(waits)
    assert max(waits) <= floods


@pytest.mark.parametrize("bulks", [1, 3])
def test_nothing_starves_under_an_endless_stream_of_tenants_who_were_never_here(
    bulks: int,
) -> None:
    batcher = filled(*(Request([BULK] * 1000, tenant=f"bulk {n}") for n in range(bulks)))
    totals: dict[str | None, int] = {}
    for now in range(600 * (bulks + 1)):
        batcher.add(Request([QUERY], tenant=f"query {now}"))
        for tenant, tokens in served(batcher.next_batch(BULK)).items():
            name = "queries" if tenant and tenant.startswith("query") else tenant
            totals[name] = totals.get(name, 0) + tokens
    queries = totals.pop("queries")
    assert len(totals) == bulks
    assert max(totals.values()) - min(totals.values()) <= BULK
    assert min(totals.values()) >= queries / 2


@pytest.mark.parametrize("length", [50, 100, BULK])
def test_a_tenant_that_comes_back_again_and_again_gets_no_more_than_those_who_stay(
    length: int,
) -> None:
    """What it was ahead when it left is forgotten, but that does not add up."""
    batcher = filled(*(Request([BULK] * 2000, tenant=f"stays {n}") for n in range(6)))
    totals: dict[str | None, int] = {}
    for _ in range(3000):
        if not batcher.waiting_by_tenant()["comes back"]:
            batcher.add(Request([length], tenant="comes back"))
        for tenant, tokens in served(batcher.next_batch(BULK)).items():
            totals[tenant] = totals.get(tenant, 0) + tokens
    assert max(totals.values()) - min(totals.values()) <= len(totals) * BULK


def test_who_comes_after_many_visitors_gets_no_more_than_one_who_was_there() -> None:
    """Visitors lead batches that the flood fills up; that must not leave the newcomer behind it."""
    batcher = filled(*(Request([QUERY], tenant="flood") for _ in range(30_000)))
    for number in range(300):
        batcher.add(Request([QUERY], tenant=f"visitor {number % 3}"))
        batcher.next_batch(BULK)
        batcher.next_batch(BULK)
    for _ in range(3000):
        batcher.add(Request([QUERY], tenant="newcomer"))
    totals = {"flood": 0, "newcomer": 0}
    for _ in range(20):
        for tenant, tokens in served(batcher.next_batch(BULK)).items():
            totals[str(tenant)] += tokens
    assert abs(totals["flood"] - totals["newcomer"]) <= 2 * BULK


def test_having_been_away_for_long_gives_no_claim_to_what_was_missed() -> None:
    batcher = filled(Request([BULK] * 1000, tenant="stays"), Request([BULK], tenant="away"))
    for _ in range(200):
        batcher.next_batch(BULK)
    batcher.add(Request([BULK] * 1000, tenant="away"))
    totals = {"stays": 0, "away": 0}
    for _ in range(20):
        for tenant, tokens in served(batcher.next_batch(BULK)).items():
            totals[str(tenant)] += tokens
    assert totals == {"stays": 10 * BULK, "away": 10 * BULK}


def test_what_a_tenant_leaves_of_a_batch_is_filled_with_rows_of_others() -> None:
    quiet = Request([QUERY], tenant="quiet")
    batcher = filled(*(Request([QUERY], tenant="flood") for _ in range(200)), quiet)
    batch = batcher.next_batch(10 * QUERY)
    assert batch[0] == (quiet, 0)
    assert len(batch) > 8


def test_one_whose_rows_fit_everywhere_does_not_get_ahead_for_ever() -> None:
    """One tenant has a row of each band at a time, the other has plenty of all."""
    lengths = [60, 90, 120]
    batcher = filled(Request([*lengths] * 1000, tenant="plenty"))
    totals = {"plenty": 0, "single rows": 0}
    for _ in range(500):
        if batcher.waiting_by_tenant()["single rows"] < 200:
            batcher.add(Request(lengths, tenant="single rows"))
        for tenant, tokens in served(batcher.next_batch(1000)).items():
            totals[str(tenant)] += tokens
    assert totals["plenty"] - totals["single rows"] <= (LEAD + 1) * 1000


def test_a_tenants_own_bulk_work_moves_on_beside_its_queries_and_other_tenants() -> None:
    bulk = Request([BULK] * 1000, tenant="mixed")
    batcher = filled(bulk, Request([BULK] * 1000, tenant="other"))
    for _ in range(100):
        batcher.add(Request([QUERY], tenant="mixed"))
        batcher.next_batch(BULK)
    assert bulk.tokens_left < sum(bulk.lengths) - 5 * BULK


def test_bulk_of_a_larger_priority_moves_on_beside_other_tenants_and_never_twice_in_a_row() -> None:
    tenants = ("one", "one", "one", "other")
    bulks = [Request([BULK] * 1000, priority=1, tenant=tenant) for tenant in tenants]
    batcher = filled(*bulks)
    priorities = []
    for _ in range(100):
        batcher.add(Request([QUERY], tenant="queries"))
        priorities.append(batcher.next_batch(BULK)[0][0].priority)
    assert all(one.tokens_left < sum(one.lengths) for one in bulks)
    assert (1, 1) not in pairwise(priorities)


def test_tenants_of_a_larger_priority_take_turns_among_themselves() -> None:
    bulks = [Request([BULK] * 1000, priority=1, tenant=f"bulk {n}") for n in range(3)]
    batcher = filled(*bulks)
    for _ in range(300):
        batcher.add(Request([QUERY], tenant="queries"))
        batcher.next_batch(BULK)
    left = [one.tokens_left for one in bulks]
    assert max(left) - min(left) <= BULK


@given(HISTORY)
def test_waiting_tokens_are_known_by_tenant(history: list[Add | Take]) -> None:
    batcher = after(history)
    waiting: dict[str | None, int] = {}
    for request in batcher:
        waiting[request.tenant] = waiting.get(request.tenant, 0) + request.tokens_left
    assert batcher.waiting_by_tenant() == waiting


def test_nothing_is_kept_of_tenants_who_left() -> None:
    batcher = filled(Request([BULK] * 1000, tenant="stays"))
    for now in range(1000):
        batcher.add(Request([QUERY, QUERY], tenant=f"tenant {now}"))
        batcher.next_batch(BULK)
    assert len(batcher._led) <= len(batcher.waiting_by_tenant()) <= 3
