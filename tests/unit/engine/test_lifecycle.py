"""Models load because somebody asks, once for all who ask, and no caller's leaving stops it."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from fledge.engine.builder import FINDERS
from fledge.engine.loads import SHORTEST_S, UNKNOWN_S
from fledge.engine.slots import MAX_REMEMBERED
from fledge.errors import (
    BackendUnavailable,
    CorruptModel,
    ModelGated,
    ModelLoadError,
    ModelLoading,
    ModelNotFound,
    OutOfMemory,
)
from fledge.types import Deployments, Health
from tests.unit.engine.lifecycle_fakes import (
    BUILD,
    FIND,
    MB,
    Holding,
    Size,
    World,
    entry,
    settle,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
    while not world.lifecycle.status(entry("a")).users:  # held for it, and not yet resumed
        await asyncio.sleep(0)
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


async def test_models_are_found_several_at_once_and_built_one_after_the_other() -> None:
    world = World(budget_bytes=1000 * MB)
    world.aside.hold(FIND)
    world.aside.hold(BUILD)
    names = [f"m{number}" for number in range(FINDERS + 2)]
    waiting = [Holding(world, name) for name in names]
    await settle()
    assert world.aside.waiting(FIND) == FINDERS
    world.aside.let_go(FIND)
    await settle()
    stages = [world.lifecycle.status(entry(name)).stage for name in names]
    assert stages == ["building"] + ["waiting"] * (FINDERS + 1)
    for built in range(len(names)):
        assert world.aside.waiting(BUILD) == 1
        world.aside.let_one_go(BUILD)
        await settle()
        assert world.loader.loaded == names[: built + 1]
    for one in waiting:
        await one.let_go()


async def test_a_slow_download_does_not_keep_others_from_being_built() -> None:
    world = World()
    world.aside.hold(FIND)
    slow = Holding(world, "slow")
    await settle()
    assert world.lifecycle.status(entry("slow")).stage == "downloading"
    quick = Holding(world, "quick")
    await settle()
    world.aside.let_one_go(FIND, -1)
    await settle()
    assert quick.is_in
    slow.task.cancel()
    await quick.let_go()


async def test_a_build_that_is_stuck_fails_and_the_next_one_goes_on() -> None:
    world = World(longest_build_s=0.01)
    world.aside.hold(BUILD)
    with pytest.raises(ModelLoadError, match=r"a was not built within 0\.01 s"):
        await world.touch("a")
    assert world.lifecycle.status(entry("a")).failure == "unknown"
    assert world.lifecycle.charged_bytes == 10 * MB  # it may take them any time
    next_one = Holding(world, "b")
    await settle()
    world.aside.let_one_go(BUILD, -1)
    await settle()
    assert next_one.is_in
    world.aside.let_go(BUILD)
    await settle()
    assert world.loader.closed == ["a"]  # what came too late
    assert world.lifecycle.charged_bytes == 10 * MB
    assert world.observer.unloads == []
    await next_one.let_go()


async def test_a_stuck_build_that_fails_after_all_frees_its_memory() -> None:
    world = World(longest_build_s=0.01)
    world.aside.hold(BUILD)
    world.loader.load_errors["a"] = RuntimeError("late")
    with pytest.raises(ModelLoadError):
        await world.touch("a")
    world.aside.let_go(BUILD)
    await settle()
    assert world.lifecycle.charged_bytes == 0


async def test_fifty_who_wait_for_a_load_that_fails_all_get_the_reason() -> None:
    world = World()
    world.aside.hold(BUILD)
    world.loader.load_errors["a"] = CorruptModel("a/model.safetensors is cut off")
    waiting = [asyncio.create_task(world.touch("a")) for _ in range(50)]
    await settle()
    world.aside.let_go(BUILD)
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(error) for error in errors} == {CorruptModel}
    assert {str(error) for error in errors} == {"a/model.safetensors is cut off"}
    assert len({id(error) for error in errors}) == 50  # each with a traceback of its own
    assert world.loader.tried == ["a"]
    assert world.lifecycle.charged_bytes == 0


async def test_a_failure_is_remembered_for_its_cool_down() -> None:
    world = World()
    world.loader.find_errors["a"] = ModelGated("accept the conditions")
    with pytest.raises(ModelGated):
        await world.touch("a")
    world.clock.now_s += 599
    with pytest.raises(ModelGated, match="accept the conditions") as error:
        await world.touch("a")
    assert error.value.retry_after_s == pytest.approx(1)
    assert world.loader.found == ["a"]
    world.clock.now_s += 1
    del world.loader.find_errors["a"]
    await world.touch("a")
    assert world.state("a") == "warm"


async def test_the_status_of_a_failed_model_has_the_reason_and_when_to_come_back() -> None:
    world = World()
    world.loader.find_errors["a"] = ModelNotFound("/models/a/config.json is not there")
    with pytest.raises(ModelNotFound):
        await world.touch("a")
    world.clock.now_s += 100
    status = world.lifecycle.status(entry("a"))
    assert (status.state, status.failure, status.memory_bytes) == ("failed", "not_found", 0)
    assert status.reason == "config.json is not there"
    assert status.retry_in_s == pytest.approx(500)
    assert world.lifecycle.problems() == {}
    world.clock.now_s += 1000
    assert world.lifecycle.status(entry("a")).retry_in_s == 0


async def test_a_failure_of_one_model_is_nothing_to_another() -> None:
    world = World()
    world.loader.load_errors["a"] = MemoryError()
    with pytest.raises(OutOfMemory, match="MemoryError; the server's log says why"):
        await world.touch("a")
    await world.touch("b")


async def test_an_explicit_load_does_not_wait_for_the_cool_down() -> None:
    world = World()
    world.loader.load_errors["a"] = CorruptModel("cut off")
    with pytest.raises(CorruptModel):
        await world.lifecycle.load(entry("a"))
    with pytest.raises(CorruptModel):
        await world.lifecycle.load(entry("a"))
    del world.loader.load_errors["a"]
    status = await world.lifecycle.load(entry("a"))
    assert (status.state, status.users, status.reason) == ("warm", 0, "")
    assert (await world.lifecycle.load(entry("a"))).state == "warm"
    assert world.loader.tried == ["a"] * 3


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


async def test_the_log_has_all_of_an_error_once_and_callers_have_less(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.loader.load_errors["a"] = ValueError("the secret of /home/me")
    for _ in range(3):
        with pytest.raises(ModelLoadError) as error:
            await world.touch("a")
        assert "secret" not in str(error.value)
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "the secret of /home/me" in record.getMessage()
    assert record.exc_info


async def test_loads_and_unloads_are_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fledge.engine.lifecycle")
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
    assert a == ("a", pytest.approx(1.2), None)
    assert (b[0], b[2]) == ("b", "not_found")
    assert world.observer.unloads == ["a"]


async def test_the_status_of_a_loading_model_tells_its_stage_and_what_it_will_take() -> None:
    world = World()
    world.loader.sizes["a"] = Size(estimate=7 * MB, needed=9 * MB, taken=8 * MB)
    world.aside.hold(FIND)
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
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
    assert world.lifecycle.status(entry("b")).remaining_s == pytest.approx(10)
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
    await settle()
    assert world.lifecycle.status(entry("a")).remaining_s == pytest.approx(10)
    world.clock.now_s += 5  # 20 MB/s
    world.aside.let_go(BUILD)
    await settle()
    await waiting.let_go()
    assert world.lifecycle.status(entry("b")).remaining_s == pytest.approx(5)


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


async def test_a_model_whose_backend_died_is_a_problem_and_takes_no_requests() -> None:
    world = World()
    await world.touch("a", "b")
    world.loader.models["a"].state = Health("failed", "the compute lane died")
    assert world.lifecycle.problems() == {"a": "the compute lane died"}
    status = world.lifecycle.status(entry("a"))
    assert (status.state, status.reason) == ("failed", "the compute lane died")
    with pytest.raises(BackendUnavailable, match="the compute lane died"):
        await world.touch("a")
    await world.touch("b")


async def test_an_explicit_load_replaces_a_model_whose_backend_died() -> None:
    world = World()
    await world.touch("a")
    world.loader.models["a"].state = Health("failed", "the compute lane died")
    assert (await world.lifecycle.load(entry("a"))).state == "warm"
    assert world.lifecycle.problems() == {}
    assert (world.loader.loaded, world.loader.closed) == (["a", "a"], ["a"])


async def test_what_is_remembered_of_models_that_are_not_here_is_bounded() -> None:
    world = World(budget_bytes=1000 * MB)
    await world.touch("warm")
    world.lifecycle.pin(entry("pinned"), is_pinned=True)
    world.aside.hold(BUILD)
    waiting = Holding(world, "loading")
    await settle()
    for number in range(MAX_REMEMBERED + 50):
        world.loader.find_errors[f"m{number}"] = ModelNotFound("no")
        with pytest.raises(ModelNotFound):
            await world.touch(f"m{number}")
    states = [world.state(f"m{number}") for number in range(MAX_REMEMBERED + 50)]
    assert states.count("failed") == MAX_REMEMBERED - 3
    assert states[-1] == "failed"
    assert states[0] == "cold"
    assert world.state("warm") == "warm"
    assert world.state("loading") == "loading"
    assert world.lifecycle.status(entry("pinned")).is_pinned
    waiting.task.cancel()


async def test_a_model_that_left_is_held_by_nothing() -> None:
    world = World()
    await world.touch("a")
    await world.lifecycle.unload(entry("a"))
    gone = weakref.ref(world.loader.models.pop("a"))
    await settle()
    gc.collect()
    assert gone() is None
