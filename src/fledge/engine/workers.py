"""A few threads for what would hold up the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from fledge.errors import BackendUnavailable

UNLOADED = "the model has been unloaded"

THREADS = 2
"""A list of texts is spread over all cores by the tokenizers library; the second thread is for a
text that would wait behind it."""

Args = TypeVarTuple("Args")
T = TypeVar("T")


class Workers:
    """The threads of one model.

    Args:
        name: what the threads' names begin with.
    """

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)
        self._is_open = True

    async def run(self, function: Callable[[*Args], T], *args: *Args) -> T:
        """Call a function on one of the threads, and wait without holding up the loop.

        Raises:
            BackendUnavailable: the threads are closed; and whatever the function raises.
        """
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._threads, function, *args)
        except RuntimeError as error:
            if self._is_open:
                raise
            # closed by another thread after the caller had looked
            raise BackendUnavailable(UNLOADED) from error
        return await future

    def close(self) -> None:
        """Finish what was accepted, and take no more. Safe to call twice."""
        self._is_open = False
        self._threads.shutdown()
