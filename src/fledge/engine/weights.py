"""From a checkpoint, whoever saved it, to Fledge's own weight file in one precision.

A checkpoint's tensors come under several names, in several types and files. They are converted
once per model, revision and precision, a few rows at a time, into a file that is never changed
again; the engine maps that file, so weights are paged in and shared instead of copied. Whatever the
model's size, a conversion takes some tens of megabytes.

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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from fledge.engine.architectures.family import Weight
from fledge.engine.folders import (
    TORCH_FILE,
    TORCH_INDEX_FILE,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
    inside,
)
from fledge.engine.tensorfile import (
    DTYPES,
    Array,
    MappedTensors,
    Planned,
    TensorInfo,
    read_header,
    read_slabs,
    write_tensors,
)
from fledge.engine.torchfile import read_torch_header
from fledge.errors import CorruptModel, ModelLoadError, UnsupportedModel

log = logging.getLogger(__name__)

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)
I8 = np.dtype(np.int8)

FLOATS = frozenset(DTYPES[name] for name in ("F64", "F32", "F16", "BF16"))

BF16_EXPONENT = np.uint16(0x7F80)
"""All ones in what is infinite or no number."""

FORMAT_VERSION = 1
"""Part of the cache key: raise it when the stored numbers or their names change."""

UNFINISHED = ".converting-"
ABANDONED_S = 24 * 3600
"""Far longer than any conversion takes between two writes."""

StoredPrecision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True, slots=True)
class Located:
    """A tensor of a checkpoint: the file it is in, and where."""

    path: Path
    info: TensorInfo


def locate(folder: Path) -> dict[str, Located]:
    """Every tensor of a folder's checkpoint by the checkpoint's own name, in one file or many.

    Safetensors are read where there are any, otherwise the files of `torch.save`, as data.

    Raises:
        CorruptModel: no checkpoint, or a damaged one.
        UnsupportedModel: a file of `torch.save` that holds more than tensors.
    """
    for single, index, read in (
        (WEIGHTS_FILE, WEIGHTS_INDEX_FILE, read_header),
        (TORCH_FILE, TORCH_INDEX_FILE, read_torch_header),
    ):
        if (folder / single).is_file():
            paths = [folder / single]
        elif (folder / index).is_file():
            paths = _shards(folder, index)
        else:
            continue
        found: dict[str, Located] = {}
        for path in paths:
            for name, info in read(path).items():
                if name in found:
                    raise CorruptModel(f"{path} holds {name!r}, and so does {found[name].path}")
                found[name] = Located(path, info)
        return found
    raise CorruptModel(
        f"{folder} has neither {WEIGHTS_FILE} nor {TORCH_FILE}; is the folder complete?"
    )


def _shards(folder: Path, index: str) -> list[Path]:
    try:
        content = json.loads((folder / index).read_bytes())
        names = sorted({str(name) for name in content["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptModel(f"{folder / index}: malformed index: {error!r}") from error
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
    conversions = [
        _conversion(weight, source, precision)
        for part in parts
        for weight, source in find_weights(part)
    ]
    # larger items first, so that every tensor is aligned to its item size
    plan = sorted(
        (planned for conversion in conversions for planned in conversion.plan()),
        key=lambda planned: -planned.dtype.itemsize,
    )
    conversions.sort(key=lambda one: (one.source.path, one.source.info.start))  # as a disk reads
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            pieces = (piece for conversion in conversions for piece in conversion.pieces())
            write_tensors(file, plan, pieces)
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
        with suppress(FileNotFoundError):  # another process may be finishing it
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()


def find_weights(part: Part) -> Iterator[tuple[Weight, Located]]:
    """Find each weight of a table under any spelling that its checkpoint may use.

    Raises:
        CorruptModel: one is missing; and whatever `locate` raises.
    """
    tensors = locate(part.folder)
    for weight in part.weights:
        for name in _spellings(weight.source, part.prefix):
            if name in tensors:
                yield weight, tensors[name]
                break
        else:
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


@dataclass(frozen=True, slots=True)
class _Conversion:
    """One weight on its way: where it is, and the type in which it is stored."""

    weight: Weight
    source: Located
    stored: np.dtype[Any]

    def plan(self) -> Iterator[Planned]:
        """What will be written: the weight, and behind int8 one scale per row."""
        name, shape = self.weight.name, self.source.info.shape
        yield Planned(name, self.stored, shape)
        if self.stored == I8:
            yield Planned(f"{name}_scale", F32, (shape[0], 1))

    def pieces(self) -> Iterator[tuple[str, Array]]:
        """The stored form a few rows at a time: rounded to nearest, or int8 with its scales."""
        name = self.weight.name
        for slab in read_slabs(self.source.path, self.source.info):
            values = slab
            if slab.dtype != self.stored:  # most of a large bf16 model stays as it is
                with np.errstate(over="ignore"):  # what is too large becomes infinite: refused
                    values = slab.astype(F32, copy=False)
            if self.stored == BF16:
                values = values.astype(BF16, copy=False)
            if not _are_finite(values):
                raise CorruptModel(
                    f"{self.source.path}: {self.weight.source!r} holds values that are not finite"
                )
            if self.stored == I8:
                values, scale = quantize_rows(values)
                yield f"{name}_scale", scale
            yield name, values


def _are_finite(values: Array) -> bool:
    if values.dtype != BF16:
        return bool(np.isfinite(values).all())
    # on the bits: ml_dtypes goes number by number
    return bool(((values.view(np.uint16) & BF16_EXPONENT) != BF16_EXPONENT).all())


def _conversion(weight: Weight, source: Located, precision: StoredPrecision) -> _Conversion:
    """How a weight is stored, if it can be one.

    Raises:
        CorruptModel: it has no values, or axes that its use has no meaning for.
        UnsupportedModel: it is saved as whole numbers, whose scale would be elsewhere.
    """
    shape, dtype = source.info.shape, source.info.dtype
    # a vector may be a small table: MPNet adds one to its attention scores
    fits = len(shape) in (1, 2) if weight.kind == "vector" else len(shape) == 2
    if not fits or 0 in shape:
        raise CorruptModel(f"{source.path}: {weight.source!r} has shape {list(shape)}")
    if dtype not in FLOATS:
        raise UnsupportedModel(
            f"{source.path}: {weight.source!r} is saved as {dtype}: Fledge reads checkpoints in "
            "floating point and quantizes them itself (precision int8); take the original model"
        )
    if weight.kind == "matrix" and precision == "int8":
        return _Conversion(weight, source, I8)
    wide = weight.kind == "vector" or precision == "fp32"
    return _Conversion(weight, source, F32 if wide else BF16)


def quantize_rows(values: Array) -> tuple[Array, Array]:
    """Symmetric int8 per row: `values` ~ `quantized * scale`, with a scale of `[rows, 1]`."""
    scale: Array = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1  # a row of zeros stays zeros
    quantized: Array = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
    return quantized, scale.astype(np.float32)
