"""The safetensors container: read its header with suspicion, write it as a stream.

Source of the format: https://huggingface.co/docs/safetensors (8 bytes of header length, little
endian; a JSON header of dtype, shape and offsets; the data, without holes).

The safetensors library maps the file it reads, and a mapped file that somebody truncates kills the
process. A checkpoint belongs to its user, who may do that at any time, so Fledge reads it with
plain reads; only Fledge's own converted cache is mapped.
"""

import json
import math
import mmap
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from fledge.errors import CorruptModel, UnsupportedModel

Array = NDArray[Any]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
MAX_RANK = 8  # no weight has more axes, and NumPy has a limit of its own
DROP_INTERVAL_S = 0.01  # a disk reads about 20 MB in that time
ALIGNMENT_BYTES = 64  # of the data's beginning: a cache line, and what AVX-512 loads at once

SLAB_ITEMS = 2**20
"""Read at once of a large tensor: 4 MiB in float32, which a core's cache about holds."""

LARGE_FILE_BYTES = 2**30
"""From here on, what was read of a file is not kept in the page cache: it would push out others."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: its type, shape, and place counted from the file's first byte.

    Attributes:
        strides: items from one index of an axis to the next; None for rows side by side.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int
    strides: tuple[int, ...] | None = None


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a file by name.

    Raises:
        CorruptModel: the file is truncated, or its header contradicts itself or the file.
        UnsupportedModel: a tensor of a type of numbers that nothing here computes with.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise CorruptModel(f"{path}: not a safetensors file, or cut off in its header")
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptModel(f"{path}: cannot read the safetensors header: {error}") from error
    if not isinstance(header, dict):
        raise CorruptModel(f"{path}: the safetensors header is not an object")
    header.pop("__metadata__", None)
    data_start = 8 + length
    tensors = {
        name: _read_entry(path, name, entry, data_start=data_start, data_end=size)
        for name, entry in header.items()
    }
    _check_places(path, tensors.values(), data_start=data_start, data_end=size)
    return tensors


def _read_entry(path: Path, name: str, entry: Any, *, data_start: int, data_end: int) -> TensorInfo:
    kind = entry.get("dtype") if isinstance(entry, Mapping) else None
    if isinstance(kind, str) and kind not in DTYPES:
        raise UnsupportedModel(
            f"{path}: tensor {name!r} is of type {kind!r}; Fledge reads {', '.join(DTYPES)}: "
            "take the original model, not a quantized one"
        )
    try:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(_natural(size) for size in entry["shape"])
        start, end = (data_start + _natural(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptModel(f"{path}: tensor {name!r} has a malformed entry: {error!r}") from error
    # an empty tensor's other sizes are bounded too: NumPy refuses those that no memory could hold
    sizes = len(shape) <= MAX_RANK and math.prod(max(size, 1) for size in shape) <= data_end
    if (
        not sizes
        or not data_start <= start <= end <= data_end
        or end - start != math.prod(shape) * dtype.itemsize
    ):
        raise CorruptModel(
            f"{path}: tensor {name!r} does not fit its place in the file; "
            "the file is truncated or damaged: fetch it again"
        )
    return TensorInfo(dtype, shape, start, end)


def _natural(value: Any) -> int:
    """JSON's numbers may also be true, 1.0, Infinity, or a text; none of them is a size."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a natural number")
    return value


def _check_places(
    path: Path, tensors: Iterable[TensorInfo], *, data_start: int, data_end: int
) -> None:
    """The tensors lie side by side and fill the file, or bytes were lost or added somewhere."""
    in_order = sorted(tensors, key=lambda one: (one.start, one.end))
    starts = [*(one.start for one in in_order), data_end]
    ends = [data_start, *(one.end for one in in_order)]
    if starts != ends:
        raise CorruptModel(
            f"{path}: its tensors overlap or leave holes; the file is damaged: fetch it again"
        )


def read_tensor(path: Path, info: TensorInfo) -> Array:
    """One tensor, copied into memory.

    Raises:
        CorruptModel: the file cannot be read, or became shorter since its header was.
        UnsupportedModel: the tensor is a view of a kind that no saved model has.
    """
    slabs = list(read_slabs(path, info, items=max(1, math.prod(info.shape))))
    return slabs[0].reshape(info.shape) if slabs else np.empty(info.shape, info.dtype)


