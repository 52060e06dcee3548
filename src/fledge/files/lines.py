"""Lines of UTF-8, one at a time, with an error that says where the bytes went wrong.

Lines end at `\\n` alone: `str.splitlines` would also cut at characters that stand inside of texts,
and then rows would no longer match.
"""

from collections.abc import Iterator
from typing import BinaryIO

from fledge.errors import FileFormatError

UTF8_BOM = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 64 * 2**20
"""A guess at what is still a text: a longer line is most likely not a text file at all."""


class Lines:
    """The lines of a binary stream as text, their ends kept.

    Attributes:
        name: what to call the stream in messages.
        number: the line that was read last, counted from 1.
        offset: bytes read so far.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self.number = 0
        self.offset = 0
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._stream.readline(MAX_LINE_BYTES + 1)
        if not raw:
            raise StopIteration
        self.number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise FileFormatError(
                f"{self.name}, line {self.number}: longer than {MAX_LINE_BYTES:,} bytes; "
                "is this a text file with one row a line?"
            )
        start = self.offset
        self.offset += len(raw)
        # A byte order mark is not text: left in, it would be part of the first row or column name.
        skipped = len(UTF8_BOM) if self.number == 1 and raw.startswith(UTF8_BOM) else 0
        try:
            return raw[skipped:].decode("utf-8")
        except UnicodeDecodeError as error:
            column = skipped + error.start
            raise FileFormatError(
                f"{self.name}, line {self.number}, byte {column + 1} (byte {start + column + 1:,} "
                f"of the file): 0x{raw[column]:02x} is not UTF-8; save the file as UTF-8"
            ) from None


def without_end(line: str) -> str:
    """The line without its `\\n` or `\\r\\n`."""
    return line.removesuffix("\n").removesuffix("\r")
