"""The files of a small model, as a repository would hold them: what Fledge reads, and what not."""

import json
import random
from collections.abc import Mapping
from pathlib import Path

WEIGHTS = random.Random(7).randbytes(3_000_000)  # noqa: S311 - content, not a secret
TINY = {
    "config.json": b'{"model_type": "bert"}',
    "modules.json": json.dumps(
        [
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ]
    ).encode(),
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "onnx/model.onnx": b"an export",
    "onnx/config.json": b"{}",
    "modeling_tiny.py": b"raise SystemExit",
    "README.md": b"# Tiny",
}


SAFE = {name: content for name, content in TINY.items() if name != "pytorch_model.bin"}
OLD = {name: content for name, content in TINY.items() if name != "model.safetensors"}
"""The same model as it was saved before there were safetensors."""


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
