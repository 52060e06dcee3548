"""Models load because somebody asks, once for all who ask, and no caller's leaving stops it."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from fledge.engine.lifecycle.builder import DOWNLOADS, LOOKUPS
from fledge.engine.lifecycle.loads import FIXED_S, LONGEST_GUESS_S, SHORTEST_S, UNKNOWN_S
from fledge.errors import (
    ModelLoadError,
    ModelLoading,
    ModelNotFound,
)
from fledge.types import Deployments
from tests.unit.engine.lifecycle.fakes import (
    BUILD,
    FIND,
    MB,
    Holding,
    Size,
    World,
    entry,
    settle,
    until,
)

pytestmark = pytest.mark.anyio


def steps(coroutine: Coroutine[Any, Any, object]) -> int:
    """How often a coroutine yields to the event loop before it ends, if the loop does nothing."""
    count = 0
    try:
        while True:
            coroutine.send(None)
            count += 1
    except StopIteration:
        return count


async def test_it_is_the_deployments_of_the_engine() -> None:
    deployments: Deployments = World().lifecycle
    assert deployments.problems() == {}


async def test_a_cold_model_loads_because_it_is_used() -> None:
    world = World()
    assert world.state("a") == "cold"
    async with world.use("a") as model:
        assert model.card.id == "a"
        assert world.state("a") == "warm"
    assert world.loader.loaded == ["a"]


async def test_many_requests_for_a_cold_model_are_one_load() -> None:
    world = World()
    await asyncio.gather(*(world.touch("a") for _ in range(200)))
    assert (world.loader.found, world.loader.loaded) == (["a"], ["a"])


async def test_a_warm_model_is_given_without_yielding_to_the_loop() -> None:
    world = World()
    await world.touch("a")
    use = world.lifecycle.use(entry("a"), patience_s=0)
    tasks = len(asyncio.all_tasks())
    assert steps(use.__aenter__()) == 0
    assert steps(use.__aexit__(None, None, None)) == 0
    assert len(asyncio.all_tasks()) == tasks


async def test_who_has_no_patience_is_told_how_long_and_the_load_goes_on() -> None:
    world = World()
    world.aside.hold(BUILD)
    with pytest.raises(ModelLoading, match="Model a is currently loading") as error:
        async with world.use("a", patience_s=0):
            pass
    assert error.value.estimated_time_s >= 0.1
    world.aside.let_go(BUILD)
    await settle()
    assert world.state("a") == "warm"


async def test_patience_ends_while_the_load_goes_on() -> None:
    world = World()
    world.aside.hold(BUILD)
    with pytest.raises(ModelLoading):
        async with world.use("a", patience_s=0.001):
            pass
    world.aside.let_go(BUILD)
    await world.touch("a")
    assert world.loader.loaded == ["a"]


async def test_a_cancelled_caller_does_not_cancel_the_load() -> None:
    world = World()
    world.aside.hold(FIND)
    first, second = Holding(world, "a"), Holding(world, "a")
    await settle()
    first.task.cancel()
    await settle()
    assert first.task.cancelled()
    world.aside.let_go(FIND)
    await settle()
    assert second.is_in
    await second.let_go()
    assert world.loader.found == ["a"]


async def test_a_load_goes_on_when_everybody_has_left() -> None:
    world = World()
    world.aside.hold(BUILD)
    waiting = [Holding(world, "a") for _ in range(3)]
    await settle()
    for one in waiting:
        one.task.cancel()
    await settle()
    world.aside.let_go(BUILD)
    await settle()
    assert world.lifecycle.status(entry("a")).users == 0
    assert world.state("a") == "warm"


async def test_a_caller_that_is_cancelled_when_it_has_just_been_given_the_model_lets_go() -> None:
    world = World()
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
    await settle()
    world.aside.let_go(BUILD)
    await until(lambda: world.lifecycle.status(entry("a")).users > 0)  # held for it, not resumed
    assert not waiting.is_in
    waiting.task.cancel()
    await settle()
    assert waiting.task.cancelled()
    assert world.lifecycle.status(entry("a")).users == 0


@pytest.mark.parametrize("turns", range(30))
async def test_wherever_a_caller_is_cancelled_nothing_is_held_and_nothing_is_lost(
    turns: int,
) -> None:
    world = World(keep_alive_s=0)
    caller = asyncio.create_task(world.touch("a"))
    for _ in range(turns):
        await asyncio.sleep(0)
    caller.cancel()
    await settle()
    assert world.lifecycle.status(entry("a")).users == 0
    assert world.lifecycle.charged_bytes == world.loader.memory_bytes == 0
    assert world.loader.closed == world.loader.loaded


async def test_models_are_looked_for_several_at_once_and_built_one_after_the_other() -> None:
    world = World(budget_bytes=1000 * MB)
    world.aside.hold(FIND)
    world.aside.hold(BUILD)
    names = [f"m{number}" for number in range(LOOKUPS + 2)]
    waiting = [Holding(world, name) for name in names]
    await settle()
    assert world.aside.waiting(FIND) == LOOKUPS
    world.aside.let_go(FIND)
    await settle()
    stages = [world.lifecycle.status(entry(name)).stage for name in names]
    assert stages == ["building"] + ["waiting"] * (LOOKUPS + 1)
    for built in range(len(names)):
        assert world.aside.waiting(BUILD) == 1
        world.aside.let_one_go(BUILD)
        await settle()
        assert world.loader.loaded == names[: built + 1]
    for one in waiting:
        await one.let_go()


async def test_downloads_are_few_at_once_and_keep_no_other_model_from_loading() -> None:
    world = World(budget_bytes=1000 * MB)
    names = [f"m{number}" for number in range(DOWNLOADS + 2)]
    world.loader.away.update(names)
    world.aside.hold(FIND)
    waiting = [Holding(world, name) for name in names]
    await settle()
    for _ in names:  # each is looked for first
        world.aside.let_one_go(FIND)
        await settle()
    stages = [world.lifecycle.status(entry(name)).stage for name in names]
    assert stages == ["downloading"] * DOWNLOADS + ["waiting"] * 2
    assert world.aside.waiting(FIND) == DOWNLOADS
    here = Holding(world, "here")
    await settle()
    world.aside.let_one_go(FIND, -1)
    await settle()
    assert here.is_in
    world.aside.let_go(FIND)
    await settle()
    assert world.loader.found == ["here", *names]
    for one in [here, *waiting]:
        await one.let_go()


async def test_an_explicit_load_joins_the_one_under_way() -> None:
    world = World()
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
    await settle()
    loading = asyncio.create_task(world.lifecycle.load(entry("a")))
    await settle()
    world.aside.let_go(BUILD)
    assert (await loading).state == "warm"
    await waiting.let_go()
    assert world.loader.loaded == ["a"]


async def test_loads_and_unloads_are_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fledge.engine.lifecycle.lifecycle")
    world = World()
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
    await settle()
    world.clock.now_s += 1.2
    world.aside.let_go(BUILD)
    await settle()
    await waiting.let_go()
    await world.lifecycle.unload(entry("a"))
    assert caplog.messages == ["loaded a in 1.2 s (10.0 MB)", "unloaded a (on request)"]
    world.loader.find_errors["b"] = ModelNotFound("b")
    with pytest.raises(ModelNotFound):
        await world.touch("b")
    (a, b) = world.observer.loads
    assert (a[0], a[2], b[0], b[2]) == ("a", None, "b", "not_found")
    assert a[1] == pytest.approx(1.2)
    assert world.observer.unloads == ["a"]


async def test_the_status_of_a_loading_model_tells_its_stage_and_what_it_will_take() -> None:
    world = World()
    world.loader.sizes["a"] = Size(estimate=7 * MB, needed=9 * MB, taken=8 * MB)
    world.loader.away.add("a")
    world.aside.hold(FIND)
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
    await settle()
    assert world.lifecycle.status(entry("a")).stage == "waiting"
    world.aside.let_one_go(FIND)
    await settle()
    status = world.lifecycle.status(entry("a"))
    assert (status.state, status.stage, status.memory_bytes) == ("loading", "downloading", 7 * MB)
    world.aside.let_go(FIND)
    await settle()
    status = world.lifecycle.status(entry("a"))
    assert (status.state, status.stage, status.memory_bytes) == ("loading", "building", 9 * MB)
    world.aside.let_go(BUILD)
    await settle()
    status = world.lifecycle.status(entry("a"))
    assert (status.state, status.users, status.memory_bytes) == ("warm", 1, 8 * MB)
    assert status.card is not None
    await waiting.let_go()
    world.clock.now_s += 5
    assert world.lifecycle.status(entry("a")).idle_s == pytest.approx(5)
    status = await world.lifecycle.unload(entry("a"))
    assert (status.state, status.memory_bytes, status.idle_s) == ("cold", 0, 0)
    assert status.card is not None  # the last one's


async def test_the_time_that_remains_is_learned_from_the_last_load() -> None:
    world = World()
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
    await settle()
    world.clock.now_s += 8
    world.aside.let_go(BUILD)
    await settle()
    await waiting.let_go()
    await world.lifecycle.unload(entry("a"))
    assert world.lifecycle.status(entry("a")).remaining_s == pytest.approx(8)
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
    await settle()
    world.clock.now_s += 3
    assert world.lifecycle.status(entry("a")).remaining_s == pytest.approx(5)
    world.clock.now_s += 100
    assert world.lifecycle.status(entry("a")).remaining_s == SHORTEST_S
    waiting.task.cancel()


async def test_the_time_of_a_model_that_never_was_loaded_comes_from_its_size_and_others() -> None:
    world = World(bytes_per_s=lambda: 10e6)
    world.loader.sizes["b"] = Size(estimate=100 * MB)
    world.loader.sizes["a"] = Size(files=100 * MB)
    assert world.lifecycle.status(entry("a")).remaining_s is None
    assert world.lifecycle.status(entry("b")).remaining_s == pytest.approx(FIXED_S + 10)
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
    await settle()
    assert world.lifecycle.status(entry("a")).remaining_s == pytest.approx(FIXED_S + 10)
    world.clock.now_s += FIXED_S + 5  # 20 MB/s
    world.aside.let_go(BUILD)
    await settle()
    await waiting.let_go()
    assert world.lifecycle.status(entry("b")).remaining_s == pytest.approx(FIXED_S + 5)


async def test_a_small_model_s_time_says_nothing_of_a_large_one_s() -> None:
    world = World(bytes_per_s=lambda: 100e6)
    world.loader.sizes["small"] = Size(files=MB)
    world.loader.sizes["large"] = Size(estimate=1000 * MB)
    world.aside.hold(BUILD)
    waiting = Holding(world, "small")
    await settle()
    world.clock.now_s += 1
    world.aside.let_go(BUILD)
    await settle()
    await waiting.let_go()
    assert world.lifecycle.status(entry("large")).remaining_s == pytest.approx(FIXED_S + 10)


async def test_a_folder_of_this_machine_never_waits_behind_a_hub_that_is_silent() -> None:
    world = World(budget_bytes=1000 * MB)
    world.aside.hold(FIND)
    for number in range(LOOKUPS + 3):
        with pytest.raises(ModelLoading):
            async with world.use(f"org/m{number}", patience_s=0):
                pass
    await settle()
    assert world.aside.waiting(FIND) == LOOKUPS
    with pytest.raises(ModelLoading):
        async with world.lifecycle.use(entry("mine", folder=Path("/models/mine")), patience_s=0):
            pass
    await settle()
    assert world.aside.waiting(FIND) == LOOKUPS + 1


async def test_looking_for_a_model_that_never_ends_is_a_failed_load() -> None:
    world = World(longest_look_s=0.01)
    world.aside.hold(FIND)
    with pytest.raises(ModelLoadError, match=r"not found within 0.01 s"):
        async with world.use("a", patience_s=10):
            pass


async def test_a_model_that_is_leaving_is_cold_and_its_memory_still_taken() -> None:
    world = World()
    world.loader.sizes["a"] = Size(needed=9 * MB)
    holding = Holding(world, "a")
    await settle()
    leaving = asyncio.create_task(world.lifecycle.unload(entry("a")))
    await settle()
    status = world.lifecycle.status(entry("a"))
    assert (status.state, status.users, status.memory_bytes) == ("cold", 1, 9 * MB)
    await holding.let_go()
    await leaving
    assert world.lifecycle.status(entry("a")).memory_bytes == 0


async def test_a_load_that_nobody_waits_for_and_that_is_not_built_yet_is_given_up() -> None:
    world = World()
    world.aside.hold(FIND)
    with pytest.raises(ModelLoading):
        async with world.use("a", patience_s=0):
            pass
    await settle()
    assert world.lifecycle.status(entry("a")).state == "loading"
    status = await world.lifecycle.unload(entry("a"))
    assert status.state == "cold"


async def test_of_a_download_nobody_knows_more_than_how_long_it_takes_already() -> None:
    world = World()
    world.aside.hold(FIND)
    with pytest.raises(ModelLoading) as error:
        async with world.use("a", patience_s=0):
            pass
    assert error.value.estimated_time_s == UNKNOWN_S
    await settle()
    world.clock.now_s += 60
    assert world.lifecycle.status(entry("a")).remaining_s == pytest.approx(60)
    world.clock.now_s += 3600  # and says no more than a minute: who waits should look again
    assert world.lifecycle.status(entry("a")).remaining_s == LONGEST_GUESS_S


async def test_a_model_that_left_is_held_by_nothing() -> None:
    world = World()
    await world.touch("a")
    await world.lifecycle.unload(entry("a"))
    gone = weakref.ref(world.loader.models.pop("a"))
    await settle()
    gc.collect()
    assert gone() is None
