"""Whether a place may be asked, from what became of those who asked it.

Nothing is sent to find out: the results of requests tell. After failures a place rests; after the
rest one request tries it, alone. A place that says itself when to come again is believed.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fledge.routing.latency import Latency
from fledge.routing.outcomes import Fault

FAILURES = 3
"""In a row, after which a place rests. A guess: one or two may be chance."""

FIRST_REST_S = 1.0
LONGEST_REST_S = 30.0
"""A guess: as long may pass after it has come back until that is noticed."""

KEY_REST_S = 600.0
"""After it did not accept its key, or the name of the model: somebody has to mend that."""

LONGEST_TOLD_S = 3600.0
"""The longest that is believed."""

LONGEST_ERROR_CHARS = 300

HealthState: TypeAlias = Literal["well", "resting", "trying"]
"""`trying`: its rest is over, and one request is at it, or will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """How a place does with one model.

    Attributes:
        state: whether it may be asked.
        for_s: seconds since it is in that state.
        rest_s: of a resting one, seconds until it may be tried.
        running: requests that are at it now.
        successes: requests that it answered, since this process began.
        failures: those that it failed.
        request_ms: what a request takes, the mean of the last ones; None: not measured.
        text_ms: likewise, by the request's texts.
        last_error: its last failure, one line; empty: there was none.
        last_error_ago_s: seconds since then.
        last_status: the HTTP status of that failure, if it had one.
    """

    state: HealthState
    for_s: float
    rest_s: float = 0.0
    running: int = 0
    successes: int = 0
    failures: int = 0
    request_ms: float | None = None
    text_ms: float | None = None
    last_error: str = ""
    last_error_ago_s: float | None = None
    last_status: int | None = None


class Bell:
    """Rung when a place may be asked again. For one event loop."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake all who wait."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        """Until it rings, or so many seconds have passed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait([future], timeout=timeout_s)
        finally:
            self._waiting.discard(future)


class Health:
    """One place and one model. For one event loop.

    Args:
        clock: seconds.
        bell: rung when the place may be asked again.

    Attributes:
        latency: how long it takes.
        running: requests that are at it.
        last_fault: what went wrong last.
        last_status: its HTTP status.
        measured_s: when its time was last measured, by the clock.
        loads_until_s: when a model that was loading may be warm, likewise.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, bell: Bell | None = None
    ) -> None:
        self.latency = Latency()
        self.running = 0
        self.last_fault = ""
        self.last_status: int | None = None
        self.measured_s: float | None = None
        self.loads_until_s = 0.0
        self._clock = clock
        self._bell = bell or Bell()
        self._failed_s: float | None = None
        self._since_s = clock()
        self._successes = self._failures = 0
        self._strikes = 0
        self._rest_s = 0.0
        self._until_s: float | None = None
        self._is_told = False
        self._is_tried = False

    @property
    def is_well(self) -> bool:
        """Whether there is nothing against asking it."""
        return self._until_s is None

    @property
    def rest_s(self) -> float:
        """Seconds until it may be tried; 0: now, by one at a time."""
        return 0.0 if self._until_s is None else max(self._until_s - self._clock(), 0.0)

    @property
    def may_be_asked(self) -> bool:
        """Whether it is well, or its rest is over and nobody tries it."""
        return self.is_well or (not self._is_tried and not self.rest_s)

    @property
    def loads(self) -> bool:
        """Whether its model was said to be loading, and is likely to be at it still."""
        return self._clock() < self.loads_until_s

    @contextmanager
    def asked(self) -> Iterator[None]:
        """One request that is at it; nobody else is let through where it is a trial."""
        is_trial = not self.is_well
        self._is_tried = self._is_tried or is_trial
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            if is_trial:
                self._is_tried = False
                self._bell.ring()

    def succeed(self, texts: int, seconds: float) -> None:
        """It has computed some texts, in so many seconds."""
        self._successes += 1
        self.latency.add(texts, seconds)
        self.measured_s = self._clock()
        self.loads_until_s = 0.0
        self.respond()

    def load(self, seconds: float) -> None:
        """Its model is loading, for about so long."""
        self.loads_until_s = self._clock() + min(seconds, LONGEST_REST_S)

    def give_up(self, texts: int, seconds: float) -> None:
        """It was not waited for any longer, after so many seconds."""
        self.latency.add_unfinished(texts, seconds)
        self.measured_s = self._clock()

    def respond(self) -> None:
        """It has answered, if only that the request is none."""
        if self.is_well:
            self._strikes = 0
            self._rest_s = 0.0
        elif not (self._is_told and self.rest_s):
            # It takes two to make good for what was: after one, the next failure counts in full.
            self._strikes = FAILURES - 1
            self._change(None)

    def fail(self, fault: Fault) -> None:
        """It has failed."""
        self._failures += 1
        self._failed_s = self._clock()
        self.last_fault = one_line(fault.reason)
        self.last_status = fault.status
        told_s = KEY_REST_S if fault.is_lasting else fault.retry_after_s
        if told_s is not None:
            self._rest(min(max(told_s, 0.0), LONGEST_TOLD_S), is_told=True)
            return
        self._strikes = FAILURES if fault.is_throttled else self._strikes + 1
        # Those who were at it when it began to rest tell nothing new.
        is_resting = not self.is_well and self.rest_s > 0
        if is_resting or (self.is_well and self._strikes < FAILURES):
            return
        self._rest_s = min(2 * self._rest_s or FIRST_REST_S, LONGEST_REST_S)
        self._rest(self._rest_s, is_told=False)

    def note(self, reason: str) -> None:
        """Something went wrong that does not count against it."""
        self.last_fault, self.last_status = one_line(reason), None
        self._failed_s = self._clock()

    def forgive(self) -> None:
        """Let it be asked again, whatever was."""
        self._strikes, self._rest_s = 0, 0.0
        if not self.is_well:
            self._change(None)

    def report(self) -> HealthReport:
        """What a listing shows."""
        now_s = self._clock()
        latency = self.latency
        return HealthReport(
            state="well" if self.is_well else "resting" if self.rest_s else "trying",
            for_s=now_s - self._since_s,
            rest_s=self.rest_s,
            running=self.running,
            successes=self._successes,
            failures=self._failures,
            request_ms=None if latency.request_s is None else latency.request_s * 1000,
            text_ms=None if latency.text_s is None else latency.text_s * 1000,
            last_error=self.last_fault,
            last_error_ago_s=None if self._failed_s is None else now_s - self._failed_s,
            last_status=self.last_status,
        )

    def _rest(self, seconds: float, *, is_told: bool) -> None:
        until_s = self._clock() + seconds
        if self._until_s is None or until_s > self._until_s:
            self._is_told = is_told
            self._change(until_s)

    def _change(self, until_s: float | None) -> None:
        if (self._until_s is None) != (until_s is None):
            self._since_s = self._clock()
        self._until_s = until_s
        self._bell.ring()


def one_line(text: str) -> str:
    """A text for listings: on one line, without what a terminal would obey, and not long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= LONGEST_ERROR_CHARS else f"{line[: LONGEST_ERROR_CHARS - 3]}..."
