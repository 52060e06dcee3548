"""A load stands back behind computing, and nothing that computes is left standing back."""

import gc
import os
import sys
import threading
import weakref

import pytest

from fledge.engine.yielding import NICENESS, call_yielding

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
