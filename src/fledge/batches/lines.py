"""The lines of an input file: read as a stream, checked before a batch begins, read again by it.

Numbers count from 1, with empty lines, which are skipped otherwise.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BufferedReader
from pathlib import Path
from typing import Any

import orjson

from fledge.batches.records import BatchError

MOST_REQUESTS = 50_000
"""Of one batch, as at OpenAI."""

MOST_ERRORS = 100
"""That are told of one batch: after so many the rest is not looked at."""

_UTF8_MARK = b"\xef\xbb\xbf"
_SKIP_BYTES = 2**20


class BadLine(Exception):
    """A line that is no request.

    Attributes:
        code: the word for it, as far as known the one of OpenAI.
        param: the field at fault.
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line as it stands; `data` is None where it is too long to be read."""

    number: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch."""

    number: int
    custom_id: str
    body: dict[str, Any]


class LineReader:
    """Reads the lines of a file, some at a time. Blocks.

    Args:
        path: the file.
        max_line_bytes: longer lines are told, and passed over without being kept in memory.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, max_line_bytes: int) -> None:
        self._file: BufferedReader = path.open("rb")
        self._max_line_bytes = max_line_bytes
        self._number = 0

    def take(self, most_bytes: int) -> list[RawLine]:
        """The next lines, of about so many bytes, at least one; none at the end."""
        lines: list[RawLine] = []
        size = 0
        while size < most_bytes or not lines:  # however many empty ones there are
            data = self._file.readline(self._max_line_bytes + 2)
            if not data:
                break
            self._number += 1
            size += len(data)
            if len(data.rstrip(b"\r\n")) > self._max_line_bytes:
                self._skip(data)
                lines.append(RawLine(self._number, None))
                continue
            if self._number == 1:
                data = data.removeprefix(_UTF8_MARK)
            if data.strip():
                lines.append(RawLine(self._number, data))
        return lines

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _skip(self, data: bytes) -> None:
        """Pass over the rest of a line."""
        while data and not data.endswith(b"\n"):
            data = self._file.readline(_SKIP_BYTES)


def parse_line(raw: RawLine, endpoint: str) -> Line:
    """The request of a line.

    Raises:
        BadLine: it is none for this endpoint.
    """
    if raw.data is None:
        raise BadLine("line_too_long", "This line has more bytes than one request may have.")
    try:
        value = orjson.loads(raw.data)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise BadLine("invalid_json_line", "This line is not parseable as a JSON object.")
    for name in ("custom_id", "method", "url", "body"):
        if value.get(name) in (None, ""):
            raise BadLine(
                "missing_required_parameter", f"Missing required parameter: '{name}'.", name
            )
    custom_id, body = value["custom_id"], value["body"]
    if not isinstance(custom_id, str):
        raise BadLine("invalid_type", "The custom_id must be a string.", "custom_id")
    if value["method"] != "POST":
        raise BadLine("invalid_method", "The method must be POST.", "method")
    if value["url"] != endpoint:
        raise BadLine(
            "invalid_url", f"The url must be the batch's endpoint, which is {endpoint}.", "url"
        )
    if not isinstance(body, dict):
        raise BadLine("invalid_type", "The body must be an object.", "body")
    return Line(raw.number, custom_id, body)


@dataclass(slots=True)
class Check:
    """What is learnt of a file, line by line, before its batch may begin.

    Attributes:
        total: the requests so far.
        model: as the first of them names it.
        errors: what is wrong.
    """

    endpoint: str
    total: int = 0
    model: str | None = None
    errors: list[BatchError] = field(default_factory=list)
    # Digests, since the ids themselves may be as long as the file.
    _seen: set[bytes] = field(default_factory=set)

    def add(self, lines: list[RawLine]) -> None:
        """Look at some more lines."""
        for raw in lines:
            if self.is_over:
                return
            try:
                self._add(parse_line(raw, self.endpoint))
            except BadLine as error:
                self.errors.append(
                    BatchError(
                        code=error.code, message=str(error), line=raw.number, param=error.param
                    )
                )

    @property
    def is_over(self) -> bool:
        """Whether enough is known to refuse it."""
        return len(self.errors) >= MOST_ERRORS or self.total > MOST_REQUESTS

    def finish(self) -> list[BatchError]:
        """What is wrong with all of it; nothing: it may begin."""
        if self.total > MOST_REQUESTS:
            message = f"The batch has more than {MOST_REQUESTS} requests."
            return [BatchError(code="too_many_tasks", message=message)]
        if not self.total and not self.errors:
            return [BatchError(code="empty_batch", message="The input file has no requests.")]
        return self.errors

    def _add(self, line: Line) -> None:
        self.total += 1
        digest = blake2b(line.custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._seen:
            raise BadLine(
                "duplicate_custom_id",
                "The custom_id for this request is a duplicate of another request.",
                "custom_id",
            )
        self._seen.add(digest)
        model = line.body.get("model")
        if model is not None and not isinstance(model, str):
            return  # the request's own error, which its line in the results will tell
        if self.total == 1:
            self.model = model
        elif model != self.model:
            raise BadLine(
                "mismatched_model",
                "All requests of a batch must name the same model.",
                "body.model",
            )


def pending(lines: list[RawLine], endpoint: str, done: set[int]) -> Iterator[Line]:
    """The requests of lines that were checked, without those that are done.

    Raises:
        BadLine: the file is not the one that was checked.
    """
    for raw in lines:
        if raw.number not in done:
            yield parse_line(raw, endpoint)
