"""Folders of models with random weights, as sentence-transformers saves them.

No more than a block of random numbers is ever in memory, however large the model: a checkpoint of
15 GB is written as fast as the disk takes it.
"""

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from benchmarks.shapes import Shape, Stored, Tensor

MAX_TOKENS = 512
"""Of one text, whatever the model could take."""

SHARD_BYTES = 3 * 2**29
"""1.5 GiB: more than a model of 0.6 billion parameters, which is published as one file."""

BLOCK_ITEMS = 2**24 + 43
"""Odd, so that no width of a matrix divides it: a block is used again and again, and rows that
began at the same place in it would be equal."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
MODULES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
SENTENCE_FILES: Mapping[str, object] = {
    "modules.json": [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(MODULES.items())
    ],
    "sentence_bert_config.json": {"max_seq_length": MAX_TOKENS, "do_lower_case": False},
}
DTYPES: Mapping[Stored, tuple[str, np.dtype[Any]]] = {
    "fp32": ("F32", np.dtype(np.float32)),
    "bf16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}


def write_folder(folder: Path, shape: Shape, tokenizer_from: Path) -> None:
    """Write a model's folder; `folder` appears when all of it is there.

    Args:
        tokenizer_from: a folder whose tokenizer the model gets. Its vocabulary may be smaller than
            the model's.

    Raises:
        OSError: no space, or no permission.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "1_Pooling").mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer_from / name, unfinished / name)
    pooling = {
        "word_embedding_dimension": shape.hidden,
        "pooling_mode_mean_tokens": shape.pooling == "mean_tokens",
        "pooling_mode_lasttoken": shape.pooling == "lasttoken",
    }
    files = {**SENTENCE_FILES, "config.json": shape.config(), "1_Pooling/config.json": pooling}
    for name, content in files.items():
        _write_json(unfinished / name, content)
    _write_weights(unfinished, shape)
    unfinished.rename(folder)


def checkpoint_bytes(shape: Shape) -> int:
    """Size of the weights on disk."""
    return sum(_size(tensor, shape) for tensor in shape.tensors())


def _size(tensor: Tensor, shape: Shape) -> int:
    return math.prod(tensor.shape) * DTYPES[shape.stored][1].itemsize


def _write_weights(folder: Path, shape: Shape) -> None:
    """One file; or several with an index, where one would be very large."""
    numbers = RandomNumbers(shape)
    shards = list(_shards(shape))
    if len(shards) == 1:
        _write_shard(folder / "model.safetensors", shards[0], numbers)
        return
    names = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    places = {
        tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard
    }
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, shard, numbers)
    index = {"metadata": {"total_size": checkpoint_bytes(shape)}, "weight_map": places}
    _write_json(folder / "model.safetensors.index.json", index)


def _shards(shape: Shape) -> Iterator[list[Tensor]]:
    """The tensors in groups for one file each."""
    shard: list[Tensor] = []
    size = 0
    for tensor in shape.tensors():
        own = _size(tensor, shape)
        if shard and size + own > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += own
    yield shard


def _write_shard(path: Path, tensors: Iterable[Tensor], numbers: "RandomNumbers") -> None:
    """A safetensors file: the header's length in 8 bytes, the header as JSON, the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + math.prod(tensor.shape) * numbers.dtype.itemsize
        places = {"shape": list(tensor.shape), "data_offsets": [start, end]}
        header[tensor.name] = {"dtype": numbers.dtype_name, **places}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors:
            for piece in numbers.pieces(tensor):
                file.write(piece.view(np.uint8).data)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


class RandomNumbers:
    """Numbers for the tensors of one shape: normal ones, the same in every run."""

    def __init__(self, shape: Shape) -> None:
        self.dtype_name, self.dtype = DTYPES[shape.stored]
        block = np.random.default_rng(0).standard_normal(BLOCK_ITEMS, np.float32)
        self._block = (block * np.float32(shape.deviation)).astype(self.dtype)
        self._place = 0

    def pieces(self, tensor: Tensor) -> Iterator[NDArray[Any]]:
        """The tensor's numbers, one after another in as many arrays as it takes."""
        left = math.prod(tensor.shape)
        if tensor.fill != "random":
            yield np.full(left, 0 if tensor.fill == "zeros" else 1, self.dtype)
            return
        while left:
            piece = self._block[self._place : self._place + left]
            self._place = (self._place + len(piece)) % BLOCK_ITEMS
            left -= len(piece)
            yield piece
