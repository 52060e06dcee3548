"""What a run leaves behind: the numbers, and for each model when and how they came about.

A page may be measured model by model. Then all of it must be of one machine with one set of
packages, or a table beside another would compare what cannot be compared.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.models import SHAPES
from benchmarks.samples import Samples
from fledge.engine import cpu

PACKAGES = (
    "fledge",
    "openvino",
    "tokenizers",
    "uvicorn",
    "sentence-transformers",
    "transformers",
    "torch",
    "onnxruntime",
    "numpy",
)
SAME = ("machine", "versions", "texts")


class CannotKeep(Exception):
    """Earlier results that do not belong beside new ones; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How one model was measured.

    Attributes:
        began: UTC, to the minute.
        load_average: of the machine just before: whether it had anything else to do.
        workloads: number of texts and of tokens, by name.
        facts: what is not a number of a round.
    """

    began: str
    load_average: float
    rounds: int
    seconds: int
    workloads: Mapping[str, Sequence[int]]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All models of a page.

    Attributes:
        texts: where they are from.
    """

    machine: Mapping[str, str]
    versions: Mapping[str, str]
    texts: str
    models: dict[str, Measured] = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)

    @classmethod
    def of_this_machine(cls, texts: str) -> "Results":
        """Nothing measured yet."""
        return cls(machine=describe_machine(), versions=_versions(), texts=texts)

    def names(self) -> list[str]:
        """The models in the order of the page."""
        return [name for name in SHAPES if name in self.models]

    def keep(self, path: Path, names: Sequence[str]) -> None:
        """Take over what a file has of these models; the file and the models may be missing.

        Raises:
            CannotKeep: it was measured under other circumstances.
        """
        if not path.is_file():
            return
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            found = [name for name in names if name in earlier["models"]]
            models = {name: Measured(**earlier["models"][name]) for name in found}
            records = list(earlier["samples"])
        except (ValueError, KeyError, TypeError) as error:
            raise CannotKeep(f"{path} has another form than today: {error!r}") from error
        for name in SAME:
            if found and earlier.get(name) != getattr(self, name):
                raise CannotKeep(
                    f"{path} was measured with other {name}: "
                    f"{earlier.get(name)} then, {getattr(self, name)} now"
                )
        self.models.update(models)
        self.samples.add_records(records, found)

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        raw = {
            **{name: getattr(self, name) for name in SAME},
            "models": {name: asdict(self.models[name]) for name in self.names()},
            "samples": self.samples.as_records(),
        }
        path.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


def describe_machine() -> dict[str, str]:
    """What is worth knowing of the machine."""
    system = f"{platform.system()}, Python {platform.python_version()}"
    return dict(cpu.detect().describe()) | {"System": system}


def load_average() -> float:
    """How many processes wanted to run in the last minute."""
    return round(os.getloadavg()[0], 2)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}
