"""Work that lets computing go first: in a thread of its own, at a low priority.

Only a privileged process may raise a thread's priority again, and threads inherit it. So the
thread ends with its work, and nothing that starts threads for others to use belongs into it.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

NICENESS = 15
"""How far the work stands back. While a bert-large shape loads, the p99 of another model's single
queries, sent without a pause, rises by 8 to 20 ms at 10 and by about 5 at 15 or 19; the load then
takes 3.5 s at 10, 5 at 15, 6.5 at 19, and no more beside bulk work (2 cores, Linux 6.18, which
takes sched_yield, with which the runtime waits for its threads, for an offer to everybody else)."""


def call_yielding(name: str, function: Callable[[], T]) -> T:
    """Call a function in a thread of low priority, and wait for it.

    An interrupt ends the waiting; the thread goes on, and what it makes is thrown away.

    Args:
        name: the thread's.
        function: what it raises is raised here.
    """
    future: Future[T] = Future()
    threading.Thread(target=_run, name=name, args=(future, function), daemon=True).start()
    try:
        return future.result()
    finally:
        del future  # an error's traceback leads here, and would keep itself and all else alive


def _run(future: "Future[T]", function: Callable[[], T]) -> None:
    _lower_priority()
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        future.set_exception(error)
    finally:
        del future  # likewise


def _lower_priority() -> None:
    """Of the calling thread, for as long as it lives; elsewhere priorities are a process's."""
    if sys.platform == "linux":
        with suppress(OSError):  # it is lower already
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
