"""From a checkpoint, whoever saved it, to Fledge's own weight file in one precision.

A checkpoint's tensors come under several names, in several types and files. They are converted
once per model, revision and precision, one tensor at a time, into a file that is never changed
again; the engine maps that file, so weights are paged in and shared instead of copied.

How a weight is stored follows from how it is used: factors of a matmul in the precision, tables
that are only looked up in bf16 unless the precision is fp32, everything small in float32.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np

from fledge.engine.architectures.family import Weight
from fledge.engine.folders import inside
from fledge.engine.tensorfile import (
    Array,
    MappedTensors,
    Planned,
    TensorInfo,
    read_header,
    read_tensor,
    write_tensors,
)
from fledge.errors import CorruptModel, ModelLoadError, UnsupportedModel

log = logging.getLogger(__name__)

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)
I8 = np.dtype(np.int8)

FORMAT_VERSION = 1
"""Part of the cache key: raise it when the stored numbers or their names change."""

SINGLE_FILE = "model.safetensors"
UNFINISHED = ".converting-"
ABANDONED_S = 24 * 3600
"""Far longer than any conversion takes between two writes."""

INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILE = "pytorch_model.bin"

StoredPrecision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True, slots=True)
class Located:
    """A tensor of a checkpoint: the file it is in, and where."""

    path: Path
    info: TensorInfo


def locate(folder: Path) -> dict[str, Located]:
    """Every tensor of a folder's checkpoint by the checkpoint's own name, in one file or many.

    Raises:
        CorruptModel: no checkpoint, or a damaged one.
        UnsupportedModel: only a pickle, which Fledge does not open.
    """
    if (folder / SINGLE_FILE).is_file():
        paths = [folder / SINGLE_FILE]
    elif (folder / INDEX_FILE).is_file():
        paths = _shards(folder)
    elif (folder / PICKLE_FILE).is_file():
        raise UnsupportedModel(
            f"{folder} has only {PICKLE_FILE}, a pickle that could run code; save the model again "
            "with safe_serialization=True, or use a revision that has model.safetensors"
        )
    else:
        raise CorruptModel(f"{folder} has no {SINGLE_FILE}; is the folder complete?")
    return {name: Located(path, info) for path in paths for name, info in read_header(path).items()}


def _shards(folder: Path) -> list[Path]:
    try:
        index = json.loads((folder / INDEX_FILE).read_bytes())
        names = sorted({str(name) for name in index["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptModel(f"{folder / INDEX_FILE}: malformed index: {error!r}") from error
    paths = [inside(folder, name) for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CorruptModel(f"{folder} lacks {', '.join(missing)}, which its index names")
    return paths


@dataclass(frozen=True, slots=True)
class Part:
    """One folder's share of a model: its weight table, and the prefix that names may carry."""

    folder: Path
    weights: Sequence[Weight]
    prefix: str = ""


def open_weights(
    parts: Sequence[Part], *, identity: str, precision: StoredPrecision, cache_dir: Path
) -> MappedTensors:
    """The weights by the architecture's names, mapped from the converted cache, made if need be.

    Args:
        parts: the transformer's table, then those of modules with weights.
        identity: what makes these weights these: model id and revision.
        precision: how matmul factors are stored.
        cache_dir: where converted files live.

    Returns:
        Read-only arrays in float32, bfloat16 or int8; an int8 `name.weight` comes with
        `name.weight_scale`, float32 `[out, 1]`. They stay valid as long as they are referenced.

    Raises:
        CorruptModel: a tensor is missing, has an impossible shape, or is not finite.
        ModelLoadError: the cache cannot be written.
    """
    digest = hashlib.sha256(f"{FORMAT_VERSION}\n{identity}\n{precision}".encode()).hexdigest()
    path = cache_dir.expanduser() / "weights" / f"{digest[:32]}-{precision}.safetensors"
    try:
        if not _is_converted(path):
            _convert(parts, precision, path)
        return MappedTensors(path)
    except OSError as error:
        raise ModelLoadError(
            f"cannot keep converted weights in {path.parent}: {error}; "
            "free some space, or set cache_dir to a folder that can be written"
        ) from error


