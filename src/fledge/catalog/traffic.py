"""Which models this server is asked for: the numbers behind `trending`."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

HALF_LIFE_S = 24 * 3600.0
"""After a day a request counts half: what is asked for today leads, and a quiet night changes
nothing in the order."""


@dataclass(slots=True)
class _Count:
    score: float = 0.0
    at: float = 0.0
    total: int = 0


class Traffic:
    """Requests by model, of which old ones count less.

    Only models that answered are counted, so that nobody fills the memory with names.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[str, _Count] = {}

    def count(self, model: str) -> None:
        """One request was answered."""
        count = self._counts.setdefault(model, _Count())
        now = self._clock()
        count.score = count.score * _decay(now - count.at) + 1
        count.at = now
        count.total += 1

    def trending(self, model: str) -> float:
        """Its requests, each halved for every `HALF_LIFE_S` that has passed since."""
        count = self._counts.get(model)
        return 0.0 if count is None else count.score * _decay(self._clock() - count.at)

    def total(self, model: str) -> int:
        """All its requests since the server started."""
        return self._counts[model].total if model in self._counts else 0


def _decay(seconds: float) -> float:
    return math.exp2(-seconds / HALF_LIFE_S)
