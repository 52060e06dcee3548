"""Files as `torch.save` writes them, made without torch: instruction by instruction, so that a test
may also write what torch never would."""

import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from fledge.engine.tensorfile import Array, read_tensor
from fledge.engine.torchfile import read_torch_header
from fledge.errors import CorruptModel, UnsupportedModel

STORAGES: Mapping[np.dtype[Any], str] = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.int16): "ShortStorage",
    np.dtype(np.int8): "CharStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}

PROTO, MARK, STOP, EMPTY_DICT, EMPTY_TUPLE = b"\x80\x02", b"(", b".", b"}", b")"
REDUCE, BUILD, PERSID, SETITEM, SETITEMS, NONE = b"R", b"b", b"Q", b"s", b"u", b"N"
FALSE, TUPLE, TUPLE1, POP, EMPTY_LIST, APPENDS = b"\x89", b"t", b"\x85", b"0", b"]", b"e"


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    """BININT where it fits, else LONG1."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def name(full: str) -> bytes:
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def group(*values: bytes) -> bytes:
    return MARK + b"".join(values) + TUPLE


def numbers(values: Iterable[int]) -> bytes:
    return group(*(number(value) for value in values))


def storage(key: str, kind: str, count: int, *, legacy: bool = False) -> bytes:
    fields = [text("storage"), name(f"torch.{kind}"), text(key), text("cpu"), number(count)]
    return group(*fields, *([NONE] if legacy else [])) + PERSID


def tensor(place: bytes, shape: Iterable[int], strides: Iterable[int], offset: int = 0) -> bytes:
    hooks = name("collections.OrderedDict") + EMPTY_TUPLE + REDUCE
    arguments = [place, number(offset), numbers(shape), numbers(strides), FALSE, hooks]
    return name("torch._utils._rebuild_tensor_v2") + group(*arguments) + REDUCE


def pickled(value: bytes) -> bytes:
    return PROTO + value + STOP


def state_dict(values: Mapping[str, bytes]) -> bytes:
    """An OrderedDict with its `_metadata`, as `Module.state_dict()` gives it."""
    items = b"".join(text(key) + value for key, value in values.items())
    versions = text("") + EMPTY_DICT + text("version") + number(1) + SETITEM
    empty = name("collections.OrderedDict") + EMPTY_TUPLE + REDUCE
    metadata = EMPTY_DICT + text("_metadata") + empty + MARK + versions + SETITEMS + SETITEM
    return empty + MARK + items + SETITEMS + metadata + BUILD


def describe(arrays: Mapping[str, Array], *, legacy: bool = False) -> tuple[bytes, list[bytes]]:
    """The description of arrays, and the storages "0", "1", ... that it speaks of.

    Arrays that are views of one other array share its storage.
    """
    stored = owners(arrays)
    values = {}
    for key, array in arrays.items():
        index = next(n for n, one in enumerate(stored) if one is owner(array))
        size = array.itemsize
        place = storage(str(index), STORAGES[array.dtype], stored[index].size, legacy=legacy)
        offset = (array.ctypes.data - stored[index].ctypes.data) // size
        strides = [step // size for step in array.strides]
        values[key] = tensor(place, array.shape, strides, offset)
    return state_dict(values), [whole.tobytes() for whole in stored]


def owner(array: Array) -> Array:
    """The array whose memory it shows."""
    return array if array.base is None else array.base


def owners(arrays: Mapping[str, Array]) -> list[Array]:
    """Each once, in the order of first use."""
    return list({id(owner(array)): owner(array) for array in arrays.values()}.values())


def archive(path: Path, description: bytes, storages: Iterable[bytes] = (), **extra: bytes) -> Path:
    """The zip container; `extra` are further entries beside the description."""
    return zipped(
        path,
        {
            "archive/data.pkl": description,
            **{f"archive/{key}": content for key, content in extra.items()},
            **{f"archive/data/{n}": content for n, content in enumerate(storages)},
        },
    )


def zipped(path: Path, entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for entry, content in entries.items():
            file.writestr(entry, content)
    return path


def save_torch(path: Path, arrays: Mapping[str, Array]) -> Path:
    description, storages = describe(arrays)
    return archive(path, pickled(description), storages, byteorder=b"little")


MAGIC = 0x1950A86A20F9469CFC6C


def legacy(
    path: Path,
    description: bytes,
    storages: Iterable[bytes],
    counts: Iterable[int],
    *,
    magic: int = MAGIC,
    little_endian: bytes = b"\x88",
) -> Path:
    """The container of torch before 1.6."""
    machine = EMPTY_DICT + text("little_endian") + little_endian + SETITEM
    storages = list(storages)
    keys = EMPTY_LIST + MARK + b"".join(text(str(n)) for n in range(len(storages))) + APPENDS
    pickles = (number(magic), number(1001), machine, description, keys)
    data = b"".join(
        count.to_bytes(8, "little") + content
        for count, content in zip(counts, storages, strict=True)
    )
    path.write_bytes(b"".join(pickled(one) for one in pickles) + data)
    return path


def save_legacy(path: Path, arrays: Mapping[str, Array]) -> Path:
    description, storages = describe(arrays, legacy=True)
    return legacy(path, description, storages, [whole.size for whole in owners(arrays)])


PLACE = storage("0", "FloatStorage", 2)
X = tensor(PLACE, (2,), (1,))


def one(value: bytes = X) -> bytes:
    """The pickle of a dictionary of one value."""
    return pickled(EMPTY_DICT + text("x") + value + SETITEM)


def read(path: Path) -> dict[str, Array]:
    """Every tensor of a file, in memory."""
    return {name: read_tensor(path, info) for name, info in read_torch_header(path).items()}


def read_or_refuse(path: Path) -> None:
    """Only two things may happen to bytes of any kind."""
    try:
        header = read_torch_header(path)
    except (CorruptModel, UnsupportedModel):
        return
    for info in header.values():
        try:
            assert read_tensor(path, info).nbytes <= path.stat().st_size
        except (CorruptModel, UnsupportedModel):
            continue
