"""Tells a lane that is stuck from one that is slow, without waiting for either."""

import time
from collections.abc import Callable
from typing import NamedTuple

STUCK_S = 30.0
"""Far beyond any batch that was meant to take 35 ms: ten times as long under swapping or a noisy
neighbour is normal, and a thousand times is not. Short enough that callers, who wait 120 s at
most by default, are sent elsewhere in time."""

STUCK_FACTOR = 20
"""A single row of a large model on a slow machine may take minutes by itself: it is allowed so many
times what the model's speed says. That is known before the first batch, from warming up."""


class _Due(NamedTuple):
    model_id: str
    since_s: float
    limit_s: float


class Watch:
    """Since when something has to be computed, and how long that may take.

    Written by the lane, read by anybody: each is a single assignment, so no lock is needed, and
    none that a stuck thread holds is asked for.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._due: _Due | None = None

    def expect(self, model_id: str) -> None:
        """Work has come in; whoever was idle should begin with it."""
        if self._due is None:
            self._due = _Due(model_id, self._clock(), STUCK_S)

    def begin(self, model_id: str, expected_s: float) -> None:
        """A batch begins, and should take about so long."""
        limit_s = max(STUCK_S, STUCK_FACTOR * expected_s)
        self._due = _Due(model_id, self._clock(), limit_s)

    def rest(self) -> None:
        """Nothing is left to do."""
        self._due = None

    def problem(self) -> str | None:
        """Why it is taken for stuck; None: it is not."""
        due = self._due
        if due is None:
            return None
        late_s = self._clock() - due.since_s
        if late_s <= due.limit_s:
            return None
        return (
            f"the compute lane is stuck: nothing has come of its work for {due.model_id} "
            f"for {late_s:.0f} s"
        )
