"""What an interrupted run leaves behind, so that the next one goes on where it stopped.

`OUTPUT.fledge-progress` says how far the partial file may be trusted, and what it was made from. It
is replaced in one step after the bytes it speaks of are on the disk, so a run killed at any
moment leaves a true one. It is removed when the output is complete.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import orjson

from fledge.errors import FileFormatError

PROGRESS_SUFFIX = ".fledge-progress"

Identity: TypeAlias = Mapping[str, str | int | float | bool | None]
"""Everything that decides the output: model, revision, options, and the input's fingerprint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come.

    Attributes:
        identity: what the rows were made from, and how.
        length: bytes of the partial file that hold complete rows.
        rows: rows in them.
        empty: those of the rows that have no vector.
        truncated: those that were cut to the model's length.
    """

    identity: Identity
    length: int
    rows: int = 0
    empty: int = 0
    truncated: int = 0


def progress_path(output: Path) -> Path:
    """Where the progress of this output is kept."""
    return output.with_name(output.name + PROGRESS_SUFFIX)


def save_progress(output: Path, progress: Progress) -> None:
    """Replace what is recorded, in one step."""
    path = progress_path(output)
    written = path.with_name(path.name + ".new")
    with written.open("wb") as file:
        file.write(orjson.dumps(progress, option=orjson.OPT_INDENT_2))
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


def read_progress(output: Path) -> Progress | None:
    """What an earlier run recorded; None when there is nothing.

    Raises:
        FileFormatError: there is something, and it is no record of a run.
    """
    path = progress_path(output)
    try:
        return Progress(**orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, TypeError):
        raise FileFormatError(
            f"{path} is damaged, so the interrupted run cannot be continued; "
            "pass --overwrite to start again"
        ) from None


def differences(old: Identity, new: Identity) -> str:
    """What is not the same, as "precision was 'bf16', now 'fp32'"; empty when all is."""
    return "; ".join(
        f"{key} was {old.get(key)!r}, now {new.get(key)!r}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    )
