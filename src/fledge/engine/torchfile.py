"""The files that `torch.save` writes: where each tensor of a checkpoint lies, found without torch.

Two containers hold the same description, which `torchpickle` reads as data. Since torch 1.6 it is a
zip archive without compression: `NAME/data.pkl`, and `NAME/data/KEY` for each storage. Before, five
pickles stood in a row (a magic number, a protocol, the machine, the checkpoint, the storages' keys)
and behind them the storages, each with the count of its items. Tensors are not read here: like
those of safetensors they are found, and later read a few rows at a time.

Sources: `torch/serialization.py` (`_save`, `_load`, `_legacy_save`, `_legacy_load`); PKWARE's
APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3, for the archive.
"""

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any

from fledge.engine.tensorfile import TensorInfo
from fledge.engine.torchpickle import ADVICE, MAX_PICKLE_BYTES, SavedTensor, Storage, TorchPickle
from fledge.errors import CorruptModel, UnsupportedModel

MAX_DIRECTORY_BYTES = 2**24
"""Of the archive's list of entries: at some 100 bytes each, enough for 160,000."""

LOOKED_AT = 1000
"""Entries of a dictionary, to say what is in it instead of tensors."""

MAX_ITEMS = 2**48
"""Of a tensor; NumPy refuses shapes that no memory could hold."""

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
COUNT_BYTES = 8

ENTRY_SIGNATURE = b"PK\x03\x04"
PICKLE_SIGNATURE = b"\x80"

# APPNOTE 4.3.7, 4.3.12, 4.3.14, 4.3.15, 4.3.16: the first field of each is its signature
LOCAL = struct.Struct("<4s5H3L2H")
LISTED = struct.Struct("<4s6H3L5H2L")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
END = struct.Struct("<4s4H2LH")

ZIP64_EXTRA = 1
IN_ZIP64_EXTRA = 0xFFFFFFFF
ENCRYPTED = 1
STORED = 0
PACKED = -1  # in place of a size: TorchScript's sources are compressed, tensors never

Place = tuple[int, int]
"""First byte, and number of bytes."""


def read_torch_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a file that `torch.save` wrote, by name; runs no code from the file.

    The file must hold a dictionary; what is in it beside tensors is left out.

    Raises:
        CorruptModel: the file is truncated, or contradicts itself.
        UnsupportedModel: it holds more than a dictionary of tensors, or was written by a machine
            with another byte order; the message says what to do.
    """
    try:
        with path.open("rb") as file:
            source = _Source(path, file, os.fstat(file.fileno()).st_size)
            start = file.read(len(ENTRY_SIGNATURE))
            if start == ENTRY_SIGNATURE:
                content, places = _read_archive(source)
            elif start.startswith(PICKLE_SIGNATURE):
                content, places = _read_legacy(source)
            else:
                raise CorruptModel(
                    f"{path}: not a file of torch.save (a pointer of Git LFS?): fetch it again"
                )
    except OSError as error:
        raise CorruptModel(f"{path}: cannot be read: {error}") from error
    return {
        name: _locate(path, name, tensor, places)
        for name, tensor in _tensors(path, content).items()
    }


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    file: BufferedReader
    size: int

    def read(self, start: int, size: int) -> bytes:
        """Exactly these bytes."""
        if not 0 <= start <= start + size <= self.size:
            raise self.corrupt(f"byte {start + size} is beyond its end")
        self.file.seek(start)
        data = self.file.read(size)
        if len(data) != size:
            raise self.corrupt("it was truncated while it was read")
        return data

    def unpack(self, layout: struct.Struct, start: int, signature: bytes) -> tuple[Any, ...]:
        """The fields of a record behind its signature."""
        found, *fields = layout.unpack(self.read(start, layout.size))
        if found != signature:
            raise self.corrupt(f"byte {start} does not begin the record that should be there")
        return tuple(fields)

    def corrupt(self, what: str) -> CorruptModel:
        return CorruptModel(f"{self.path}: {what}; the file is damaged: fetch it again")

    def unsupported(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.path} {what}: {ADVICE}")


def _tensors(path: Path, content: Any) -> dict[str, SavedTensor]:
    if type(content) is not dict:
        raise UnsupportedModel(f"{path} holds no dictionary of tensors: {ADVICE}")
    tensors = {
        name: value
        for name, value in content.items()
        if type(name) is str and type(value) is SavedTensor
    }
    if tensors:
        return tensors
    for name, value in islice(content.items(), LOOKED_AT):
        if type(value) is dict and any(
            type(one) is SavedTensor for one in islice(value.values(), LOOKED_AT)
        ):
            raise UnsupportedModel(
                f"{path} holds its tensors under {str(name)[:80]!r}, as a training run's "
                f"checkpoint does, not as a model's file: {ADVICE}"
            )
    raise CorruptModel(f"{path}: there is no tensor in it")


def _locate(path: Path, name: str, tensor: SavedTensor, places: Mapping[str, Place]) -> TensorInfo:
    """The tensor's place in the file, if its description stays inside its storage."""
    storage, shape = tensor.storage, tensor.shape
    start, size = places[storage.key]
    axes = list(zip(shape, tensor.strides, strict=True))
    items = 0 if 0 in shape else 1 + sum((count - 1) * stride for count, stride in axes)
    item_bytes = storage.dtype.itemsize
    # views may repeat items and empty tensors have none, so a storage's end does not bound a shape
    if (
        tensor.offset + items > storage.count
        or storage.count * item_bytes > size
        or math.prod(max(count, 1) for count in shape) > MAX_ITEMS
    ):
        raise CorruptModel(
            f"{path}: tensor {name[:80]!r} does not fit its place in the file; "
            "the file is truncated or damaged: fetch it again"
        )
    start += tensor.offset * item_bytes
    return TensorInfo(
        dtype=storage.dtype,
        shape=shape,
        start=start,
        end=start + items * item_bytes,
        strides=_unusual_strides(axes) if items else None,
    )


