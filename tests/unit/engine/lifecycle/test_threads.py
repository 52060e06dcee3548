"""What blocks runs in threads of its own, and the lifecycle works with real ones as well."""

import asyncio
import subprocess
import sys
import threading

import pytest

from fledge.engine.lifecycle.daemons import call_in_daemon
from fledge.engine.lifecycle.lifecycle import Lifecycle
from fledge.engine.lifecycle.ports import LifecycleOptions, Memory
from fledge.errors import ModelLoadError
from tests.unit.engine.lifecycle.fakes import MB, FakeLoader, entry

pytestmark = pytest.mark.anyio

TIMEOUT_S = 10


async def test_a_call_runs_in_a_daemon_thread_of_that_name() -> None:
    thread = await call_in_daemon("some-work", threading.current_thread)
    assert (thread.name, thread.daemon) == ("some-work", True)


async def test_the_loop_goes_on_meanwhile() -> None:
    gate = threading.Event()
    call = call_in_daemon("waits", lambda: gate.wait(TIMEOUT_S))
    await asyncio.sleep(0)
    assert not call.done()
    gate.set()
    assert await call


async def test_what_the_call_raises_is_raised_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        await call_in_daemon("fails", fail)


@pytest.mark.parametrize("family", [StopIteration, SystemExit, KeyboardInterrupt])
async def test_what_a_future_or_the_loop_could_not_bear_comes_wrapped(
    family: type[BaseException],
) -> None:
    def fail() -> None:
        raise family

    with pytest.raises(RuntimeError, match=family.__name__) as error:
        await call_in_daemon("fails", fail)
    assert isinstance(error.value.__cause__, family)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_call_that_nobody_waits_for_any_more_ends_in_silence(fails: bool) -> None:
    gate = threading.Event()

    def wait() -> None:
        gate.wait(TIMEOUT_S)
        if fails:
            raise KeyError

    call = call_in_daemon("waits", wait)
    call.cancel()
    gate.set()
    await call_in_daemon("after", lambda: _join("waits"))
    await asyncio.sleep(0)
    assert call.cancelled()


def test_a_call_may_outlive_its_loop() -> None:
    gate = threading.Event()

    async def begin() -> None:
        call_in_daemon("waits-on", lambda: gate.wait(TIMEOUT_S))

    asyncio.run(begin())
    gate.set()
    _join("waits-on")


async def test_a_system_without_threads_left_is_an_error_of_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as system:
        system.setattr(threading.Thread, "start", refuse)
        call = call_in_daemon("none", lambda: None)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await call


def _join(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(TIMEOUT_S)


def test_a_call_that_never_ends_does_not_keep_the_process_from_ending() -> None:
    program = (
        "import asyncio, threading\n"
        "from fledge.engine.lifecycle.daemons import call_in_daemon\n"
        "async def begin(): call_in_daemon('never', threading.Event().wait)\n"
        "asyncio.run(begin())\n"
        "print('over')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert (ended.stdout, ended.stderr) == ("over\n", "")


async def test_many_users_load_and_leave_under_a_small_budget() -> None:
    loader = FakeLoader()
    loader.load_errors["m5"] = StopIteration()
    lifecycle = Lifecycle(
        loader,
        LifecycleOptions(budget_bytes=30 * MB, fair_wait_s=0.01),
        memory=Memory(lambda: loader.memory_bytes, lambda: None),
    )
    failures = 0

    async def ask(number: int) -> None:
        nonlocal failures
        for turn in range(5):
            model = f"m{(number * 7 + turn * 3) % 6}"
            try:
                async with lifecycle.use(entry(model), patience_s=60) as backend:
                    assert backend.card.id == model
                    assert lifecycle.charged_bytes <= 30 * MB
                    await asyncio.sleep(0)
            except ModelLoadError:
                failures += 1
                assert model == "m5"

    await asyncio.wait_for(asyncio.gather(*(ask(number) for number in range(40))), 60)
    assert failures
    await lifecycle.aclose()
    assert loader.memory_bytes == lifecycle.charged_bytes == 0
