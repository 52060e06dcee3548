"""Models that are loaded before the event loop runs, or that run already."""

import asyncio
from typing import Any

import pytest

from fledge.errors import (
    CorruptModel,
    ModelLoadError,
    OutOfMemory,
)
from tests.unit.engine.lifecycle.fakes import (
    BUILD,
    MB,
    FakeModel,
    Holding,
    Size,
    World,
    entry,
    settle,
)


def preloaded(*names: str, **options: Any) -> World:
    """A world whose models were loaded before any event loop ran."""
    world = World(**options)
    for name in names:
        world.lifecycle.load_now(entry(name))
    return world


async def use_all_and_close(world: World) -> None:
    for name in world.loader.loaded:
        assert world.state(name) == "warm"
        await world.touch(name)
    await world.lifecycle.aclose()


def test_models_are_loaded_before_the_loop_runs_and_used_in_it() -> None:
    world = preloaded("a", "b", "b", keep_alive_s=60.0)
    assert world.loader.loaded == ["a", "b"]
    assert world.lifecycle.charged_bytes == 20 * MB
    assert [one[0] for one in world.observer.loads] == ["a", "b"]
    asyncio.run(use_all_and_close(world))
    assert world.loader.closed == ["a", "b"]


def test_a_model_that_is_loaded_before_the_loop_runs_makes_nobody_leave() -> None:
    world = preloaded("a", "b", budget_bytes=25 * MB)
    world.loader.away.add("c")
    with pytest.raises(
        OutOfMemory, match=r"c needs at least 10\.0 MB.*25\.0 MB.*before.*20\.0 MB.*a, b"
    ):
        world.lifecycle.load_now(entry("c"))
    world.loader.sizes["d"] = Size(needed=5 * MB, taken=6 * MB)
    with pytest.raises(OutOfMemory, match=r"d needs 6\.0 MB"):
        world.lifecycle.load_now(entry("d"))
    world.loader.sizes["f"] = Size(needed=7 * MB)
    with pytest.raises(OutOfMemory, match=r"f needs 7\.0 MB"):
        world.lifecycle.load_now(entry("f"))
    assert world.loader.found == ["a", "b", "d", "f"]
    assert world.loader.loaded == ["a", "b", "d"]
    assert world.loader.closed == ["d"]
    world.lifecycle.close_now()
    assert world.loader.closed == ["d", "a", "b"]


def test_what_goes_wrong_before_the_loop_runs_is_told_whole() -> None:
    world = World()
    world.loader.find_errors["a"] = CorruptModel("/home/me/a/config.json is cut off")
    with pytest.raises(CorruptModel, match=r"^/home/me/a/config.json is cut off$"):
        world.lifecycle.load_now(entry("a"))
    world.loader.load_errors["b"] = MemoryError("12 GB")
    with pytest.raises(OutOfMemory, match="b: MemoryError: 12 GB") as error:
        world.lifecycle.load_now(entry("b"))
    assert isinstance(error.value.__cause__, MemoryError)
    world.loader.load_errors["c"] = KeyError("hidden_size")
    with pytest.raises(ModelLoadError, match="c: KeyError: 'hidden_size'"):
        world.lifecycle.load_now(entry("c"))


def test_models_that_were_loaded_before_the_loop_ran_are_closed_also_when_one_cannot_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = preloaded("a", "b")
    world.loader.close_errors["a"] = RuntimeError("no")
    world.lifecycle.close_now()
    world.lifecycle.close_now()
    assert world.loader.closed == ["a", "b"]
    assert "unloading a failed" in caplog.text


def test_a_running_model_is_adopted_as_a_warm_one() -> None:
    world = World()
    closed: list[str] = []
    model = FakeModel("a", lambda: closed.append("a"))
    world.lifecycle.adopt(entry("a"), model, memory_bytes=5 * MB)
    assert world.lifecycle.status(entry("a")).memory_bytes == 5 * MB
    with pytest.raises(OutOfMemory):
        world.lifecycle.adopt(entry("b"), FakeModel("b", lambda: None), memory_bytes=26 * MB)
    asyncio.run(world.touch("a"))
    asyncio.run(use_all_and_close(world))
    assert (world.loader.loaded, closed) == ([], ["a"])


def test_a_running_model_is_not_adopted_into_room_that_another_is_given() -> None:
    world = World(budget_bytes=10 * MB)

    async def scenario() -> None:
        world.aside.hold(BUILD)
        waiting = Holding(world, "a")
        await settle()
        with pytest.raises(OutOfMemory, match="those before it keep"):
            world.lifecycle.adopt(entry("b"), FakeModel("b", lambda: None), memory_bytes=MB)
        world.aside.let_go(BUILD)
        await waiting.let_go()
        await world.lifecycle.aclose()

    asyncio.run(scenario())


def test_models_that_were_loaded_before_the_loop_ran_leave_when_idle_once_requests_come() -> None:
    world = preloaded("a", "b", keep_alive_s=60.0)

    async def scenario() -> None:
        world.clock.now_s += 59
        await world.touch("b")
        world.lifecycle.sweep()
        assert world.state("a") == "warm"
        world.clock.now_s += 1
        await world.touch("b")
        world.lifecycle.sweep()
        await settle()
        assert world.loader.closed == ["a"]
        await world.lifecycle.aclose()

    asyncio.run(scenario())
