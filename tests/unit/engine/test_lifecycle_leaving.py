"""Models leave when nobody needs them, when somebody says so, and when the server stops."""

import asyncio
from collections.abc import Callable

import pytest

from fledge.engine.lifecycle import Lifecycle
from fledge.engine.ports import LifecycleOptions, Memory
from fledge.errors import (
    BackendUnavailable,
    CorruptModel,
    ModelLoadError,
    ModelNotFound,
    OutOfMemory,
)
from tests.unit.engine.lifecycle_fakes import (
    BUILD,
    FIND,
    MB,
    UNLOAD,
    FakeLoader,
    FakeModel,
    Holding,
    Size,
    World,
    entry,
    held,
    settle,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
    loader, closed = FakeLoader(), asyncio.Event()
    loop = asyncio.get_running_loop()
    lifecycle = Lifecycle(
        loader,
        LifecycleOptions(budget_bytes=30 * MB, keep_alive_s=0.01),
        memory=Memory(lambda: 0, lambda: loop.call_soon_threadsafe(closed.set) and None),
    )
    await lifecycle.load(entry("a"))
    closed.clear()
    await asyncio.wait_for(closed.wait(), 10)
    assert loader.closed == ["a"]


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


def preloaded(*names: str, **options: object) -> World:
    """A world whose models were loaded before any event loop ran."""
    world = World(**options)  # type: ignore[arg-type] # by the options' own names
    for name in names:
        world.lifecycle.load_now(entry(name))
    return world


@pytest.fixture
def in_a_loop() -> Callable[[World], None]:
    async def use_all(world: World) -> None:
        for name in world.loader.loaded:
            assert world.state(name) == "warm"
            await world.touch(name)
        await world.lifecycle.aclose()

    return lambda world: asyncio.run(use_all(world))


def test_models_are_loaded_before_the_loop_runs_and_used_in_it(
    in_a_loop: Callable[[World], None],
) -> None:
    world = preloaded("a", "b", "b", keep_alive_s=60.0)
    assert world.loader.loaded == ["a", "b"]
    assert world.lifecycle.charged_bytes == 20 * MB
    assert [one[0] for one in world.observer.loads] == ["a", "b"]
    in_a_loop(world)
    assert world.loader.closed == ["a", "b"]


def test_a_model_that_is_loaded_before_the_loop_runs_makes_nobody_leave() -> None:
    world = preloaded("a", "b", budget_bytes=25 * MB)
    with pytest.raises(OutOfMemory, match=r"c needs 10\.0 MB.*25\.0 MB.*before.*20\.0 MB.*a, b"):
        world.lifecycle.load_now(entry("c"))
    world.loader.sizes["d"] = Size(needed=5 * MB, taken=6 * MB)
    with pytest.raises(OutOfMemory, match=r"d needs 6\.0 MB"):
        world.lifecycle.load_now(entry("d"))
    world.loader.sizes["e"] = Size(estimate=50 * MB)
    with pytest.raises(OutOfMemory, match=r"e needs 50\.0 MB"):
        world.lifecycle.load_now(entry("e"))
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


def test_a_running_model_is_adopted_as_a_warm_one(in_a_loop: Callable[[World], None]) -> None:
    world = World()
    closed: list[str] = []
    model = FakeModel("a", lambda: closed.append("a"))
    world.lifecycle.adopt(entry("a"), model, memory_bytes=5 * MB)
    assert world.lifecycle.status(entry("a")).memory_bytes == 5 * MB
    with pytest.raises(OutOfMemory):
        world.lifecycle.adopt(entry("b"), FakeModel("b", lambda: None), memory_bytes=26 * MB)
    asyncio.run(world.touch("a"))
    in_a_loop(world)
    assert (world.loader.loaded, closed) == ([], ["a"])


def test_models_that_were_loaded_before_the_loop_ran_leave_when_idle_once_requests_come() -> None:
    world = preloaded("a", "b", keep_alive_s=60.0)

    async def scenario() -> None:
        world.clock.now_s += 100
        await world.touch("b")
        world.lifecycle.sweep()
        await settle()
        assert world.loader.closed == ["a"]
        await world.lifecycle.aclose()

    asyncio.run(scenario())
