"""What two callers want at once is computed once, and neither suffers from the other."""

import asyncio
from collections.abc import Sequence

import pytest

from fledge.cache.cache import Cache, Fetched
from fledge.cache.flights import JOINED_SIZE, Terms
from fledge.cache.memory import MemoryTier
from fledge.errors import (
    BackendUnavailable,
    ComputeError,
    DeadlineExceeded,
    FledgeError,
    InputTooLong,
    InvalidRequest,
    ModelLoading,
    Overloaded,
)
from fledge.types import EmbedResult, Timings
from tests.unit.cache.fakes import USUAL, FakeModel, FakeTier, key, pairs, settle

FRESH = Terms(is_fresh=True)
BULK = Terms(priority=1)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """A cache over one model, and requests that are under way."""

    def __init__(self, *tiers: FakeTier, memory: bool = True) -> None:
        self.model = FakeModel()
        self.cache = Cache(MemoryTier(2**20) if memory else None, tiers)

    async def begin(self, *texts: str, terms: Terms = USUAL) -> asyncio.Task[Fetched]:
        """A request, as far as it comes by itself."""
        task = asyncio.create_task(self.model.ask(self.cache, *texts, terms=terms))
        await settle()
        return task

    async def held(self, *texts: str, terms: Terms = USUAL) -> asyncio.Task[Fetched]:
        """A request that is being computed, until the model is released."""
        self.model.hold()
        return await self.begin(*texts, terms=terms)


