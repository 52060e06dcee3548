"""Whether something that has failed may be asked again."""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

FAILURES = 3
"""In a row, after which it is left alone. A guess: one may be chance."""

FIRST_REST_S = 1.0
LONGEST_REST_S = 30.0
"""A guess: as long may pass after it has come back until that is noticed."""


class Breaker:
    """Closed while all is well; open, and to be left alone, after some failures in a row.

    After a rest it may be tried, by one. It takes two successes to make good for what was: after
    the first, one failure opens it again, and for twice as long.

    Args:
        what: the thing, for the log, as in "the cache in Redis".
        clock: seconds.
    """

    def __init__(self, what: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._strikes = 0
        self._rest_s = 0.0
        self._until_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is to be left alone; also when its rest is over, until it was tried."""
        return self._until_s is not None

    @property
    def remaining_s(self) -> float:
        """Seconds until it may be tried; 0: now."""
        until_s = self._until_s  # once, since another thread may change it
        return 0.0 if until_s is None else max(until_s - self._clock(), 0.0)

    def succeed(self) -> None:
        """It has worked."""
        if self.is_open:
            log.info("%s works again", self._what)
            self._until_s = None
            self._strikes = FAILURES - 1
        else:
            self._strikes = 0
            self._rest_s = 0.0

    def fail(self, reason: str) -> None:
        """It has not, for a reason that may be logged."""
        self._strikes += 1
        if self._strikes < FAILURES:
            return
        if not self.is_open:
            log.warning("%s does not work (%s): going on without it", self._what, reason)
        self._rest_s = min(2 * self._rest_s or FIRST_REST_S, LONGEST_REST_S)
        self._until_s = self._clock() + self._rest_s
