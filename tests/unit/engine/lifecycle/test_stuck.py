"""Threads that never come back, and models that cannot be closed: nobody hangs because of them."""

import logging

import pytest

from fledge.errors import ModelLoadError, OutOfMemory
from tests.unit.engine.lifecycle.fakes import (
    BUILD,
    MB,
    UNLOAD,
    Holding,
    Size,
    World,
    entry,
    settle,
)

pytestmark = pytest.mark.anyio


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


async def test_a_model_whose_close_fails_counts_as_free_and_the_load_for_which_it_left_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(budget_bytes=10 * MB)
    await world.touch("a")
    world.loader.close_errors["a"] = RuntimeError("the driver is gone")
    await world.touch("b")
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "unloading a failed" in record.getMessage()
    assert world.lifecycle.charged_bytes == 10 * MB
    await world.touch("a")


async def test_a_model_that_does_not_end_keeps_its_memory_and_nobody_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(budget_bytes=20 * MB, longest_close_s=0.01)
    await world.touch("a")
    world.aside.hold(UNLOAD)
    assert (await world.lifecycle.unload(entry("a"))).state == "cold"
    assert "unloading a does not end" in caplog.text
    assert world.lifecycle.charged_bytes == 10 * MB
    world.loader.sizes["big"] = Size(needed=20 * MB)
    with pytest.raises(OutOfMemory, match=r"those that do not end keep 10\.0 MB of that \(a\)"):
        await world.touch("big")
    await world.touch("a")  # beside its old self
    world.aside.let_go(UNLOAD)
    await settle()
    assert world.lifecycle.charged_bytes == 10 * MB


async def test_a_load_that_waits_for_a_model_that_does_not_end_is_refused() -> None:
    world = World(budget_bytes=10 * MB, longest_close_s=0.01)
    await world.touch("a")
    world.aside.hold(UNLOAD)
    with pytest.raises(OutOfMemory, match="those that do not end keep"):
        await world.touch("b")


async def test_a_stuck_build_keeps_its_memory_and_nobody_waits_for_it() -> None:
    world = World(budget_bytes=20 * MB, longest_build_s=0.01)
    world.aside.hold(BUILD)
    with pytest.raises(ModelLoadError, match="not built within"):
        await world.touch("a")
    world.loader.sizes["big"] = Size(needed=20 * MB)
    with pytest.raises(OutOfMemory, match=r"those that do not end keep 10\.0 MB of that \(a\)"):
        await world.touch("big")
