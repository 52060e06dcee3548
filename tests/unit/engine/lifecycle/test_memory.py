"""The budget: who leaves for whom, who never does, and that nobody waits for ever."""

import asyncio

import pytest

from fledge.engine.lifecycle.builder import DOWNLOADS, LOOKUPS
from fledge.errors import OutOfMemory
from tests.unit.engine.lifecycle.fakes import (
    FIND,
    MB,
    UNLOAD,
    Holding,
    Size,
    World,
    entry,
    held,
    settle,
    until,
)

pytestmark = pytest.mark.anyio


async def test_the_least_recently_used_idle_model_leaves_first_and_then_the_next() -> None:
    world = World(budget_bytes=30 * MB)
    await world.touch("a", "b", "c", "a")
    await world.touch("d")
    assert world.loader.closed == ["b"]
    world.loader.sizes["big"] = Size(needed=20 * MB)
    await world.touch("big")
    assert world.loader.closed == ["b", "c", "a"]
    assert world.lifecycle.charged_bytes == 30 * MB


async def test_no_more_models_leave_than_must() -> None:
    world = World(budget_bytes=30 * MB)
    await world.touch("a", "b")
    world.aside.hold(UNLOAD)
    world.loader.sizes["c"] = Size(needed=20 * MB)
    waiting = Holding(world, "c")
    await settle()
    assert world.aside.waiting(UNLOAD) == 1
    assert world.state("b") == "warm"
    world.aside.let_go(UNLOAD)
    await settle()
    assert waiting.is_in
    await waiting.let_go()


async def test_a_model_is_not_built_before_those_that_left_for_it_are_closed() -> None:
    world = World(budget_bytes=10 * MB)
    await world.touch("a")
    world.aside.hold(UNLOAD)
    waiting = Holding(world, "b")
    await settle()
    assert world.loader.loaded == ["a"]
    assert world.lifecycle.status(entry("b")).stage == "waiting"
    world.aside.let_go(UNLOAD)
    await settle()
    assert world.loader.loaded == ["a", "b"]
    await waiting.let_go()


async def test_a_model_in_use_never_leaves_and_a_load_waits_for_it() -> None:
    world = World(budget_bytes=20 * MB)
    a, b = await held(world, "a"), await held(world, "b")
    waiting = Holding(world, "c")
    await settle()
    assert not waiting.is_in
    assert world.lifecycle.status(entry("c")).stage == "waiting"
    await b.let_go()
    await settle()
    assert waiting.is_in
    assert world.loader.closed == ["b"]
    await a.let_go()
    await waiting.let_go()


async def test_an_idle_model_leaves_before_one_in_use_that_was_used_longer_ago() -> None:
    world = World(budget_bytes=20 * MB)
    a = await held(world, "a")
    await world.touch("b", "c")
    assert world.loader.closed == ["b"]
    await a.let_go()


async def test_an_idle_model_leaves_before_one_in_use_also_when_the_fair_time_is_over() -> None:
    world = World(budget_bytes=20 * MB, fair_wait_s=0.0)
    a = await held(world, "a")
    await world.touch("b", "c")
    assert world.loader.closed == ["b"]
    assert world.state("a") == "warm"
    await a.let_go()


async def test_after_a_fair_time_a_model_that_is_never_idle_takes_no_new_users_and_leaves() -> None:
    world = World(budget_bytes=20 * MB, fair_wait_s=0.01)
    first = await held(world, "a")
    await world.touch("b")
    b = await held(world, "b")
    waiting = Holding(world, "big")
    world.loader.sizes["big"] = Size(needed=20 * MB)
    await until(lambda: world.state("b") == "cold")
    newcomer = Holding(world, "a")  # it was used longer ago, so it has to leave as well
    await settle()
    assert first.is_in
    assert b.is_in
    assert not newcomer.is_in
    assert not world.loader.closed
    await first.let_go()
    await b.let_go()
    await settle()
    assert waiting.is_in
    await waiting.let_go()
    await settle()
    assert newcomer.is_in  # its own load, after the one that was before it
    assert world.loader.loaded == ["a", "b", "big", "a"]
    await newcomer.let_go()


async def test_only_as_many_models_in_use_must_leave_as_are_needed() -> None:
    world = World(budget_bytes=30 * MB, fair_wait_s=0.01)
    users = [await held(world, name) for name in "abc"]
    waiting = Holding(world, "d")
    await until(lambda: world.state("a") == "cold")
    await settle()
    assert [world.state(name) for name in "abc"] == ["cold", "warm", "warm"]
    for one in users:
        await one.let_go()
    await settle()
    assert world.loader.closed == ["a"]
    await waiting.let_go()


async def test_of_models_in_use_the_one_whose_last_user_came_longest_ago_must_leave() -> None:
    world = World(budget_bytes=20 * MB, fair_wait_s=0.0)
    users = [await held(world, name) for name in "aba"]
    waiting = Holding(world, "c")
    await settle()
    assert (world.state("a"), world.state("b")) == ("warm", "cold")
    for one in users:
        await one.let_go()
    await settle()
    await waiting.let_go()


