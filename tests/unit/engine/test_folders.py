"""Which files make a model, when it is whole, and when its fingerprint changes."""

import json
import os
from pathlib import Path

import pytest

from fledge.engine import folders
from tests.unit.engine.tiny_model import TINY, WEIGHTS, write


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
    folder = write(tmp_path, {**TINY, **added})
    assert folders.what_is_missing(folder) is None
    (folder / absent).unlink()
    assert reason in str(folders.what_is_missing(folder))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    files = {name: content for name, content in TINY.items() if name != "model.safetensors"}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": shards}).encode()
    folder = write(tmp_path, {**files, shards["a"]: b"x"})
    assert folders.what_is_missing(folder) == f"it lacks {shards['b']}"
