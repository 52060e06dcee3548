"""Threads that were made for a load, at a low priority, never compute for anybody afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fledge.engine.yielding import NICENESS


@pytest.mark.skipif(sys.platform != "linux", reason="priorities are a process's elsewhere")
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system keeps no times")
def test_no_thread_that_was_started_for_a_load_computes_for_anybody(tmp_path: Path) -> None:
    if os.getpriority(os.PRIO_PROCESS, 0) >= NICENESS:
        pytest.skip("all threads stand back already")
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.standing_back", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    seconds = json.loads(done.stdout)
    assert seconds["after"]  # the second load's own: the runtime keeps them for the next one
    assert seconds["after"] == {one: seconds["before"][one] for one in seconds["after"]}
