"""A thread that does one thing again and again, and outlives whatever goes wrong with it."""

import logging
import threading
from collections.abc import Callable

from fledge.errors import DatabaseUnavailable

_log = logging.getLogger(__name__)


class Ticker:
    """Calls `tick` every `interval_s` seconds in a daemon thread, from `start` to `stop`.

    A failure is logged when it begins and when it ends, not every time.

    Args:
        name: of the thread, and in the log.
        tick: what is done; it may block.
        interval_s: seconds from the end of one call to the beginning of the next.
    """

    def __init__(self, name: str, tick: Callable[[], None], interval_s: float) -> None:
        self._name = name
        self._tick = tick
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._is_failing = False

    def start(self) -> None:
        """Begin, one interval from now."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End the thread; a call that is running may take `timeout_s` more. Safe to call twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self._tick()
            except DatabaseUnavailable as error:
                self._fail(_reason(error))
            except Exception:  # noqa: BLE001 - the thread's edge: without it all stops
                self._fail("an error that nobody expected", is_expected=False)
            else:
                if self._is_failing:
                    _log.info("%s: works again", self._name)
                self._is_failing = False

    def _fail(self, what: str, *, is_expected: bool = True) -> None:
        if not self._is_failing:
            _log.error("%s: %s; trying again", self._name, what, exc_info=not is_expected)
        self._is_failing = True


def _reason(error: DatabaseUnavailable) -> str:
    """The error and the first line of the driver's, whose others repeat the statement."""
    lines = str(error.__cause__ or "").splitlines()
    return f"{error} ({lines[0]})" if lines else str(error)
