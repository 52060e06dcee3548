"""Which files make a model, when it is whole, and when its fingerprint changes."""

import json
import os
from pathlib import Path

import pytest

from fledge.engine import folders
from fledge.errors import CorruptModel
from tests.tiny import save_bert
from tests.unit.engine.tiny_model import OLD, SAFE, TINY, WEIGHTS, write


def test_the_fingerprint_follows_the_files_that_matter_and_no_others(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", TINY)
    first = folders.fingerprint(folder)
    write(folder, {"README.md": b"changed", ".cache/x.json": b"{}", "onnx/config.json": b"[]"})
    assert folders.fingerprint(folder) == first
    weights = folder / "model.safetensors"
    before = weights.stat()
    weights.write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = folders.fingerprint(folder)
    assert second != first
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert folders.fingerprint(folder) != second


@pytest.mark.parametrize(
    ("absent", "reason"),
    [
        ("model.safetensors", "lacks model.safetensors"),
        ("2_Dense/model.safetensors", "lacks 2_Dense/model.safetensors"),
        ("tokenizer.json", "no tokenizer"),
        ("1_Pooling/config.json", "lacks 1_Pooling/config.json"),
    ],
)
def test_a_partial_folder_is_told_from_a_whole_one(
    tmp_path: Path, absent: str, reason: str
) -> None:
    dense = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    modules = json.dumps([*json.loads(TINY["modules.json"]), dense]).encode()
    added = {
        "modules.json": modules,
        "2_Dense/config.json": b"{}",
        "2_Dense/model.safetensors": b"",
    }
    folder = write(tmp_path, {**SAFE, **added})
    assert folders.what_is_missing(folder) is None
    (folder / absent).unlink()
    assert reason in str(folders.what_is_missing(folder))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = {"model.safetensors.index.json": json.dumps({"weight_map": shards}).encode()}
    folder = write(tmp_path, {**OLD, **index, shards["a"]: b"x"})
    (folder / "pytorch_model.bin").unlink()
    assert folders.what_is_missing(folder) == f"it lacks {shards['b']}"


def test_a_missing_torch_shard_is_named(tmp_path: Path) -> None:
    shards = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    index = {"pytorch_model.bin.index.json": json.dumps({"weight_map": shards}).encode()}
    folder = write(tmp_path, {**OLD, **index, shards["a"]: b"x"})
    assert folders.what_is_missing(folder) is None
    (folder / "pytorch_model.bin").unlink()
    assert folders.what_is_missing(folder) == f"it lacks {shards['b']}"


def test_torch_files_are_taken_only_from_folders_without_safetensors() -> None:
    torch_files = {
        "pytorch_model.bin",
        "2_Dense/pytorch_model.bin",
        "3_Dense/pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "pytorch_model-00001-of-00002.bin",
    }
    others = {"adapter_model.safetensors", "training_args.bin", "old/pytorch_model.bin", "a.bin"}
    assert set(folders.select({*torch_files, *others})) == torch_files
    dense = {"2_Dense/model.safetensors"}
    assert set(folders.select({*torch_files, *dense})) == {
        *(torch_files - {"2_Dense/pytorch_model.bin"}),
        *dense,
    }
    for settled in ("model.safetensors", "model.safetensors.index.json"):
        names = {*torch_files, settled}
        assert set(folders.select(names)) == {
            *(name for name in torch_files if "/" in name),
            settled,
        }


def test_an_older_model_is_whole_with_torch_files_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, OLD)
    assert folders.what_is_missing(folder) is None
    assert folder / "pytorch_model.bin" in set(folders.model_files(folder))
    (folder / "pytorch_model.bin").unlink()
    reason = folders.what_is_missing(folder)
    assert reason == "it has neither model.safetensors nor pytorch_model.bin"


def test_files_of_training_runs_and_checkpoints_are_not_the_models() -> None:
    strangers = {
        "runs/seed_1_x/pytorch_model.bin",
        "2_Dense/checkpoint/model.safetensors",
        "1_Pooling/old/config.json",
    }
    routed = {"0_Router/query_0_StaticEmbedding/model.safetensors", "query_0_Dense/config.json"}
    assert set(folders.select(strangers | routed)) == routed


@pytest.mark.parametrize("index", ['{"weight_map": {"a": [1]}}', "[" * 100_000, "7"])
def test_an_odd_index_is_no_traceback_when_folders_are_listed(index: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert folders.what_is_missing(tmp_path) is not None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_in_the_place_of_a_file_is_refused_unread(tmp_path: Path) -> None:
    save_bert(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    os.mkfifo(tmp_path / "m" / "config.json")
    with pytest.raises(CorruptModel, match=r"config\.json is no file, but a pipe"):
        folders.fingerprint(tmp_path / "m")


def test_a_link_that_leads_nowhere_is_a_corrupt_model(tmp_path: Path) -> None:
    save_bert(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    (tmp_path / "m" / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(CorruptModel, match=r"model\.safetensors cannot be read: No such file"):
        folders.size_bytes(tmp_path / "m")
