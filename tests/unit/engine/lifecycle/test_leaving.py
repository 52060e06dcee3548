"""Models leave when nobody needs them, when somebody says so, and when the server stops."""

import asyncio

import pytest

from fledge.engine.lifecycle.lifecycle import Lifecycle
from fledge.engine.lifecycle.ports import LifecycleOptions, Memory
from fledge.errors import (
    CorruptModel,
    ModelLoading,
    ModelNotFound,
)
from tests.unit.engine.lifecycle.fakes import (
    BUILD,
    MB,
    UNLOAD,
    FakeLoader,
    Holding,
    World,
    entry,
    held,
    settle,
    until,
)

pytestmark = pytest.mark.anyio


async def test_a_model_leaves_when_nobody_used_it_for_as_long_as_it_is_kept() -> None:
    world = World(keep_alive_s=60.0)
    await world.touch("a")
    world.clock.now_s += 59
    await world.touch("b")
    world.clock.now_s += 1
    world.lifecycle.sweep()
    await settle()
    assert world.loader.closed == ["a"]
    world.clock.now_s += 60
    world.lifecycle.sweep()
    await settle()
    assert world.loader.closed == ["a", "b"]


async def test_a_model_in_use_or_pinned_or_kept_for_ever_does_not_leave_however_idle() -> None:
    world = World(
        keep_alive_s=60.0, keep_alive_by_model={"ever": -1.0}, pinned=frozenset({"pinned"})
    )
    a = await held(world, "a")
    await world.touch("ever", "pinned")
    world.clock.now_s += 10**6
    world.lifecycle.sweep()
    await settle()
    assert world.loader.closed == []
    await a.let_go()
    world.lifecycle.sweep()
    assert world.state("a") == "warm"


async def test_a_model_may_be_kept_for_longer_than_others() -> None:
    world = World(keep_alive_s=60.0, keep_alive_by_model={"long": 600.0})
    await world.touch("long", "a")
    world.clock.now_s += 60
    world.lifecycle.sweep()
    await settle()
    assert world.loader.closed == ["a"]


async def test_a_model_that_is_not_kept_serves_all_who_waited_and_leaves() -> None:
    world = World(keep_alive_s=0.0)
    await asyncio.gather(*(world.touch("a") for _ in range(20)))
    await settle()
    assert (world.loader.loaded, world.loader.closed) == (["a"], ["a"])


async def test_a_model_that_is_not_kept_leaves_also_when_nobody_waits_any_more() -> None:
    world = World(keep_alive_s=0.0)
    waiting = Holding(world, "a")
    world.aside.hold(BUILD)
    await settle()
    waiting.task.cancel()
    world.aside.let_go(BUILD)
    await settle()
    assert world.loader.closed == ["a"]


async def test_the_timer_sweeps_by_itself() -> None:
    loader = FakeLoader()
    lifecycle = Lifecycle(
        loader,
        LifecycleOptions(budget_bytes=30 * MB, keep_alive_s=0.01),
        memory=Memory(lambda: 0, lambda: None),
    )
    await lifecycle.load(entry("a"))
    await until(lambda: loader.closed == ["a"])


async def test_the_timer_is_put_forward_by_use_and_brought_back_by_a_shorter_stay() -> None:
    loop = asyncio.get_running_loop()
    loader = FakeLoader()
    lifecycle = Lifecycle(
        loader,
        LifecycleOptions(
            budget_bytes=30 * MB, keep_alive_s=3600, keep_alive_by_model={"short": 0.02}
        ),
        memory=Memory(lambda: 0, lambda: None),
    )
    await lifecycle.load(entry("long"))
    await lifecycle.load(entry("short"))
    until = loop.time() + 10
    while lifecycle.status(entry("short")).state == "warm" and loop.time() < until:
        async with lifecycle.use(entry("long"), patience_s=1):
            await asyncio.sleep(0.005)
    assert lifecycle.status(entry("short")).state == "cold"
    assert lifecycle.status(entry("long")).state == "warm"


async def test_the_timer_rests_while_models_that_are_due_are_in_use() -> None:
    world = World(keep_alive_s=60.0)
    a = await held(world, "a")
    world.clock.now_s += 100
    world.lifecycle.sweep()
    await settle()
    looks = world.clock.looks
    await settle()
    assert world.clock.looks == looks
    await a.let_go()


async def test_the_timer_comes_back_for_the_next_model() -> None:
    lifecycle = Lifecycle(
        FakeLoader(),
        LifecycleOptions(
            budget_bytes=30 * MB, keep_alive_s=0.01, keep_alive_by_model={"longer": 0.05}
        ),
        memory=Memory(lambda: 0, lambda: None),
    )
    for name in ("a", "longer"):
        await lifecycle.load(entry(name))
    await until(lambda: lifecycle.status(entry("longer")).state == "cold")
    assert lifecycle.status(entry("a")).state == "cold"


async def test_an_unpinned_model_that_was_idle_for_long_leaves_at_once() -> None:
    world = World(keep_alive_s=60.0, pinned=frozenset({"a"}))
    await world.touch("a")
    world.clock.now_s += 100
    assert not world.lifecycle.pin(entry("a"), is_pinned=False).is_pinned
    await asyncio.sleep(0.001)
    await settle()
    assert world.loader.closed == ["a"]


