"""Fledge as a user has it: `fledge.load`, with the models kept open between tests."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fledge
from fledge.types import Item, Precision, Vectors

KEPT_OPEN = 3


def _cpu_flags() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text("utf-8").split())
    except OSError:
        return set()


def has_bf16() -> bool:
    """Whether this CPU computes bf16 natively."""
    return "avx512_bf16" in _cpu_flags()


needs_bf16 = pytest.mark.skipif(
    not has_bf16(),
    reason="this CPU does not compute bf16 natively (no avx512_bf16 in /proc/cpuinfo)",
)
PRECISIONS = (
    "fp32",
    pytest.param("bf16", marks=needs_bf16),
    pytest.param("int8", marks=needs_bf16),
)


class Engine:
    """Loads folders, and keeps the last few models open: compiling one costs more than a test."""

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = cache_dir
        self._open: OrderedDict[tuple[Path, Precision], fledge.Model] = OrderedDict()

    def load(self, folder: Path, precision: Precision = "fp32") -> fledge.Model:
        """The model of a folder."""
        key = (folder, precision)
        model = self._open.get(key)
        if model is None:
            while len(self._open) >= KEPT_OPEN:
                self._open.popitem(last=False)[1].close()
            model = fledge.load(str(folder), precision=precision, cache_dir=self._cache_dir)
            self._open[key] = model
        self._open.move_to_end(key)
        return model

    def embed(
        self, folder: Path, items: Sequence[Item], precision: Precision = "fp32", **options: Any
    ) -> Vectors:
        """All items in one call."""
        return self.load(folder, precision).embed(list(items), **options)

    def embed_alone(
        self, folder: Path, items: Sequence[Item], precision: Precision = "fp32"
    ) -> Vectors:
        """Each item in a call of its own."""
        model = self.load(folder, precision)
        return np.stack([model.embed(item) for item in items])

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            self._open.popitem()[1].close()
