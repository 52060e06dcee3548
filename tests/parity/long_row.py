"""A process of its own for `test_long_rows.py`: embeds a long row, and tells what memory it took.

    python -m tests.parity.long_row FOLDER CACHE LENGTH...

One line of JSON comes out: the vectors, and by how many bytes the process grew at its largest
beyond what it was after short texts.
"""

import json
import sys
from pathlib import Path

import numpy as np

import fledge

VOCAB = 120


def ids_of_length(length: int) -> list[int]:
    """Random token ids, the beginning of one long row."""
    ids: list[int] = np.random.default_rng(5).integers(4, VOCAB, 32_768).tolist()
    return ids[:length]


def _resident_bytes(name: str) -> int:
    """`VmRSS`, resident now, or `VmHWM`, the most so far."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def main(folder: str, cache: str, *lengths: str) -> None:
    """Run; `lengths` are numbers of tokens, each embedded in a call of its own."""
    with fledge.load(folder, precision="fp32", cache_dir=Path(cache)) as model:
        for length in (1, 16, 64, 256):
            model.embed([ids_of_length(length)])
        before = _resident_bytes("VmRSS")
        vectors = [model.embed([ids_of_length(int(length))])[0].tolist() for length in lengths]
        grown = _resident_bytes("VmHWM") - before
    sys.stdout.write(json.dumps({"vectors": vectors, "grown_bytes": grown}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