def _unusual_strides(axes: list[tuple[int, int]]) -> tuple[int, ...] | None:
    """None for rows side by side; along an axis of one index no step is ever made."""
    strides = tuple(1 if count == 1 else stride for count, stride in axes)
    usual: list[int] = []
    width = 1
    for count, _ in reversed(axes):
        usual.insert(0, 1 if count == 1 else width)
        width *= count
    return None if strides == tuple(usual) else strides


# --- since torch 1.6 ------------------------------------------------------------------------------


def _read_archive(source: _Source) -> tuple[Any, dict[str, Place]]:
    entries = _list_entries(source)
    names = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise source.corrupt(f"it has {len(names)} descriptions of tensors (data.pkl) instead of 1")
    root = names[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries:
        raise source.unsupported("is a TorchScript program, not a checkpoint")
    if f"{root}byteorder" in entries:
        order = _entry(source, entries, f"{root}byteorder", most=16)
        if order != b"little":
            raise source.unsupported(f"was written in the byte order {order!r}")
    pickle = TorchPickle(source.path, _entry(source, entries, names[0], most=MAX_PICKLE_BYTES))
    content = pickle.load()
    places = {
        key: _find_entry(source, entries, f"{root}data/{key}", storage)
        for key, storage in pickle.storages.items()
    }
    return content, places


def _entry(source: _Source, entries: Mapping[str, Place], name: str, *, most: int) -> bytes:
    start, size = _find_entry(source, entries, name, None)
    if size > most:
        raise source.corrupt(f"{name} has {size} bytes, more than the {most} that it may have")
    return source.read(start, size)


def _find_entry(
    source: _Source, entries: Mapping[str, Place], name: str, storage: Storage | None
) -> Place:
    """The content of an entry, which is behind its own header."""
    if name not in entries:
        raise source.corrupt(f"{name[:80]} is missing, which its description names")
    header, size = entries[name]
    if size == PACKED:
        raise source.unsupported("is a compressed or encrypted archive, which torch never writes")
    *_, name_bytes, extra_bytes = source.unpack(LOCAL, header, ENTRY_SIGNATURE)
    start = header + LOCAL.size + name_bytes + extra_bytes
    if start + size > source.size:
        raise source.corrupt(f"{name[:80]} is cut off")
    if storage and storage.count * storage.dtype.itemsize > size:
        raise source.corrupt(f"{name[:80]} is shorter than its description says")
    return start, size


def _list_entries(source: _Source) -> dict[str, Place]:
    """Header's place and content's size of every entry of the archive."""
    start, size = _find_directory(source)
    if size > MAX_DIRECTORY_BYTES:
        raise source.corrupt(
            f"its list of entries has {size} bytes, more than the {MAX_DIRECTORY_BYTES} it may have"
        )
    directory = source.read(start, size)
    entries: dict[str, Place] = {}
    position = 0
    while position < size:
        name, place, position = _list_entry(source, directory, position)
        if name in entries:
            raise source.corrupt(f"it has two entries {name[:80]!r}")
        entries[name] = place
    return entries


def _find_directory(source: _Source) -> Place:
    """The list of entries, as the archive's last record says; torch writes no comment behind it."""
    end = source.size - END.size
    *_, size, start, comment = source.unpack(END, end, b"PK\x05\x06")
    if comment:
        raise source.corrupt("it has a comment at its end, which torch never writes")
    locator = end - LOCATOR64.size
    if locator >= 0 and source.read(locator, 4) == b"PK\x06\x07":
        _, place, _ = source.unpack(LOCATOR64, locator, b"PK\x06\x07")
        *_, size, start = source.unpack(END64, place, b"PK\x06\x06")
    return start, size


def _list_entry(source: _Source, directory: bytes, position: int) -> tuple[str, Place, int]:
    """One entry's name and place, and where the next one begins."""
    behind = position + LISTED.size
    if behind > len(directory):
        raise source.corrupt("its list of entries is cut off")
    signature, _, _, flags, method, _, _, _, packed, size, *lengths, _, _, _, header = (
        LISTED.unpack_from(directory, position)
    )
    name_bytes, extra_bytes, comment_bytes = lengths
    following = behind + name_bytes + extra_bytes + comment_bytes
    if signature != b"PK\x01\x02" or following > len(directory):
        raise source.corrupt("its list of entries is garbled")
    try:
        name = directory[behind : behind + name_bytes].decode()
    except UnicodeDecodeError as error:
        raise source.corrupt("an entry's name is no UTF-8") from error
    extra = directory[behind + name_bytes : behind + name_bytes + extra_bytes]
    size, packed, header = _wide(source, extra, [size, packed, header])
    if method != STORED or flags & ENCRYPTED:
        return name, (header, PACKED), following
    if size != packed:
        raise source.corrupt(f"{name[:80]!r} has two sizes")
    return name, (header, size), following


def _wide(source: _Source, extra: bytes, fields: list[int]) -> list[int]:
    """Fields of 4 GiB and more stand in an extra field, in their order (APPNOTE 4.5.3)."""
    wide = b""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == ZIP64_EXTRA:
            wide = extra[4 : 4 + length]
        extra = extra[4 + length :]
    result = []
    for field in fields:
        value = field
        if field == IN_ZIP64_EXTRA:
            if len(wide) < 8:
                raise source.corrupt("an entry's size is missing")
            value, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        result.append(value)
    return result


# --- before torch 1.6 -----------------------------------------------------------------------------


def _read_legacy(source: _Source) -> tuple[Any, dict[str, Place]]:
    pickle = TorchPickle(source.path, source.read(0, min(source.size, MAX_PICKLE_BYTES)))
    if pickle.load() != MAGIC_NUMBER:
        raise source.unsupported("is a pickle, but no checkpoint of torch.save")
    if pickle.load() != PROTOCOL:
        raise source.unsupported(f"has another protocol of torch.save than {PROTOCOL}")
    machine = pickle.load()
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise source.unsupported("was written by a machine with another byte order")
    content = pickle.load()
    keys = pickle.load()
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise source.corrupt("its list of storages is garbled")
    places: dict[str, Place] = {}
    position = pickle.position
    for key in keys:
        storage = pickle.storages.get(key)
        if storage is None or key in places:
            raise source.corrupt(
                f"nothing refers to its storage {key[:40]!r}, or it is there twice"
            )
        count = int.from_bytes(source.read(position, COUNT_BYTES), "little")
        if count != storage.count:
            raise source.corrupt(f"its storage {key[:40]!r} has {count} items, not {storage.count}")
        size = count * storage.dtype.itemsize
        places[key] = (position + COUNT_BYTES, size)
        position += COUNT_BYTES + size
        if position > source.size:
            raise source.corrupt(f"its storage {key[:40]!r} is cut off")
    if missing := pickle.storages.keys() - places:
        raise source.corrupt(f"its storage {min(missing)[:40]!r} is missing")
    return content, places
