"""A process that has unloaded its last model still gets its signals, and lives."""

import subprocess
import sys
from pathlib import Path

from tests.tiny import save_bert

PROGRAM = """
import signal, sys
from fledge.library import load

signal.signal(signal.SIGUSR1, lambda number, frame: print("got the signal"))
for _ in range(2):
    with load(sys.argv[1], cache_dir=sys.argv[2]) as model:
        model.embed("w4 w5")
    signal.raise_signal(signal.SIGUSR1)
"""


def test_a_signal_after_the_last_model_is_closed_is_handled(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "model")

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder, tmp_path / "cache"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout.splitlines()) == (0, ["got the signal"] * 2), done.stderr
