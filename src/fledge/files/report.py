"""What a run over many rows did: counted while it runs, told at its end."""

import time
from dataclasses import dataclass

from fledge.files.rows import Computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did.

    Attributes:
        rows: rows of the output.
        resumed: those of them that an earlier run had computed.
        empty: rows without a vector.
        truncated: rows cut to the model's length.
        seconds: time of this run.
    """

    rows: int
    resumed: int
    empty: int
    truncated: int
    seconds: float

    @property
    def embedded(self) -> int:
        """Rows that have a vector."""
        return self.rows - self.empty

    @property
    def rows_per_second(self) -> float:
        """The speed of this run, without what an earlier one had done."""
        return (self.rows - self.resumed) / self.seconds if self.seconds else 0.0


class Tally:
    """The counts of a run so far; the arguments are those of the run that it continues."""

    def __init__(self, *, rows: int = 0, empty: int = 0, truncated: int = 0) -> None:
        self.rows = rows
        self.empty = empty
        self.truncated = truncated
        self._resumed = rows
        self._started = time.monotonic()

    def add(self, computed: Computed) -> None:
        """Count some more rows."""
        self.rows += len(computed.rows)
        self.empty += len(computed.rows) - len(computed.kept)
        self.truncated += computed.truncated

    def report(self) -> Report:
        """What was done until now."""
        return Report(
            rows=self.rows,
            resumed=self._resumed,
            empty=self.empty,
            truncated=self.truncated,
            seconds=time.monotonic() - self._started,
        )
