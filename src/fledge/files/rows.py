"""The words that readers and writers share: a row, a chunk of rows, and a chunk with its vectors.

Row number n of an output belongs to row number n of its input, always: that is why an empty row
becomes a null instead of going away.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fledge.types import Vectors

Row: TypeAlias = str | None
"""A row's text; None where the input has none."""


class Source(Protocol):
    """One input, read from its first row to its last, as often as asked."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    @property
    def fraction(self) -> float | None:
        """How much of it the current pass has read, 0 to 1; None when its size is unknown."""
        ...

    @property
    def fingerprint(self) -> dict[str, str | int | None]:
        """What must be the same for two passes to give the same rows."""
        ...

    def rows(self) -> Generator[Row, None, None]:
        """A new pass from the first row.

        Raises:
            FileFormatError: the file is not what its ending says; names the line and the byte.
        """
        ...


@dataclass(frozen=True, slots=True)
class Computed:
    """Consecutive rows with their vectors.

    Attributes:
        rows: every row, the empty ones too.
        kept: the indices in `rows` of those that have a vector, rising.
        vectors: `[len(kept), dim]`.
        truncated: how many of the rows were cut to the model's length.
    """

    rows: Sequence[Row]
    kept: Sequence[int]
    vectors: Vectors
    truncated: int


def is_empty(row: Row) -> bool:
    """Whether there is nothing to embed: no value, or nothing but white space."""
    return row is None or not row.strip()
