"""The server stops: nobody new, nobody thrown out, nothing left behind, and no hanging."""

import asyncio

import pytest

from fledge.errors import (
    BackendUnavailable,
)
from tests.unit.engine.lifecycle.fakes import (
    BUILD,
    FIND,
    MB,
    UNLOAD,
    Holding,
    World,
    entry,
    held,
    settle,
)

pytestmark = pytest.mark.anyio


async def test_closing_refuses_new_requests_lets_the_present_ones_end_and_unloads_all() -> None:
    world = World()
    a = await held(world, "a")
    await world.touch("b")
    closing = asyncio.create_task(world.lifecycle.aclose())
    await settle()
    assert world.loader.closed == ["b"]
    for name in "abc":
        with pytest.raises(BackendUnavailable, match="stopping"):
            await world.touch(name)
    with pytest.raises(BackendUnavailable, match="stopping"):
        await world.lifecycle.load(entry("c"))
    assert not closing.done()
    await a.let_go()
    await closing
    assert world.loader.closed == ["b", "a"]
    assert world.lifecycle.charged_bytes == world.loader.memory_bytes == 0
    await world.lifecycle.aclose()


async def test_closing_gives_downloads_up() -> None:
    world = World()
    world.aside.hold(FIND)
    waiting = [Holding(world, f"m{number}") for number in range(10)]
    await settle()
    await world.lifecycle.aclose()
    results = await asyncio.gather(*(one.task for one in waiting), return_exceptions=True)
    assert all(isinstance(one, BackendUnavailable) for one in results)
    world.aside.let_go(FIND)
    await settle()
    assert world.loader.loaded == []


async def test_closing_answers_who_waits_for_a_load_that_had_not_begun_to_run() -> None:
    world = World()
    waiting = Holding(world, "a")
    await asyncio.sleep(0)
    await world.lifecycle.aclose()
    with pytest.raises(BackendUnavailable, match="stopping"):
        await waiting.task


async def test_closing_waits_for_a_model_that_is_being_built_and_it_serves_who_waited() -> None:
    world = World()
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
    await settle()
    closing = asyncio.create_task(world.lifecycle.aclose())
    await settle()
    world.aside.let_go(BUILD)
    await settle()
    assert waiting.is_in
    assert not closing.done()
    await waiting.let_go()
    await closing
    assert world.loader.closed == ["a"]


async def test_closing_does_not_wait_for_ever_for_a_build_and_its_late_model_is_closed() -> None:
    world = World(stopping_s=0.01)
    world.aside.hold(BUILD)
    waiting = Holding(world, "a")
    await settle()
    await world.lifecycle.aclose()
    with pytest.raises(BackendUnavailable, match="stopping"):
        await waiting.task
    world.aside.let_go(BUILD)
    await settle()
    assert world.loader.closed == ["a"]


async def test_closing_may_be_cancelled_and_called_again() -> None:
    world = World()
    a = await held(world, "a")
    first = asyncio.create_task(world.lifecycle.aclose())
    await settle()
    first.cancel()
    second = asyncio.create_task(world.lifecycle.aclose())
    third = asyncio.create_task(world.lifecycle.aclose())
    await settle()
    await a.let_go()
    await asyncio.gather(second, third)
    assert world.loader.closed == ["a"]


async def test_closing_does_not_hang_on_a_model_that_cannot_be_closed() -> None:
    world = World(longest_close_s=0.01)
    await world.touch("a", "b")
    world.loader.close_errors["a"] = RuntimeError("no")
    world.aside.hold(UNLOAD)
    await world.lifecycle.aclose()
    assert world.lifecycle.charged_bytes == 20 * MB
    world.aside.let_go(UNLOAD)
    await settle()
    assert world.lifecycle.charged_bytes == 0