async def test_two_models_that_do_not_fit_together_take_turns_under_constant_use() -> None:
    world = World(budget_bytes=10 * MB, fair_wait_s=0.001)
    served = {"a": 0, "b": 0}

    async def ask(name: str) -> None:
        while min(served.values()) < 20:
            async with world.use(name):
                served[name] += 1
                await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*(ask(name) for name in "ab" * 5)), 30)
    assert world.loader.loaded.count("a") > 1


async def test_a_model_that_can_never_fit_is_refused_at_once_with_both_numbers() -> None:
    world = World(budget_bytes=30 * MB)
    await world.touch("a")
    world.loader.sizes["big"] = Size(needed=1_300 * MB)
    with pytest.raises(OutOfMemory) as error:
        await world.touch("big")
    assert str(error.value) == (
        "big needs 1.3 GB of memory, and models may take 30.0 MB (memory_budget_bytes)"
    )
    assert error.value.retry_after_s == 60
    with pytest.raises(OutOfMemory):
        async with world.use("big", patience_s=0):
            pass
    assert world.loader.found == ["a", "big"]
    assert world.loader.tried == ["a"]
    assert world.state("a") == "warm"


async def test_a_guess_by_the_number_of_parameters_refuses_nobody() -> None:
    world = World(budget_bytes=30 * MB)
    world.loader.sizes["multilingual"] = Size(estimate=1_160 * MB, needed=20 * MB)
    await world.touch("multilingual")
    assert world.state("multilingual") == "warm"


@pytest.mark.parametrize("room_is_made", ["by unpinning", "by unloading"])
async def test_a_refusal_for_want_of_room_is_forgotten_when_there_is_room(
    room_is_made: str,
) -> None:
    world = World(budget_bytes=30 * MB, pinned=frozenset({"a"}))
    await world.touch("a")
    world.loader.sizes["big"] = Size(needed=25 * MB)
    for _ in range(2):
        with pytest.raises(OutOfMemory):
            await world.touch("big")
    assert world.loader.found == ["a", "big"]  # remembered for as long as it is so
    if room_is_made == "by unpinning":
        world.lifecycle.pin(entry("a"), is_pinned=False)
    else:
        await world.lifecycle.unload(entry("a"))
    await world.touch("big")
    assert world.state("big") == "warm"


async def test_it_is_refused_before_a_download_where_the_hub_tells_its_size() -> None:
    world = World(budget_bytes=30 * MB)
    world.loader.away.add("big")
    world.loader.sizes["big"] = Size(needed=40 * MB)
    with pytest.raises(OutOfMemory, match=r"at least 40\.0 MB.*30\.0 MB"):
        await world.touch("big")
    assert world.loader.found == []
    assert world.lifecycle.status(entry("big")).failure == "out_of_memory"


async def test_it_is_refused_at_once_also_while_others_are_being_downloaded() -> None:
    world = World(budget_bytes=30 * MB)
    names = [f"m{number}" for number in range(DOWNLOADS)]
    world.loader.away.update([*names, "big"])
    world.loader.sizes["big"] = Size(needed=40 * MB)
    world.aside.hold(FIND)
    waiting = [Holding(world, name) for name in names]
    await settle()
    for _ in names:
        world.aside.let_one_go(FIND)
    big = Holding(world, "big")
    await settle()
    assert world.aside.waiting(FIND) == DOWNLOADS + 1
    world.aside.let_one_go(FIND, -1)
    with pytest.raises(OutOfMemory):
        await big.task
    for one in waiting:
        one.task.cancel()


async def test_pinned_models_in_memory_are_not_there_for_others_and_the_refusal_names_them() -> (
    None
):
    world = World(budget_bytes=30 * MB, pinned=frozenset({"a", "cold"}))
    await world.touch("a", "b")
    world.loader.sizes["big"] = Size(needed=25 * MB)
    with pytest.raises(OutOfMemory, match=r"25\.0 MB.*30\.0 MB.*pinned ones keep 10\.0 MB.*\(a\)"):
        await world.touch("big")
    assert world.loader.closed == []
    world.loader.sizes["fits"] = Size(needed=20 * MB)
    await world.touch("fits")
    assert world.loader.closed == ["b"]


async def test_a_load_that_waits_is_refused_when_what_it_waits_for_is_pinned() -> None:
    world = World(budget_bytes=10 * MB)
    a = await held(world, "a")
    waiting = Holding(world, "b")
    await settle()
    world.lifecycle.pin(entry("a"), is_pinned=True)
    with pytest.raises(OutOfMemory, match="pinned ones keep"):
        await waiting.task
    await a.let_go()