def _is_converted(path: Path) -> bool:
    """Whether the cache has the file, whole: a disk that ran full or lost power may damage it."""
    if not path.is_file():
        return False
    try:
        read_header(path)
    except CorruptModel as error:
        log.warning("converting weights again: %s", error)
        return False
    return True


def _convert(parts: Sequence[Part], precision: StoredPrecision, path: Path) -> None:
    """Write the converted file beside its final name, then move it there in one step.

    Two processes may do this at once; both write the same bytes, and the later move wins.
    """
    sources = [pair for part in parts for pair in _match(part)]
    # larger items first, so that every tensor is aligned to its item size
    planned = sorted(
        (plan for weight, source in sources for plan in _plan(weight, source, precision)),
        key=lambda entry: -entry[0].dtype.itemsize,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            write_tensors(
                file,
                [plan for plan, _, _ in planned],
                (_converted(plan, weight, source) for plan, weight, source in planned),
            )
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the name without the data
        Path(temporary).chmod(0o644)  # a cache folder may be shared; mkstemp is for one user
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _remove_abandoned(folder: Path) -> None:
    """Remove what conversions that were killed have left behind."""
    for path in folder.glob(f"{UNFINISHED}*"):
        if time.time() - path.stat().st_mtime > ABANDONED_S:
            path.unlink(missing_ok=True)


def _match(part: Part) -> Iterator[tuple[Weight, Located]]:
    """Find each weight of a table under any spelling that its checkpoint may use."""
    tensors = locate(part.folder)
    for weight in part.weights:
        for name in _spellings(weight.source, part.prefix):
            if name in tensors:
                yield weight, tensors[name]
                break
        else:
            if not weight.optional:
                raise CorruptModel(
                    f"{part.folder}: no tensor {weight.source!r} in the checkpoint, "
                    f"with or without {part.prefix!r}"
                )


def _spellings(source: str, prefix: str) -> Iterator[str]:
    """Bare and prefixed; layer norms also as `gamma` and `beta`, as TensorFlow called them."""
    old = source.replace("LayerNorm.weight", "LayerNorm.gamma")
    old = old.replace("LayerNorm.bias", "LayerNorm.beta")
    for name in dict.fromkeys((source, old)):
        yield name
        if prefix:
            yield prefix + name


Plan = tuple[Planned, Weight, Located]


def _plan(weight: Weight, source: Located, precision: StoredPrecision) -> Iterator[Plan]:
    shape = source.info.shape
    # a vector may be a small table: MPNet adds one to its attention scores
    fits = len(shape) in (1, 2) if weight.kind == "vector" else len(shape) == 2
    if not fits or 0 in shape:
        raise CorruptModel(f"{source.path}: {weight.source!r} has shape {list(shape)}")
    if weight.kind == "matrix" and precision == "int8":
        yield Planned(weight.name, I8, shape), weight, source
        yield Planned(f"{weight.name}_scale", F32, (shape[0], 1)), weight, source
    else:
        wide = weight.kind == "vector" or precision == "fp32"
        yield Planned(weight.name, F32 if wide else BF16, shape), weight, source


def _converted(plan: Planned, weight: Weight, source: Located) -> Array:
    """The stored form of one weight: rounded to nearest, or int8 with one scale per output."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        values = read_tensor(source.path, source.info).astype(np.float32)
    if not np.isfinite(values).all():
        raise CorruptModel(f"{source.path}: {weight.source!r} holds values that are not finite")
    if plan.dtype == I8 or plan.name.endswith("_scale"):
        quantized, scale = quantize_rows(values)
        return quantized if plan.dtype == I8 else scale
    return values.astype(plan.dtype)


def quantize_rows(values: Array) -> tuple[Array, Array]:
    """Symmetric int8 per row: `values` ~ `quantized * scale`, with a scale of `[rows, 1]`."""
    scale: Array = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1  # a row of zeros stays zeros
    quantized: Array = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
    return quantized, scale.astype(np.float32)
