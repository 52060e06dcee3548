"""`docs/parity.md` speaks of the architectures that exist. Its digits are one machine's."""

import re
from pathlib import Path

from fledge.engine.architectures.registry import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"
ROW = re.compile(r"^\| `([\w-]+)` \|(.*)\|$", re.MULTILINE)


def test_the_page_lists_exactly_the_architectures_that_exist() -> None:
    assert [name for name, _ in ROW.findall(PAGE.read_text("utf-8"))] == sorted(FAMILIES)


def test_every_architecture_was_measured_in_every_precision() -> None:
    for name, cells in ROW.findall(PAGE.read_text("utf-8")):
        fp32, bf16, bf16_of_torch, int8 = (float(cell) for cell in cells.split("|"))
        assert 0 < fp32 <= 1e-5, name
        assert 0 < bf16 <= 1.5 * bf16_of_torch, name
        assert 0.9 < int8 < 1, name
