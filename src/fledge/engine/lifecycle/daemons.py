"""Blocking calls in threads that do not keep the process from ending.

The interpreter joins the threads of a `ThreadPoolExecutor` when it exits, so that a download of an
hour, or a driver that never returns, would hold up the end of the server for as long.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

T = TypeVar("T")


class Aside(Protocol):
    """Runs a blocking call beside the event loop."""

    def __call__(self, name: str, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Begin the call; the future has its result, or what it raised."""
        ...


def call_in_daemon(name: str, function: Callable[[], T]) -> "asyncio.Future[T]":
    """Call a function in a thread of its own.

    Cancelling the future does not end the call: its result is then thrown away.

    Args:
        name: the thread's.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def succeed(result: T) -> None:
        if not future.cancelled():
            future.set_result(result)

    def fail(error: BaseException) -> None:
        if not future.cancelled():
            future.set_exception(error)

    def run() -> None:
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                loop.call_soon_threadsafe(fail, _for_a_future(error))
            else:
                loop.call_soon_threadsafe(succeed, result)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:  # the system has no thread left
        fail(error)
    return future


def _for_a_future(error: BaseException) -> Exception:
    """An error that a future takes, and that does not end the event loop when it is raised there.

    StopIteration is refused by futures, SystemExit and KeyboardInterrupt end the loop.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"{type(error).__name__} was raised in a thread")
    wrapped.__cause__ = error
    return wrapped
