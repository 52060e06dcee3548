"""Memory really returns: many loads of models of many shapes leave no more of it in use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import save_bert

LOADS = 50
SHAPES = [(64, 1), (128, 2), (192, 3), (256, 4), (384, 2), (64, 6), (320, 1)]


@pytest.mark.timeout(900)
def test_fifty_loads_and_unloads_of_varied_shapes_leave_no_memory_behind(tmp_path: Path) -> None:
    for number, (hidden, layers) in enumerate(SHAPES):
        save_bert(
            tmp_path / "models" / f"model-{number}",
            hidden=hidden,
            layers=layers,
            vocab=250 + 500 * number,
            seed=number,
        )

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.engine.lifecycle_soak",
            tmp_path / "models",
            tmp_path / "cache",
            str(LOADS),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )

    assert done.returncode == 0, done.stderr
    memory_kib = json.loads(done.stdout)
    assert len(memory_kib) == LOADS
    # one reading jumps by megabytes now and then, so the lowest of the last five counts
    assert min(memory_kib[-5:]) <= 1.1 * memory_kib[4], memory_kib
