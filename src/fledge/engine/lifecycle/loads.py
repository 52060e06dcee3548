"""A model on its way into memory: what it is at, who waits for it, and how long it may take."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from fledge.engine.lifecycle.ports import Found
from fledge.engine.lifecycle.residents import Resident
from fledge.errors import FledgeError
from fledge.types import ModelEntry, Stage

LEARNING_RATE = 0.3
"""Weight of the newest load in the learned speed."""

FIXED_S = 0.2
"""What building takes whatever the size: compiling, and the first inferences of a small model."""

TELLING_BYTES = 32 * 2**20
"""A model of so many bytes takes longer than `FIXED_S` for its size."""

UNKNOWN_S = 5.0
"""Said of a model of which not even the size is known. A guess."""

SHORTEST_S = 0.5
"""The least that is said of a load that goes on: who comes back sooner asks in vain."""


LONGEST_GUESS_S = 60.0
"""The most that is said where nobody knows, as of a download: who waits may look again by then."""


@dataclass(eq=False, slots=True)
class Load:
    """One load of one model, however many wait for it.

    Attributes:
        entry: the model.
        began_s: when it was begun, by the clock of the lifecycle.
        stage: what it is at.
        stage_began_s: since when.
        found: its files, once they are found.
        waiters: a future for each caller who still waits; it gets the model, held for that caller
            already, so that it cannot leave before the caller has seen it.
        task: the loading itself; it ends when the waiters have been answered.
    """

    entry: ModelEntry
    began_s: float
    stage: Stage = "waiting"
    stage_began_s: float = field(init=False)
    found: Found | None = None
    waiters: "set[asyncio.Future[Resident]]" = field(default_factory=set)
    task: "asyncio.Task[object]" = field(init=False)

    def __post_init__(self) -> None:
        self.stage_began_s = self.began_s

    def enter(self, stage: Stage, now_s: float) -> None:
        """Go on to the next stage."""
        self.stage, self.stage_began_s = stage, now_s

    def remaining_s(self, estimate_s: float | None, now_s: float) -> float:
        """About how much longer it takes, where building takes `estimate_s`, if that is known."""
        if estimate_s is None:
            estimate_s = UNKNOWN_S
        elapsed_s = now_s - self.stage_began_s
        if self.stage == "building":
            return max(estimate_s - elapsed_s, SHORTEST_S)
        # Nobody knows how long a download or other loads take: guess as long again, to a point.
        return max(estimate_s, min(elapsed_s, LONGEST_GUESS_S), SHORTEST_S)

    def answer(self, resident: Resident) -> int:
        """Give the model to everybody who still waits, and say to how many."""
        for waiter in self.waiters:
            waiter.set_result(resident)
        return len(self.waiters)

    def refuse(self, error: Callable[[], FledgeError]) -> None:
        """Give everybody who still waits an error of their own."""
        for waiter in self.waiters:
            waiter.set_exception(error())


class LoadTimes:
    """How long building takes, learned from every model that was built.

    Args:
        bytes_per_s: the speed of this machine's disk, for as long as nothing was learned.
    """

    def __init__(self, bytes_per_s: Callable[[], float]) -> None:
        self._measured = bytes_per_s
        self._learned: float | None = None

    def learn(self, size_bytes: int, seconds: float) -> None:
        """Take a build into account. A small model's says nothing of the speed."""
        if size_bytes < TELLING_BYTES:
            return
        speed = size_bytes / max(seconds - FIXED_S, 1e-3)
        if self._learned is None:
            self._learned = speed
        else:
            self._learned += LEARNING_RATE * (speed - self._learned)

    def estimate_s(self, size_bytes: int) -> float:
        """Seconds for a model of so many bytes."""
        return FIXED_S + size_bytes / max(self._learned or self._measured(), 1.0)
