"""Load one model, then another while the first could compute; let both compute, and print how long
each thread of low priority was on a core before that and after.

Run by `test_standing_back.py` in a process of its own, where no other test has made threads.
Argument: a folder for the models.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from fledge.engine.backend import LocalBackend, load_transformer
from fledge.engine.lane import Lane
from fledge.engine.packing import Row
from fledge.engine.recipe import read_recipe
from fledge.engine.sources import ModelFolder
from fledge.engine.yielding import NICENESS
from tests.tiny import save_bert


def load(folder: Path, lane: Lane) -> LocalBackend:
    """The model, in fp32, with two threads."""
    return load_transformer(
        ModelFolder(folder, f"test/{folder.name}", "abc", "a test"),
        read_recipe(folder),
        lane=lane,
        precision="fp32",
        threads=2,
        cache_dir=folder.parent / "cache",
    )


def seconds_of_those_that_stand_back() -> dict[int, float]:
    """How long each of the threads of low priority has spent on a core."""
    seconds = {}
    for folder in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has just ended
            if os.getpriority(os.PRIO_PROCESS, int(folder.name)) >= NICENESS:
                nanoseconds = int((folder / "schedstat").read_text().split()[0])
                seconds[int(folder.name)] = nanoseconds / 1e9
    return seconds


def main() -> None:
    home = Path(sys.argv[1])
    lane = Lane(batch_target_ms=35, max_queued_tokens=10**6)
    first = load(save_bert(home / "first"), lane)
    second = load(save_bert(home / "second"), lane)
    before = seconds_of_those_that_stand_back()
    for backend in (first, second):
        for _ in range(20):
            rows = [Row([5] * 40)] * 8
            lane.submit(backend._channel, rows, priority=0, deadline=None).result(timeout=60)
    after = seconds_of_those_that_stand_back()
    first.close()
    second.close()
    sys.stdout.write(json.dumps({"before": before, "after": after}))


if __name__ == "__main__":
    main()