async def test_a_load_that_waits_goes_on_when_a_model_is_unpinned() -> None:
    world = World(budget_bytes=20 * MB, pinned=frozenset({"a"}))
    await world.touch("a")
    b = await held(world, "b")
    waiting = Holding(world, "c")
    await settle()
    assert not waiting.is_in
    world.lifecycle.pin(entry("a"), is_pinned=False)
    await settle()
    assert waiting.is_in
    assert world.loader.closed == ["a"]
    await b.let_go()
    await waiting.let_go()


async def test_two_loads_that_wait_for_the_same_room_both_get_it() -> None:
    world = World(budget_bytes=10 * MB)
    a = await held(world, "a")
    b, c = Holding(world, "b"), Holding(world, "c")
    await settle()
    await a.let_go()
    await settle()
    assert (b.is_in, c.is_in) == (True, False)
    await b.let_go()
    await settle()
    assert c.is_in
    await c.let_go()


async def test_what_was_measured_replaces_the_estimate() -> None:
    world = World(budget_bytes=30 * MB)
    world.loader.sizes["a"] = Size(needed=20 * MB, taken=12 * MB)
    await world.touch("a")
    assert world.lifecycle.charged_bytes == 12 * MB
    await world.touch("b")
    assert world.loader.closed == []


async def test_a_measure_that_is_far_too_small_does_not() -> None:
    world = World(budget_bytes=30 * MB)
    world.loader.sizes["a"] = Size(needed=20 * MB, taken=9 * MB)
    await world.touch("a")
    assert world.lifecycle.charged_bytes == 20 * MB


async def test_a_measure_that_has_the_work_of_others_in_it_is_not_believed_whole() -> None:
    world = World(budget_bytes=1000 * MB)
    world.loader.sizes["a"] = Size(needed=100 * MB, taken=900 * MB)
    await world.touch("a")
    assert world.lifecycle.charged_bytes == (150 + 64) * MB


async def test_a_model_that_took_more_than_estimated_makes_others_leave_before_it_serves() -> None:
    world = World(budget_bytes=30 * MB)
    await world.touch("a")
    b = await held(world, "b")
    world.loader.sizes["c"] = Size(needed=10 * MB, taken=25 * MB)
    waiting = Holding(world, "c")
    await settle()
    assert world.loader.closed == ["a"]
    assert not waiting.is_in
    assert world.lifecycle.charged_bytes == 20 * MB
    await b.let_go()
    await settle()
    assert waiting.is_in
    assert world.lifecycle.charged_bytes == 25 * MB
    await waiting.let_go()


async def test_a_model_that_took_more_than_there_is_fails_and_is_closed() -> None:
    world = World(budget_bytes=30 * MB)
    world.loader.sizes["a"] = Size(needed=10 * MB, taken=31 * MB)
    with pytest.raises(OutOfMemory, match=r"a needs 31\.0 MB.*30\.0 MB"):
        await world.touch("a")
    await settle()
    assert world.loader.closed == ["a"]
    assert world.lifecycle.charged_bytes == 0
    assert world.observer.unloads == []


async def test_memory_of_a_failed_build_is_free_for_the_next() -> None:
    world = World(budget_bytes=10 * MB)
    world.loader.load_errors["a"] = MemoryError()
    with pytest.raises(OutOfMemory):
        await world.touch("a")
    assert world.lifecycle.charged_bytes == 0
    assert world.trims == 1
    await world.touch("b")


async def test_a_load_that_fails_after_others_left_for_it_leaves_the_room_to_the_next() -> None:
    world = World(budget_bytes=20 * MB)
    await world.touch("a", "b")
    world.loader.sizes["big"] = Size(needed=20 * MB)
    world.loader.load_errors["big"] = RuntimeError("std::bad_alloc")
    with pytest.raises(OutOfMemory):
        await world.touch("big")
    assert world.loader.closed == ["a", "b"]
    await world.touch("a", "b")


async def test_a_model_that_is_loaded_again_waits_for_its_last_run_to_end() -> None:
    world = World()
    first = await held(world, "a")
    unloading = asyncio.create_task(world.lifecycle.unload(entry("a")))
    await settle()
    again = Holding(world, "a")
    await settle()
    status = world.lifecycle.status(entry("a"))
    assert (status.state, status.stage, status.users) == ("loading", "waiting", 1)
    await first.let_go()
    await settle()
    assert again.is_in
    assert (await unloading).state == "loading"  # as it was then: the next run of it
    assert world.loader.closed == ["a"]
    await again.let_go()


async def test_finders_that_are_refused_make_room_for_others() -> None:
    world = World(budget_bytes=10 * MB)
    world.aside.hold(FIND)
    names = [f"m{number}" for number in range(LOOKUPS)]
    for name in names:
        world.loader.find_errors[name] = OSError(12, "Cannot allocate memory")
    waiting = [Holding(world, name) for name in [*names, "last"]]
    await settle()
    world.aside.let_go(FIND)
    results = await asyncio.gather(*(one.task for one in waiting[:-1]), return_exceptions=True)
    assert all(isinstance(one, OutOfMemory) for one in results)
    await settle()
    assert waiting[-1].is_in
    await waiting[-1].let_go()
