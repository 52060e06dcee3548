"""Checkpoints that torch itself wrote, in both its formats, against torch's reading of them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fledge.engine.tensorfile import read_tensor
from fledge.engine.torchfile import read_torch_header
from fledge.errors import UnsupportedModel
from tests.parity.agreement import assert_vectors_agree
from tests.parity.checkpoints import (
    Recipe,
    copy_checkpoint,
    load_weights,
    make_checkpoint,
    torch,
    transformers,
)
from tests.parity.engine import Engine
from tests.parity.folders import Bundle, dense, layer_norm, make_bundle, pooling
from tests.parity.texts import TEXTS

FORMATS = {"archive": True, "legacy": False}
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"]

every_format = pytest.mark.parametrize("is_archive", FORMATS.values(), ids=FORMATS)


def save(content: Any, path: Path, *, is_archive: bool, **options: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_archive, **options)
    return path


def assert_read_as_torch_reads(path: Path) -> None:
    wanted = torch.load(path, weights_only=True)
    header = read_torch_header(path)
    assert list(header) == list(wanted)
    for name, info in header.items():
        got, want = read_tensor(path, info), wanted[name].detach()
        assert str(want.dtype).removeprefix("torch.") == str(got.dtype)
        assert got.shape == tuple(want.shape)
        assert got.astype(np.float64).tolist() == want.double().tolist()


@every_format
@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
def test_tensors_of_every_type_are_what_torch_reads(
    dtype: str, is_archive: bool, tmp_path: Path
) -> None:
    values = (torch.arange(60).reshape(3, 4, 5) % 7).to(getattr(torch, dtype))
    assert_read_as_torch_reads(save({"x": values}, tmp_path / "t", is_archive=is_archive))


@every_format
def test_tied_sliced_transposed_and_empty_tensors_are_what_torch_reads(
    is_archive: bool, tmp_path: Path
) -> None:
    table = torch.randn(6, 8)
    content = {
        "table": table,
        "tied": table,
        "rows": table[2:5],
        "columns": table[:, 2:5],
        "transposed": table.T,
        "part, transposed": table[1:4, 3:].T,
        "column": table[:, 3],
        "one index": table[2:3].T,
        "number": torch.tensor(3.5),
        "empty": torch.zeros(0, 8),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "ids": torch.arange(8).expand(1, -1),
    }
    assert_read_as_torch_reads(save(content, tmp_path / "t", is_archive=is_archive))


@every_format
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_what_torch_reads(
    protocol: int, is_archive: bool, tmp_path: Path
) -> None:
    content = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).state_dict()
    path = save(content, tmp_path / "t", is_archive=is_archive, pickle_protocol=protocol)
    wanted = torch.load(path, weights_only=protocol == 2)
    for name, info in read_torch_header(path).items():
        assert read_tensor(path, info).tolist() == wanted[name].tolist()


REFUSED: Mapping[str, tuple[Callable[[], Any], str]] = {
    "a whole module": (lambda: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "a configuration": (
        lambda: {"x": torch.ones(2), "config": transformers.BertConfig()},
        "BertConfig",
    ),
    "a quantized tensor": (
        lambda: {"x": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
        "torch",
    ),
    "a sparse tensor": (lambda: {"x": torch.eye(3).to_sparse()}, "_rebuild_sparse_tensor"),
    "a complex tensor": (lambda: {"x": torch.ones(2, dtype=torch.complex64)}, "ComplexFloat"),
    "a negated tensor": (
        lambda: {"x": torch.ones(2, dtype=torch.complex64).conj().imag},
        "negated",
    ),
    "a tensor without data": (lambda: {"x": torch.ones(2, device="meta")}, "meta"),
    "a training run": (
        lambda: {"state_dict": {"x": torch.ones(2)}, "epoch": 3},
        "under 'state_dict'",
    ),
    "arrays of NumPy": (lambda: {"x": np.ones(2)}, "numpy"),
}


@every_format
@pytest.mark.parametrize("title", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_more_than_tensors_is_refused_by_name(title: str, is_archive: bool, tmp_path: Path) -> None:
    make, message = REFUSED[title]
    path = save(make(), tmp_path / "t", is_archive=is_archive)
    with pytest.raises(UnsupportedModel, match=message):
        read_torch_header(path)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))
    with pytest.raises(UnsupportedModel, match="TorchScript"):
        read_torch_header(path)


def rewrite(folder: Path, target: Path, *, shards: int, is_archive: bool) -> Path:
    """The same model with the weights as torch.save writes them."""
    copy = copy_checkpoint(folder, target)
    weights = load_weights(copy)
    (copy / "model.safetensors").unlink()
    if shards == 1:
        save(weights, copy / "pytorch_model.bin", is_archive=is_archive)
        return copy
    places: dict[str, str] = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = {name: weights[name] for name in list(weights)[number::shards]}
        save(part, copy / file, is_archive=is_archive)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": places}
    (copy / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return copy


@every_format
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(family="bert", layout="ancient", spelling="old"),
        Recipe(family="mpnet", dtype="float16"),
        Recipe(family="roberta", layout="prefixed", dtype="bfloat16", position_ids=True),
    ],
    ids=["bert gamma and beta", "mpnet fp16", "roberta prefixed bf16"],
)
def test_an_older_model_gives_the_vectors_of_its_twin_in_safetensors(
    recipe: Recipe, shards: int, is_archive: bool, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    twin = make_checkpoint(recipe, forge)
    old = rewrite(twin, tmp_path / "old", shards=shards, is_archive=is_archive)
    assert_vectors_agree(engine.embed(old, TEXTS), engine.embed(twin, TEXTS), TEXTS, 1e-6)


@every_format
def test_the_modules_of_an_older_model_are_read_beside_safetensors(
    is_archive: bool, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    stages = (pooling("mean"), dense(64, 32), layer_norm(32))
    twin = make_bundle(Bundle(recipe=Recipe(family="bert"), stages=stages), forge)
    old = copy_checkpoint(twin, tmp_path / "old")
    modules = sorted(path.parent for path in old.glob("*/model.safetensors"))
    assert len(modules) == 2
    for module in modules:
        save(load_weights(module), module / "pytorch_model.bin", is_archive=is_archive)
        (module / "model.safetensors").unlink()
    assert_vectors_agree(engine.embed(old, TEXTS), engine.embed(twin, TEXTS), TEXTS, 1e-6)
