"""Real processes that die in the middle of a file."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from fledge.files.progress import progress_path, read_progress

ROOT = Path(__file__).parents[2]
CHUNK = 10
TEXTS = [f"text number {number}" for number in range(200)]


def start(source: Path, output: Path, *, die_after: int = -1) -> subprocess.Popen[bytes]:
    log = output.with_suffix(".log")
    arguments = [str(source), str(output), str(log), str(die_after), str(CHUNK)]
    return subprocess.Popen([sys.executable, "-m", "tests.processes.crash", *arguments], cwd=ROOT)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("\n".join(TEXTS))
    return path


@pytest.mark.parametrize("name", ["out.jsonl", "out.npy", "out.parquet"])
def test_a_process_that_died_is_continued_without_computing_twice(
    source: Path, tmp_path: Path, name: str
) -> None:
    output, whole = tmp_path / name, tmp_path / f"whole-{name}"

    assert start(source, output, die_after=80).wait() == 9
    written = read_progress(output)
    assert written is not None
    assert 0 < written.rows < len(TEXTS)
    assert start(source, output).wait() == 0
    assert start(source, whole).wait() == 0

    times = Counter(output.with_suffix(".log").read_text().splitlines())
    twice = [text for text in TEXTS if times[text] > 1]
    assert set(times) == set(TEXTS)
    assert set(twice) <= set(TEXTS[written.rows : written.rows + 2 * CHUNK])
    assert output.read_bytes() == whole.read_bytes()


def test_a_process_killed_at_any_moment_is_continued(source: Path, tmp_path: Path) -> None:
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    for _ in range(3):
        before = read_progress(output)
        process = start(source, output)
        while read_progress(output) == before and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
        if not progress_path(output).exists():
            break

    if not output.exists():
        assert start(source, output).wait() == 0
    assert start(source, whole).wait() == 0
    assert output.read_bytes() == whole.read_bytes()
