"""The body of a reply, read within a limit: also what it is unpacked to."""

import zlib
from collections.abc import AsyncIterator, Mapping

from fledge.providers.shapes import WrongAnswer

_ANY_ZLIB = 47
"""The window of zlib, plus the number that has it tell gzip and zlib apart by itself."""


async def read_whole(
    chunks: AsyncIterator[bytes], headers: Mapping[str, str], most_bytes: int
) -> bytes:
    """All of a body.

    Raises:
        WrongAnswer: it has more bytes, or is packed in a way that nobody asked for.
    """
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most_bytes:
        raise _too_large(most_bytes)
    body = bytearray()
    unpack = _unpacker(headers)
    async for chunk in chunks:
        body += unpack(chunk, most_bytes + 1 - len(body))
        if len(body) > most_bytes:
            raise _too_large(most_bytes)
    return bytes(body)


async def read_beginning(
    chunks: AsyncIterator[bytes], headers: Mapping[str, str], most_bytes: int
) -> bytes:
    """As much of a body as fits; of one that cannot be read, nothing."""
    body = bytearray()
    try:
        unpack = _unpacker(headers)
        async for chunk in chunks:
            body += unpack(chunk, most_bytes - len(body))
            if len(body) >= most_bytes:
                break
    except WrongAnswer:
        return b""
    return bytes(body)


class _Plain:
    def __call__(self, chunk: bytes, most_bytes: int) -> bytes:
        return chunk[:most_bytes]


class _Packed:
    def __init__(self) -> None:
        self._unpacker = zlib.decompressobj(_ANY_ZLIB)

    def __call__(self, chunk: bytes, most_bytes: int) -> bytes:
        """What is beyond the limit is never made, however small it is packed."""
        try:
            return self._unpacker.decompress(chunk, most_bytes)
        except zlib.error:
            raise WrongAnswer("a body that is not packed as it says") from None


def _unpacker(headers: Mapping[str, str]) -> _Plain | _Packed:
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return _Plain()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _Packed()
    raise WrongAnswer("a body that is packed in a way that nobody asked for")


def _too_large(most_bytes: int) -> WrongAnswer:
    return WrongAnswer(f"more than {most_bytes} bytes, the most that its vectors can take")
