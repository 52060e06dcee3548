"""A load stands back behind computing, and nothing that computes is left standing back."""

import gc
import os
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path

import pytest

from fledge.engine.backend import LocalBackend, load_transformer
from fledge.engine.lane import Lane
from fledge.engine.packing import Row
from fledge.engine.recipe import read_recipe
from fledge.engine.sources import ModelFolder
from fledge.engine.yielding import NICENESS, call_yielding
from tests.tiny import save_bert

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere threads have no priority of their own"
)


def own_niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_the_result_comes_from_a_thread_of_that_name() -> None:
    assert call_yielding("some-work", lambda: threading.current_thread().name) == "some-work"


@linux_only
def test_the_work_stands_back_and_its_caller_does_not() -> None:
    before = own_niceness()
    assert call_yielding("some-work", own_niceness) == max(NICENESS, before)
    assert own_niceness() == before


class Large:
    """Something whose end can be seen."""


def test_an_error_is_raised_at_the_caller_and_keeps_nothing_alive() -> None:
    seen: list[weakref.ref[Large]] = []

    def fail() -> None:
        large = Large()
        seen.append(weakref.ref(large))
        raise ValueError("in the work")

    gc.disable()
    try:
        with pytest.raises(ValueError, match="in the work"):
            call_yielding("some-work", fail)
        assert seen[0]() is None
    finally:
        gc.enable()


def load(folder: Path, lane: Lane) -> LocalBackend:
    return load_transformer(
        ModelFolder(folder, f"test/{folder.name}", "abc", "a test"),
        read_recipe(folder),
        lane=lane,
        precision="fp32",
        threads=2,
        cache_dir=folder.parent / "cache",
    )


def seconds_of_those_that_stand_back() -> dict[int, float]:
    """How long each of the threads of low priority has spent on a core."""
    seconds = {}
    for folder in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has just ended
            if os.getpriority(os.PRIO_PROCESS, int(folder.name)) >= NICENESS:
                nanoseconds = int((folder / "schedstat").read_text().split()[0])
                seconds[int(folder.name)] = nanoseconds / 1e9
    return seconds


@linux_only
@pytest.mark.skipif(own_niceness() >= NICENESS, reason="all threads stand back already")
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system keeps no times")
def test_no_thread_that_was_started_for_a_load_computes_for_anybody(tmp_path: Path) -> None:
    lane = Lane(batch_target_ms=35, max_queued_tokens=10**6)
    first = load(save_bert(tmp_path / "first"), lane)
    second = load(save_bert(tmp_path / "second"), lane)
    before = seconds_of_those_that_stand_back()
    for backend in (first, second):
        for _ in range(20):
            rows = [Row([5] * 40)] * 8
            lane.submit(backend._channel, rows, priority=0, deadline=None).result(timeout=60)
    after = seconds_of_those_that_stand_back()
    assert after  # the second load's own: the runtime keeps them for the next one
    assert after == {thread: before[thread] for thread in after}
    first.close()
    second.close()
