"""The verdicts of comparisons in a small file, so that a restart need not ask again."""

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias, get_args

from fledge.routing.spaces import Meaning, Verdict
from fledge.types import Similarity

log = logging.getLogger(__name__)

VERSION = 1
"""Raised when an entry comes to mean something else."""

MOST = 10_000
"""Entries; the latest are kept. About 3 MB."""

Verdicts: TypeAlias = Mapping[tuple[str, str, str], Verdict]
"""By model, reference and place."""


class VerdictFile:
    """Reads and writes; what cannot be read counts as nothing, and is written over.

    Args:
        path: the file; its folder is made when it is first written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[tuple[str, str, str], Verdict]:
        """All that is kept. Blocks."""
        try:
            content = json.loads(self._path.read_bytes())
            if content["version"] != VERSION:
                return {}
            return dict(map(_entry, content["verdicts"]))
        except FileNotFoundError:
            return {}
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            log.warning(
                "what is known of embedding spaces cannot be read (%s): places are compared again",
                type(error).__name__,
            )
            return {}

    def write(self, verdicts: Verdicts) -> None:
        """Put these in the place of all that is kept, whole or not at all. Blocks.

        A failure is logged: the file saves a few texts and is not worth an error.
        """
        latest = sorted(verdicts.items(), key=lambda pair: pair[1].checked_at)[-MOST:]
        rows = [{"model": model, **asdict(verdict)} for (model, _, _), verdict in latest]
        data = json.dumps({"version": VERSION, "verdicts": rows}).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(name).replace(self._path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            log.warning("what is known of embedding spaces cannot be kept: %s", error.strerror)


def _entry(row: dict[str, Any]) -> tuple[tuple[str, str, str], Verdict]:
    verdict = Verdict(
        reference=str(row["reference"]),
        place=str(row["place"]),
        dimensions=(int(row["dimensions"][0]), int(row["dimensions"][1])),
        least_cosine=float(row["least_cosine"]),
        length_ratio=float(row["length_ratio"]),
        texts=int(row["texts"]),
        tokens=int(row["tokens"]),
        checked_at=float(row["checked_at"]),
        marks=(str(row["marks"][0]), str(row["marks"][1])),
        meaning=_meaning(row["meaning"]),
    )
    return (str(row["model"]), verdict.reference, verdict.place), verdict


def _meaning(row: dict[str, Any]) -> Meaning:
    name = row["default_prompt_name"]
    similarity = row["similarity"]
    if similarity not in get_args(Similarity):
        raise ValueError(similarity)
    return Meaning(
        prompts={str(key): str(text) for key, text in row["prompts"].items()},
        default_prompt_name=None if name is None else str(name),
        normalizes=bool(row["normalizes"]),
        similarity=similarity,
        matryoshka_dimensions=tuple(map(int, row["matryoshka_dimensions"])),
    )