async def cancel(task: asyncio.Task[Fetched]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_equal_texts_in_flight_are_computed_once() -> None:
    world = World()
    first = await world.held("a", "b")
    second = await world.begin("b", "a")
    world.model.release()
    assert (await first).origins == ["computed", "computed"]
    assert (await second).origins == ["joined", "joined"]
    assert world.model.jobs == [["a", "b"]]


@pytest.mark.parametrize("memory", [True, False])
async def test_a_hundred_requests_for_one_text_are_one_computation(memory: bool) -> None:
    world = World(memory=memory)
    world.model.hold()
    tasks = [await world.begin("a") for _ in range(100)]
    world.model.release()
    await asyncio.gather(*tasks)
    assert world.model.jobs == [["a"]]


async def test_only_what_nobody_computes_is_computed() -> None:
    world = World()
    first = await world.held("a", "b")
    second = await world.begin("b", "c", "b")
    third = await world.begin("d", "c", "a")
    world.model.release()
    assert (await second).origins == ["joined", "computed", "joined"]
    assert (await third).origins == ["computed", "joined", "joined"]
    assert (await first).origins == ["computed", "computed"]
    assert world.model.jobs == [["a", "b"], ["c"], ["d"]]


async def test_joining_begins_while_the_tiers_are_still_being_asked() -> None:
    tier = FakeTier("redis", "a")
    world = World(tier)
    tier.hold()
    first, second = await world.begin("a", "b"), await world.begin("a", "b")
    tier.release()
    assert (await first).origins == ["redis", "computed"]
    assert (await second).origins == ["redis", "joined"]
    assert tier.asked == [[key("a"), key("b")]]
    assert world.model.jobs == [["b"]]


async def test_what_a_tier_has_does_not_wait_for_what_is_computed_beside_it() -> None:
    tier = FakeTier("redis", "a")
    world = World(tier)
    tier.hold()
    world.model.hold()
    first, second = await world.begin("a", "b"), await world.begin("a")
    tier.release()
    assert (await second).origins == ["redis"]
    assert not first.done()
    world.model.release()
    await first


async def test_timings_are_those_of_all_that_was_computed_for_a_request() -> None:
    world = World()
    world.model.error = Overloaded("full", retry_after_s=1)
    first = await world.held("a")
    world.model.error = None
    second = await world.begin("a", "b", "c")
    world.model.release()
    with pytest.raises(Overloaded):
        await first
    assert (await second).result.timings == Timings(compute_ms=3)
    assert world.model.jobs == [["a"], ["b", "c"], ["a"]]


async def test_fresh_joins_nobody() -> None:
    world = World()
    first = await world.held("a")
    fresh, other = await world.begin("a", terms=FRESH), await world.begin("a", terms=FRESH)
    assert world.model.jobs == [["a"], ["a"], ["a"]]
    world.model.release()
    assert (await fresh).origins == (await other).origins == ["computed"]
    await first


async def test_who_leaves_does_not_stop_what_others_wait_for() -> None:
    world = World()
    first = await world.held("a", "b")
    second = await world.begin("b")
    await cancel(first)
    world.model.release()
    assert (await second).origins == ["joined"]
    assert (world.model.jobs, world.model.cancelled) == ([["a", "b"]], 0)


async def test_who_joined_may_leave_without_a_trace() -> None:
    world = World()
    first = await world.held("a")
    await cancel(await world.begin("a"))
    world.model.release()
    assert (await first).origins == ["computed"]
    assert world.model.cancelled == 0


async def test_when_all_have_left_the_computation_is_cancelled() -> None:
    world = World()
    first = await world.held("a")
    second = await world.begin("a")
    await cancel(second)
    await cancel(first)
    await settle()
    assert world.model.cancelled == 1


async def test_what_was_computed_after_its_owner_left_is_kept() -> None:
    world = World()
    first = await world.held("a", "b")
    second = await world.begin("b")
    await cancel(first)
    world.model.release()
    await second
    assert (await world.begin("a")).result().origins == ["memory"]


async def test_nobody_joins_what_is_being_given_up() -> None:
    world = World()
    first = await world.held("a")
    first.cancel()
    await asyncio.sleep(0)  # it has left; its computation has not been told yet
    second = await world.begin("a")
    world.model.release()
    assert (await second).origins == ["computed"]
    assert world.model.jobs == [["a"], ["a"]]


async def test_who_leaves_leaves_nothing_behind() -> None:
    world = World()
    await cancel(await world.held("a"))
    assert world.cache.in_flight_count == 0
    world.model.release()
    assert (await world.begin("a")).result().origins == ["computed"]


@pytest.mark.parametrize("error", [ComputeError("not finite"), BackendUnavailable("dead")])
async def test_a_failure_fails_all_who_joined_it(error: FledgeError) -> None:
    world = World()
    world.model.error = error
    first = await world.held("a", "b")
    second = await world.begin("b", "c")
    world.model.release()
    for task in (first, second):
        with pytest.raises(type(error)) as raised:
            await task
        assert raised.value is error
    assert world.model.jobs == [["a", "b"], ["c"]]
    world.model.error = None
    assert (await world.begin("b")).result().origins == ["computed"]


@pytest.mark.parametrize(
    "error",
    [
        DeadlineExceeded("its own"),
        InputTooLong("another text of its own", field="items[0]"),
        InvalidRequest("likewise"),
        Overloaded("too large to wait", retry_after_s=1),
        ModelLoading("m", estimated_time_s=1),
        TimeoutError(),
        asyncio.CancelledError(),
    ],
)
async def test_what_is_the_matter_with_one_request_is_not_told_to_those_who_joined(
    error: BaseException,
) -> None:
    world = World()
    world.model.error = error
    first = await world.held("a", "b")
    world.model.error = None
    others = [await world.begin("b"), await world.begin("b", "c")]
    world.model.release()
    with pytest.raises(type(error)):
        await first
    assert [(await other).result.token_counts for other in others] == [[1], [1, 1]]
    assert sorted(world.model.jobs) == [["a", "b"], ["b"], ["c"]]


async def test_requests_that_all_fail_by_themselves_are_all_told_so() -> None:
    world = World()
    world.model.error = Overloaded("full", retry_after_s=1)
    tasks = [await world.held("a") for _ in range(5)]
    world.model.release()
    for task in tasks:
        with pytest.raises(Overloaded):
            await task
    assert world.model.jobs == [["a"]] * 5


async def test_an_urgent_request_does_not_wait_for_bulk_work() -> None:
    world = World()
    bulk = await world.held("a", terms=BULK)
    urgent, other_bulk = await world.begin("a"), await world.begin("a", terms=BULK)
    assert world.model.jobs == [["a"], ["a"]]
    world.model.release()
    assert (await urgent).origins == ["computed"]
    assert (await other_bulk).origins == ["joined"]
    assert (await bulk).origins == ["computed"]


async def test_a_short_request_does_not_wait_for_a_very_long_one() -> None:
    world = World()
    long = await world.held(*map(str, range(JOINED_SIZE + 1)))
    short = await world.begin("7")
    also_short = await world.begin("7")
    as_long = await world.begin(*map(str, range(JOINED_SIZE + 1)))
    assert [len(job) for job in world.model.jobs] == [JOINED_SIZE + 1, 1]
    world.model.release()
    assert (await short).origins == ["computed"]
    assert (await also_short).origins == ["joined"]
    assert set((await as_long).origins) == {"joined"}
    assert set((await long).origins) == {"computed"}


async def test_one_keys_request_does_not_wait_behind_anothers_flood() -> None:
    world = World()
    flood = [
        await world.held(f"text {number}", terms=Terms(tenant="one"))
        for number in range(JOINED_SIZE + 1)
    ]
    other = await world.begin("text 0", terms=Terms(tenant="other"))
    same = await world.begin("text 0", terms=Terms(tenant="one"))
    world.model.release()
    assert (await other).origins == ["computed"]
    assert (await same).origins == ["joined"]
    await asyncio.gather(*flood)


async def test_keys_that_ask_for_little_share_what_they_both_want() -> None:
    world = World()
    one = await world.held("a", terms=Terms(tenant="one"))
    other = await world.begin("a", terms=Terms(tenant="other"))
    world.model.release()
    await one
    assert (await other).origins == ["joined"]
    assert world.model.jobs == [["a"]]


async def test_who_takes_cut_texts_is_not_failed_by_who_refuses_them() -> None:
    world = World(FakeTier("files", "long+"))
    world.model.error = InputTooLong("too long", field="items[0]")
    refusing = await world.held("long+", terms=Terms(refuses_cut=True))
    taking = await world.begin("long+")
    world.model.release()
    with pytest.raises(InputTooLong):
        await refusing
    assert (await taking).origins == ["files"]


async def test_who_refuses_cut_texts_does_not_get_one_by_joining() -> None:
    world = World()
    taking = await world.held("long+")
    world.model.error = InputTooLong("too long", field="items[0]")
    refusing = await world.begin("long+", terms=Terms(refuses_cut=True))
    world.model.release()
    assert (await taking).origins == ["computed"]
    with pytest.raises(InputTooLong):
        await refusing


async def test_a_mistaken_answer_fails_who_joined_too() -> None:
    world = World()
    may_go = asyncio.Event()

    async def compute(indices: Sequence[int]) -> EmbedResult:
        await may_go.wait()
        return EmbedResult(vectors=pairs("a")[0][1].vector, token_counts=[], truncated=[])

    first = asyncio.create_task(world.cache.fetch([key("a")], compute))
    await settle()
    second = await world.begin("a")
    may_go.set()
    for task in (first, second):
        with pytest.raises(ComputeError):
            await task


async def test_closing_gives_up_what_is_on_its_way() -> None:
    world = World()
    under_way = await world.held("a")
    hardly_begun = asyncio.create_task(world.model.ask(world.cache, "b"))
    await asyncio.sleep(0)
    await world.cache.aclose()
    for task in (under_way, hardly_begun):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_nothing_is_left_when_all_is_done() -> None:
    world, others = World(), len(asyncio.all_tasks())
    tasks = [await world.held("a", "b"), await world.begin("b", "c"), await world.begin("d")]
    world.model.release()
    await asyncio.gather(*tasks)
    await settle()
    assert world.cache.in_flight_count == 0
    assert len(asyncio.all_tasks()) == others


async def test_who_leaves_before_computing_leaves_that_to_those_who_joined() -> None:
    """A computation uses the model that its owner holds, and it is not held any more."""
    tier, owners, joiners = FakeTier(), FakeModel(), FakeModel()
    cache = Cache(None, [tier])
    tier.hold()
    owner = asyncio.create_task(owners.ask(cache, "a", "b"))
    await settle()
    joiner = asyncio.create_task(joiners.ask(cache, "b"))
    await settle()
    owner.cancel()
    await settle()
    tier.release()
    assert (await joiner).origins == ["computed"]
    assert (owners.jobs, joiners.jobs) == ([], [["b"]])
    assert cache.in_flight_count == 0