def read_slabs(path: Path, info: TensorInfo, *, items: int = SLAB_ITEMS) -> Iterator[Array]:
    """One tensor, a few rows at a time, each slab copied into memory of its own.

    Args:
        path: the file.
        info: where the tensor is in it; a tensor without axes counts as one row.
        items: most items of a slab, unless one row alone has more.

    Raises:
        CorruptModel: the file cannot be read, or became shorter since its header was.
        UnsupportedModel: the tensor is a view of a kind that no saved model has.
    """
    rows, *inner = info.shape or (1,)
    width = math.prod(inner)
    step = max(1, items // max(1, width))
    _check_view(path, info)
    if 0 in info.shape:
        return
    try:
        with path.open("rb") as file:
            is_large = os.fstat(file.fileno()).st_size >= LARGE_FILE_BYTES
            for first in range(0, rows, step):
                count = min(step, rows - first)
                if info.strides is None:
                    size = width * info.dtype.itemsize
                    start = info.start + first * size
                    slab = _read_items(file, start, info.dtype, count * width)
                    if is_large:
                        _drop_behind(file, start, count * size)
                else:
                    slab = _read_view(file, info, first, count)
                yield slab.reshape(count, *inner)
    except OSError as error:
        raise CorruptModel(f"{path}: cannot be read: {error}") from error


def _read_items(file: BufferedReader, start: int, dtype: np.dtype[Any], count: int) -> Array:
    data = np.empty(count, dtype)
    file.seek(start)
    if file.readinto(data.view(np.uint8).data) != data.nbytes:
        raise CorruptModel(f"{file.name}: the file was truncated while it was read")
    return data


def _drop_behind(file: BufferedReader, start: int, size: int) -> None:
    if hasattr(os, "posix_fadvise"):  # Linux
        os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_DONTNEED)


def _check_view(path: Path, info: TensorInfo) -> None:
    """Views that are read have neighbours along an axis, and no item twice: that has no bound."""
    if info.strides is None:
        return
    items = (info.end - info.start) // info.dtype.itemsize
    if len(info.shape) > 2 or math.prod(info.shape) > items or 1 not in (*info.strides, 1)[:2]:
        raise UnsupportedModel(
            f"{path}: a tensor of shape {list(info.shape)} is a view with strides "
            f"{list(info.strides)}; save the model again with safe_serialization=True"
        )


def _read_view(file: BufferedReader, info: TensorInfo, first: int, count: int) -> Array:
    """Rows of a matrix whose rows have gaps, or whose columns are neighbours: a transposed one."""
    (_, width), (down, across) = (*info.shape, 1)[:2], (*(info.strides or ()), 1)[:2]
    dtype, size = info.dtype, info.dtype.itemsize
    slab = np.empty((count, width), dtype)
    if across == 1:
        for row in range(count):
            start = info.start + (first + row) * down * size
            slab[row] = _read_items(file, start, dtype, width)
    else:
        for column in range(width):
            start = info.start + (first * down + column * across) * size
            slab[:, column] = _read_items(file, start, dtype, count)
    return slab


class MappedTensors(Mapping[str, Array]):
    """A file's tensors as read-only views of its mapping, which lives as long as any of them.

    Only for files that never change: one that is truncated under its mapping kills the process.

    Raises:
        CorruptModel: as `read_header`.
        OSError: the file cannot be mapped.
    """

    def __init__(self, path: Path) -> None:
        header = read_header(path)  # first, since nothing can be mapped of an empty file
        with path.open("rb") as file:
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = np.frombuffer(self._mapping, np.uint8)
        self._tensors = {
            name: data[info.start : info.end].view(info.dtype).reshape(info.shape)
            for name, info in header.items()
        }

    def __getitem__(self, name: str) -> Array:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def drop_pages(self) -> None:
        """Let go of the pages that were read so far; whoever needs one again reads it again."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._mapping.madvise(mmap.MADV_DONTNEED)

    @contextmanager
    def transient_pages(self) -> Iterator[None]:
        """Drop pages again and again, while somebody reads all of them once.

        The runtime makes packed copies of the weights; without this, a load's peak is both of them
        together (bert-base in bf16: 502 MiB against 341).
        """
        done = threading.Event()

        def drop() -> None:
            while not done.wait(DROP_INTERVAL_S):
                self.drop_pages()

        thread = threading.Thread(target=drop, name="fledge-pages", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.drop_pages()


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written: what must be known before its data is."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(
    file: BinaryIO, plan: Iterable[Planned], pieces: Iterable[tuple[str, Array]]
) -> None:
    """Write a file from a plan and the data, of which one piece is in memory at a time.

    Every tensor begins at a multiple of its item size as long as the plan lists larger items first.

    Args:
        file: empty, and able to seek.
        plan: what will be written, in the order of the file.
        pieces: name and next rows of a tensor; the tensors may take turns, in any order.

    Raises:
        ValueError: the pieces are not what was planned.
    """
    planned = {tensor.name: tensor for tensor in plan}
    header: dict[str, Any] = {}
    offset = 0
    for tensor in planned.values():
        end = offset + tensor.size_bytes
        header[tensor.name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(8 + len(encoded)) % ALIGNMENT_BYTES)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    written = dict.fromkeys(planned, 0)
    for name, piece in pieces:
        tensor = planned[name]
        fits = written[name] + piece.nbytes <= tensor.size_bytes
        if piece.dtype != tensor.dtype or piece.shape[1:] != tensor.shape[1:] or not fits:
            raise ValueError(f"{name}: planned {tensor}, got {piece.dtype} {piece.shape}")
        file.seek(8 + len(encoded) + header[name]["data_offsets"][0] + written[name])
        file.write(np.ascontiguousarray(piece).view(np.uint8).data)
        written[name] += piece.nbytes
    for name, size in written.items():
        if size != planned[name].size_bytes:
            raise ValueError(f"{name}: planned {planned[name].size_bytes} bytes, got {size}")
