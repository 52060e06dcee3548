"""An event loop for callers that have none: what lets plain functions await."""

import atexit
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

Result = TypeVar("Result")


class BackgroundLoop:
    """One event loop in a daemon thread, for every caller.

    Started by the first call, shared by every model, stopped when the interpreter exits.
    """

    def __init__(self) -> None:
        # A thread lock: the first calls may come from several threads, and nothing awaits under it.
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def run(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Await the call over there, and wait here; an interrupt here cancels it there."""
        future = self._started().start_task_soon(call)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _started(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None:
                self._portal = self._stack.enter_context(
                    start_blocking_portal(name="fledge-library")
                )
                atexit.register(self._stack.close)
            return self._portal
