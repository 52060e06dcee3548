"""How fast this machine reads a model's files."""

import time
from pathlib import Path

from fledge.engine import folders

PIECE_BYTES = 256 * 2**10
"""Read at once: 12 ms of a slow disk."""

MOST_BYTES = 16 * 2**20
MOST_S = 0.03
LEAST_BYTES = 2**20
"""Below it, opening the file counts for more than reading it."""


def measure_bytes_per_s(path: Path) -> float | None:
    """The speed at which a model's weights can be read now, from the page cache or from the disk.

    Reads a few megabytes from the middle of the largest file, for some hundredths of a second: the
    beginning has been read by whoever looked at its header, and says nothing about the rest.

    Args:
        path: a model's folder, or a file.

    Returns:
        Bytes a second; None where there is no file, or one too small to tell.
    """
    try:
        files = list(folders.model_files(path)) if path.is_dir() else [path]
        largest = max(files, key=lambda file: file.stat().st_size, default=None)
        return None if largest is None else _measure(largest)
    except OSError:  # the file went away, or cannot be read: loading will say so
        return None


def _measure(path: Path) -> float | None:
    piece = bytearray(PIECE_BYTES)
    with path.open("rb", buffering=0) as file:
        file.seek(path.stat().st_size // 2)
        done, seconds, start = 0, 0.0, time.perf_counter()
        while done < MOST_BYTES and seconds < MOST_S and (count := file.readinto(piece)):
            done += count
            seconds = time.perf_counter() - start
    return done / seconds if done >= LEAST_BYTES or seconds >= MOST_S else None
