"""`multipart/form-data` with one file, as a stream: what arrives goes to the disk piece by piece.

Starlette's own reading of forms keeps files in the system's temporary folder, without a limit to
their size. This one is for uploads of a known shape: a few short fields, and one file.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from fledge.api.bodies import ClientLeft, described
from fledge.batches.files import Upload
from fledge.errors import BodyTooLarge, DeadlineExceeded, InvalidRequest, MalformedBody

_MOST_PARTS = 32
_MOST_FIELD_BYTES = 4096
# Boundaries, headers and fields around a file.
_AROUND_BYTES = 2**16
# Handed to the disk at once: each time costs a change of threads.
_PIECE_BYTES = 2**20


@dataclass(slots=True)
class Form:
    """What came.

    Attributes:
        fields: the short ones, by name.
        filename: of the file; None: there was no file.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


async def read_form(
    request: Request, upload: Upload, *, max_file_bytes: int, idle_timeout_s: float
) -> Form:
    """Read a form, its file into the upload.

    Raises:
        BodyTooLarge: the file has more bytes than it may.
        MalformedBody: it is no form, or was cut off.
        InvalidRequest: it has more parts than it may.
        DeadlineExceeded: nothing came for a while.
        StorageQuotaExceeded: the owner of the upload may not keep so many bytes.
        StorageUnavailable: the disk is full, or worse.
        ClientLeft: the client went away while sending.
    """
    length = request.headers.get("content-length", "")
    # Compared by length first: Python refuses to read a number of thousands of digits.
    if length.isdecimal() and (
        len(length) > len(str(2**63)) or int(length) > max_file_bytes + _AROUND_BYTES
    ):
        raise _too_large(max_file_bytes)
    parts = _Parts(max_file_bytes)
    chunks = request.stream()
    try:
        parser = _parser(request.headers.get("content-type", ""), parts.callbacks())
        while chunk := await _next(chunks.__anext__, idle_timeout_s):
            parser.write(chunk)
            if len(parts.piece) >= _PIECE_BYTES:
                await _flush(parts, upload)
        parser.finalize()
    except FormParserError:
        raise MalformedBody("the body is not multipart/form-data as its header says") from None
    except ClientDisconnect:
        raise ClientLeft from None
    if not parts.is_whole:
        raise MalformedBody("the body ends in the middle of a part")
    await _flush(parts, upload)
    return parts.form


async def _next(read: Callable[[], Any], timeout_s: float) -> bytes:
    """The next bytes; none at the end."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                chunk: bytes = await read()
                if chunk:
                    return chunk
    except StopAsyncIteration:
        return b""
    except TimeoutError:
        raise DeadlineExceeded(
            f"nothing of the body arrived for {timeout_s:g} s, the time-out of this server"
        ) from None


async def _flush(parts: "_Parts", upload: Upload) -> None:
    piece, parts.piece = parts.piece, bytearray()
    await asyncio.to_thread(upload.write, bytes(piece))


def _parser(content_type: str, callbacks: Any) -> MultipartParser:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise MalformedBody(
            f"the body must be multipart/form-data with a boundary, not {described(content_type)}"
        )
    return MultipartParser(boundary, callbacks)


def _too_large(max_file_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the file has more than {max_file_bytes} bytes, the most that a file may have "
        "(max_file_bytes)",
        field="file",
    )


class _Parts:
    """What the parser tells, part by part.

    Attributes:
        piece: bytes of the file that are not on the disk yet.
        is_whole: whether the last boundary came.
    """

    def __init__(self, max_file_bytes: int) -> None:
        self.form = Form()
        self.piece = bytearray()
        self.is_whole = False
        self._max_file_bytes = max_file_bytes
        self._file_bytes = 0
        self._count = 0
        self._header = bytearray()
        self._header_value = bytearray()
        self._disposition = ""
        self._name = ""
        self._is_file = False
        self._value = bytearray()

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._count += 1
        if self._count > _MOST_PARTS:
            raise InvalidRequest(f"the form has more than {_MOST_PARTS} parts")
        self._disposition = ""
        self._value = bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._header_value.decode("utf-8", "replace")
        self._header, self._header_value = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        options = _options(self._disposition)
        if "name" not in options:
            raise MalformedBody("a part of the form has no name")
        self._name = options["name"]
        self._is_file = "filename" in options
        if not self._is_file:
            return
        if self._name != "file" or self.form.filename is not None:
            raise InvalidRequest(
                "the form must have one file, in the field `file`", field=self._name[:64]
            )
        self.form.filename = options["filename"]

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._file_bytes += end - start
            if self._file_bytes > self._max_file_bytes:
                raise _too_large(self._max_file_bytes)
            self.piece += data[start:end]
            return
        self._value += data[start:end]
        if len(self._value) > _MOST_FIELD_BYTES:
            raise InvalidRequest(
                f"a field of the form has more than {_MOST_FIELD_BYTES} bytes; a file needs a "
                "filename",
                field=self._name[:64],
            )

    def _on_part_end(self) -> None:
        if not self._is_file:
            self.form.fields[self._name] = self._value.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self.is_whole = True


def _options(disposition: str) -> dict[str, str]:
    """The parameters of a Content-Disposition, whose values may be any text."""
    # The parser of options knows Latin-1 only.
    _, options = parse_options_header(disposition.encode("utf-8").decode("latin-1"))
    return {
        name.decode("latin-1"): value.decode("utf-8", "replace") for name, value in options.items()
    }
