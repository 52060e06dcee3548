"""Writing rows with their vectors: formats, and the file that grows beside the output.

Every format is written the same way: bytes are appended to `OUTPUT.fledge-partial`, which can be
cut back to any earlier length; when the last row is in, the format gives it its final form and it
takes the output's name in one step. Nobody ever sees half an output under that name.
"""

import os
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import orjson

from fledge.errors import FileFormatError
from fledge.files.rows import Computed

PARTIAL_SUFFIX = ".fledge-partial"


class Encoder(Protocol):
    """A format: how rows become bytes that can be appended, and what is done at the end."""

    def start(self, rows: int = 0) -> bytes:
        """What comes before the first row; some formats tell the number of rows there."""
        ...

    def encode(self, computed: Computed) -> bytes:
        """The bytes of these rows; the same rows always give the same bytes."""
        ...

    def finish(self, partial: Path, rows: int) -> Path:
        """The finished file: the partial one mended in place, or another made from it.

        May be called again after a crash within it.
        """
        ...


class JsonLinesEncoder:
    """A line `{"text": ..., "embedding": [...]}` for each row; an empty row's embedding is null."""

    def start(self, rows: int = 0) -> bytes:  # noqa: ARG002 - an `Encoder`
        """Nothing: JSON lines have no header."""
        return b""

    def encode(self, computed: Computed) -> bytes:
        """One line for each row."""
        vectors = dict(zip(computed.kept, computed.vectors, strict=True))
        return b"".join(
            orjson.dumps(
                {"text": row, "embedding": vectors.get(index)},
                option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
            )
            for index, row in enumerate(computed.rows)
        )

    def finish(self, partial: Path, rows: int) -> Path:  # noqa: ARG002 - an `Encoder`
        """The file as it is: JSON lines are complete at every line."""
        return partial


class NpyEncoder:
    """One float32 array `[rows, dim]`; an empty row is a row of zeros.

    The format has no null. Zeros are similar to nothing under a dot product, where a NaN would
    spread to every result that touches it.
    """

    HEADER_BYTES = 128

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension

    def start(self, rows: int = 0) -> bytes:
        """Version 1.0 of the header; of the same length for any number of rows.

        https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
        """
        fields = (
            f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {self._dimension}), }}"
        )
        magic = b"\x93NUMPY\x01\x00" + (self.HEADER_BYTES - 10).to_bytes(2, "little")
        return magic + fields.ljust(self.HEADER_BYTES - 11).encode("ascii") + b"\n"

    def encode(self, computed: Computed) -> bytes:
        """The rows' numbers, little endian."""
        block = np.zeros((len(computed.rows), self._dimension), "<f4")
        if computed.kept:
            block[list(computed.kept)] = computed.vectors
        return block.tobytes()

    def finish(self, partial: Path, rows: int) -> Path:
        """Write the number of rows into the header."""
        with partial.open("r+b") as file:
            file.write(self.start(rows))
        return partial


def check_output(output: Path, *, overwrite: bool) -> None:
    """Find out that nothing can be written while it has cost nothing.

    Raises:
        FileFormatError: the output exists and may not be replaced, or its folder does not exist.
    """
    if output.is_dir() or not output.parent.is_dir():
        folder = output if output.is_dir() else output.parent
        state = "is a folder" if output.is_dir() else "does not exist"
        raise FileFormatError(f"cannot write {output}: {folder} {state}")
    if output.exists() and not overwrite:
        raise FileFormatError(f"{output} exists; pass --overwrite to replace it")


class PartialFile:
    """The growing file beside the output. One writer at a time; close it or finish it.

    Args:
        output: where the finished file will be.
        encoder: its format.
    """

    def __init__(self, output: Path, encoder: Encoder) -> None:
        self.output = output
        self.path = output.with_name(output.name + PARTIAL_SUFFIX)
        self._encoder = encoder
        self._file: BinaryIO | None = None

    def open_new(self) -> int:
        """Start from nothing; the length with the format's header."""
        self._file = self.path.open("wb")
        return self._append(self._encoder.start())

    def open_at(self, length: int) -> None:
        """Go on after the first `length` bytes: what came later belongs to rows not counted."""
        self._file = self.path.open("r+b")
        self._file.truncate(length)
        self._file.seek(length)

    def append(self, computed: Computed) -> int:
        """Add rows; they are on the disk when this returns the new length."""
        return self._append(self._encoder.encode(computed))

    def finish(self, rows: int) -> None:
        """Make it the output."""
        self.close()
        finished = self._encoder.finish(self.path, rows)
        with finished.open("r+b") as file:
            os.fsync(file.fileno())
        finished.replace(self.output)
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave it as it is. Safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, data: bytes) -> int:
        if self._file is None:
            raise RuntimeError("the partial file is not open")
        self._file.write(data)
        self._file.flush()
        # The progress file must never know of bytes that a power cut could still take away.
        os.fsync(self._file.fileno())
        return self._file.tell()
