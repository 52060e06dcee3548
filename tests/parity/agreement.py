"""What "agrees with sentence-transformers" means, once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fledge.types import Vectors
from tests.parity.engine import Engine
from tests.parity.reference import Reference, relative_errors
from tests.parity.texts import TEXTS

FP32_TOLERANCE = 1e-5
"""Largest relative L2 error of one vector. Torch itself is within 2e-6 of float64 on these."""

BF16_ALLOWANCE = 1.5
"""How much further from fp32 than torch's own bf16 the engine's may be."""

ALONE_TOLERANCE = {"fp32": 1e-6, "bf16": 1e-3, "int8": 5e-3}
"""Largest difference of any number of a unit vector, between a batch and the text alone."""


def assert_vectors_agree(
    got: Vectors, wanted: Vectors, labels: Sequence[str], tolerance: float = FP32_TOLERANCE
) -> None:
    """Every row within the tolerance; the message names the worst."""
    assert got.dtype == np.float32
    assert got.shape == wanted.shape
    assert np.isfinite(got).all()
    errors = relative_errors(got, wanted)
    worst = int(errors.argmax())
    assert errors[worst] <= tolerance, (
        f"relative error {errors[worst]:.3g} > {tolerance:g} on {labels[worst][:40]!r}; "
        f"{int((errors > tolerance).sum())} of {len(errors)} texts are off"
    )


def assert_agrees(
    engine: Engine, folder: Path, texts: Sequence[str] = TEXTS, **options: Any
) -> None:
    """The engine's fp32 vectors of a folder are those of sentence-transformers."""
    wanted = Reference(folder).embed(texts, **options)
    assert_vectors_agree(engine.embed(folder, texts, **options), wanted, texts)
