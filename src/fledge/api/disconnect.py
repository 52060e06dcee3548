"""Giving up work that nobody waits for any more."""

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

from fledge.api.bodies import ClientLeft

# Most requests are answered sooner, and then no task is made for the watching.
_PATIENCE_S = 0.05


class DisconnectWatch:
    """Cancels the task inside it when the client closes its connection; raises `ClientLeft` then.

    Only for use once the whole body was read: it is the one that calls `receive` from there on.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._has_left = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        """Begin to watch, after a moment."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a DisconnectWatch needs a task to cancel")
        self._task = task
        self._timer = task.get_loop().call_later(_PATIENCE_S, self._start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop watching; turn a cancellation of our own into `ClientLeft`."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._has_left and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientLeft

    def _start(self) -> None:
        self._watcher = self._task.get_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        self._task.cancel()