async def test_a_model_is_pinned_while_it_is_cold_and_stays_once_it_is_warm() -> None:
    world = World(keep_alive_s=0.0, budget_bytes=10 * MB)
    status = world.lifecycle.pin(entry("a"), is_pinned=True)
    assert (status.state, status.is_pinned) == ("cold", True)
    assert world.loader.loaded == []
    await world.touch("a")
    assert world.state("a") == "warm"
    world.lifecycle.pin(entry("a"), is_pinned=False)
    await settle()
    assert world.loader.closed == ["a"]


async def test_a_model_that_is_unpinned_in_use_takes_new_users_until_it_is_idle() -> None:
    world = World(keep_alive_s=0.0, pinned=frozenset({"a"}))
    first = await held(world, "a")
    world.lifecycle.pin(entry("a"), is_pinned=False)
    second = await held(world, "a")
    await first.let_go()
    assert world.state("a") == "warm"
    await second.let_go()
    await settle()
    assert world.loader.closed == ["a"]


async def test_a_model_that_nobody_waited_for_is_kept_from_when_it_was_loaded() -> None:
    world = World(keep_alive_s=60.0)
    with pytest.raises(ModelLoading):
        async with world.use("a", patience_s=0):
            pass
    await settle()
    world.clock.now_s += 59
    world.lifecycle.sweep()
    assert world.state("a") == "warm"
    world.clock.now_s += 1
    world.lifecycle.sweep()
    assert world.state("a") == "cold"


async def test_a_model_may_be_pinned_while_it_is_loading() -> None:
    world = World(keep_alive_s=0.0)
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
    await settle()
    world.lifecycle.pin(entry("a"), is_pinned=True)
    world.aside.let_go(BUILD)
    await settle()
    await waiting.let_go()
    assert world.lifecycle.status(entry("a")).is_pinned
    assert world.state("a") == "warm"


async def test_pinning_a_model_that_has_to_leave_does_not_keep_it() -> None:
    world = World()
    a = await held(world, "a")
    unloading = asyncio.create_task(world.lifecycle.unload(entry("a")))
    await settle()
    world.lifecycle.pin(entry("a"), is_pinned=True)
    await a.let_go()
    status = await unloading
    assert (status.state, status.is_pinned) == ("cold", True)


async def test_unloading_lets_requests_end_first_and_a_pinned_model_leaves_too() -> None:
    world = World(pinned=frozenset({"a"}))
    users = [await held(world, "a") for _ in range(3)]
    unloading = asyncio.create_task(world.lifecycle.unload(entry("a")))
    await settle()
    assert world.lifecycle.status(entry("a")).users == 3
    for one in users:
        assert not world.loader.closed
        await one.let_go()
    assert (await unloading).state == "cold"
    assert world.loader.closed == ["a"]
    assert world.lifecycle.charged_bytes == 0


async def test_unloading_a_model_that_is_cold_or_unknown_or_failed_changes_nothing() -> None:
    world = World()
    assert (await world.lifecycle.unload(entry("a"))).state == "cold"
    world.loader.find_errors["a"] = ModelNotFound("no")
    with pytest.raises(ModelNotFound):
        await world.touch("a")
    assert (await world.lifecycle.unload(entry("a"))).state == "failed"


async def test_unloading_while_loading_serves_those_who_wait_and_then_unloads() -> None:
    world = World()
    world.aside.hold(BUILD)
    waiting = [Holding(world, "a") for _ in range(3)]
    await settle()
    unloading = [asyncio.create_task(world.lifecycle.unload(entry("a"))) for _ in range(2)]
    await settle()
    world.aside.let_go(BUILD)
    await settle()
    assert all(one.is_in for one in waiting)
    assert not any(task.done() for task in unloading)
    for one in waiting:
        await one.let_go()
    assert [(await task).state for task in unloading] == ["cold", "cold"]
    assert world.observer.unloads == ["a"]


async def test_unloading_while_a_load_fails_returns_the_failure() -> None:
    world = World()
    world.aside.hold(BUILD)
    world.loader.load_errors["a"] = CorruptModel("cut off")
    waiting = Holding(world, "a")
    await settle()
    unloading = asyncio.create_task(world.lifecycle.unload(entry("a")))
    await settle()
    world.aside.let_go(BUILD)
    assert (await unloading).state == "failed"
    with pytest.raises(CorruptModel):
        await waiting.task


async def test_who_gives_up_waiting_for_an_unload_does_not_stop_it() -> None:
    world = World()
    a = await held(world, "a")
    unloading = asyncio.create_task(world.lifecycle.unload(entry("a")))
    await settle()
    unloading.cancel()
    await settle()
    await a.let_go()
    await settle()
    assert world.loader.closed == ["a"]


async def test_a_load_for_which_a_model_is_unloaded_counts_it_once() -> None:
    world = World(budget_bytes=10 * MB)
    await world.touch("a")
    world.aside.hold(UNLOAD)
    waiting = Holding(world, "b")
    await settle()
    unloading = asyncio.create_task(world.lifecycle.unload(entry("a")))
    await settle()
    assert world.aside.waiting(UNLOAD) == 1
    world.aside.let_go(UNLOAD)
    await unloading
    await settle()
    assert waiting.is_in
    assert world.observer.unloads == ["a"]
    await waiting.let_go()
