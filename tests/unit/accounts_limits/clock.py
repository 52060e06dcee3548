"""A clock that a test sets."""

from datetime import UTC, datetime

from tests.unit.accounts_limits.obvious import MONTH_LEFT_MS

NEW_MONTH_S = datetime(2026, 12, 1, tzinfo=UTC).timestamp()


class Clock:
    """Whole milliseconds, and the Unix time that goes with them: near the end of a month."""

    def __init__(self) -> None:
        self.ms = 0

    def __call__(self) -> float:
        return 1000 + (self.ms + 0.5) / 1000  # in the middle, so that no rounding changes it

    def wall(self) -> float:
        return NEW_MONTH_S + (self.ms - MONTH_LEFT_MS) / 1000
