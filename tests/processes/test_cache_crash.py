"""Processes that are killed while they write to the cache's folder."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from fledge.cache.database import Database
from tests.processes.cache_writer import AT_ONCE, BUDGET_BYTES, pair

ROOT = Path(__file__).parents[2]
KILLS = 20
A_MILLION = 1_000_000
"""Between the first numbers of two writers."""


@contextmanager
def writing(folder: Path, writer: int) -> Iterator["subprocess.Popen[str]"]:
    """A process that writes, killed at the end of the block."""
    arguments = [str(folder), str(writer * A_MILLION)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.processes.cache_writer", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def right_entries(folder: Path, numbers: Sequence[int]) -> int:
    """How many entries of some numbers are there; none of them is damaged, or another's."""
    database = Database(folder, BUDGET_BYTES)
    pairs = [pair(number) for number in numbers]
    found = database.get([key for key, _ in pairs])
    database.close()
    assert database.damaged == 0
    for one, (_, entry) in zip(found, pairs, strict=True):
        assert one is None or one == entry
    return sum(one is not None for one in found)


def test_a_folder_is_whole_after_twenty_kills_in_the_middle_of_writing(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    with writing(tmp_path, KILLS) as survivor:
        assert survivor.stdout is not None
        survivor.stdout.readline()
        for victim in range(KILLS):
            with writing(tmp_path, victim) as process:
                assert process.stdout is not None
                lines = [process.stdout.readline() for _ in range(generator.integers(1, 30))]
                time.sleep(generator.uniform(0, 0.01))  # any moment will do
                process.kill()
                written = int([*lines, *process.stdout.readlines()][-1])
            first = victim * A_MILLION
            # The newest are there; the other writer has pushed out older ones at most.
            assert right_entries(folder=tmp_path, numbers=range(written - AT_ONCE, written)) > 0
            right_entries(tmp_path, range(first, written + 10 * AT_ONCE))
    assert [path.name for path in tmp_path.glob("*.sqlite3")] == ["vectors-1.sqlite3"]
    with closing(sqlite3.connect(tmp_path / "vectors-1.sqlite3")) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert (tmp_path / "vectors-1.sqlite3").stat().st_size <= BUDGET_BYTES
