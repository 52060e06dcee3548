"""Work that lets computing go first: in a thread of its own, at a low priority.

Only a privileged process may raise a thread's priority again, and threads inherit it. So the
thread ends with its work, and nothing that starts threads for others to use belongs into it.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

NICENESS = 15
"""Enough that a waiting batch hardly notices, and not so much that a load never ends beside work
that never does: 19 would leave it a third of the time that 15 does."""


def call_yielding(name: str, function: Callable[[], T]) -> T:
    """Call a function in a thread of low priority, and wait for it.

    An interrupt ends the waiting; the thread goes on, and what it makes is thrown away.

    Args:
        name: the thread's.
        function: what it raises is raised here.
    """
    future: Future[T] = Future()

    def run() -> None:
        _lower_priority()
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        return future.result()
    finally:
        del future  # its error's traceback leads back to it, and to all that the function had


def _lower_priority() -> None:
    """Of the calling thread, for as long as it lives; elsewhere priorities are a process's."""
    if sys.platform == "linux":
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        except OSError:  # lower already, or the system has its own mind
            return
