"""Measures how far every architecture is from the reference, and writes the table of the docs.

    python -m tests.parity.table

The checkpoints and texts are those of the parity tests. Digits differ a little from CPU to CPU, so
no test compares them; one compares the list of architectures.
"""

import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fledge.types import Vectors
from tests.parity.agreement import BF16_ALLOWANCE, FP32_TOLERANCE
from tests.parity.checkpoints import DEVIATION, FAMILIES, Recipe, make_checkpoint
from tests.parity.engine import Engine, has_bf16
from tests.parity.reference import Reference, cosines, relative_error, relative_errors
from tests.parity.texts import TEXTS

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"

HEAD = f"""# How close the vectors are

Each architecture on a small random checkpoint, written by transformers' own code, against
sentence-transformers in float32 on {len(TEXTS)} texts of every kind and length. The weights have a
standard deviation of {DEVIATION}, ten times the usual: what is a wrong constant in the arithmetic,
or a rounding, shows here many times larger than on a trained model.

- **fp32**: the largest relative L2 error of a vector. The tests allow {FP32_TOLERANCE:.0e}.
- **bf16**: the relative L2 error over all vectors. Beside it that of torch computing in bf16; the
  tests allow {BF16_ALLOWANCE} times as much.
- **int8**: the least cosine of a vector to its counterpart in float32.

`python -m tests.parity.table` measures and writes this page.

| architecture | fp32 | bf16 | bf16 of torch | int8 |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Measured:
    """One line of the table; None where this CPU does not compute bf16 natively."""

    family: str
    fp32: float
    bf16: float | None = None
    bf16_of_torch: float | None = None
    int8: float | None = None

    def line(self) -> str:
        """The line in Markdown."""
        errors = (self.fp32, self.bf16, self.bf16_of_torch)
        cells = ["-" if error is None else f"{error:.1e}" for error in errors]
        cells.append("-" if self.int8 is None else f"{self.int8:.4f}")
        return f"| `{self.family}` | {' | '.join(cells)} |\n"


def measure(family: str, engine: Engine, root: Path) -> Measured:
    """All precisions of one family's plain checkpoint."""
    folder = make_checkpoint(Recipe(family=family), root)
    exact = Reference(folder).embed(TEXTS)
    worst = float(relative_errors(engine.embed(folder, TEXTS), exact).max())
    if not has_bf16():
        return Measured(family, worst)
    of_torch: Vectors = Reference(folder, "bfloat16").embed(TEXTS)
    return Measured(
        family,
        worst,
        relative_error(engine.embed(folder, TEXTS, "bf16"), exact),
        relative_error(of_torch, exact),
        float(cosines(engine.embed(folder, TEXTS, "int8"), exact).min()),
    )


def page(lines: Iterable[Measured]) -> str:
    """The whole page."""
    return HEAD + "".join(line.line() for line in lines)


def main() -> None:
    """Measure every family and write the page."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        engine = Engine(root / "weights")
        measured = []
        for family in sorted(FAMILIES):
            measured.append(measure(family, engine, root))
            sys.stderr.write(measured[-1].line())
        engine.close()
    PAGE.write_text(page(measured), "utf-8")


if __name__ == "__main__":
    main()
