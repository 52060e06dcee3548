"""Reading texts from line files: plain text, JSON lines, CSV. Parquet is next door.

Every reader streams: a file may be larger than memory.
"""

import csv
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from fledge.errors import FileFormatError
from fledge.files.columns import choose_column
from fledge.files.lines import MAX_LINE_BYTES, Lines, without_end
from fledge.files.rows import Row

PEEKED_LINES = 100
"""JSON lines need not all have the same fields: so many are read to learn the columns."""

RowReader: TypeAlias = Callable[[Lines, str | None], Iterator[Row]]


class LineFile:
    """A file whose rows are made of lines: a `Source`.

    Args:
        path: the file; it is opened anew for each pass.
        column: the column of the texts, or None where there are no columns.
        read_rows: turns lines into rows.
    """

    def __init__(self, path: Path, column: str | None, read_rows: RowReader) -> None:
        self.name = str(path)
        self.column = column
        self._path = path
        self._read_rows = read_rows
        self._lines: Lines | None = None

    @property
    def fraction(self) -> float | None:
        """How much of the file's bytes the current pass has read."""
        size = self._path.stat().st_size
        return self._lines.offset / size if self._lines and size else None

    @property
    def fingerprint(self) -> dict[str, str | int | None]:
        """Size, time of the last change, and the column."""
        return file_fingerprint(self._path, self.column)

    def rows(self) -> Generator[Row, None, None]:
        """A new pass from the first row."""
        with self._path.open("rb") as stream:
            self._lines = Lines(stream, self.name)
            yield from self._read_rows(self._lines, self.column)


def file_fingerprint(path: Path, column: str | None) -> dict[str, str | int | None]:
    """What tells a changed input from the same one, without reading it."""
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "column": column}


def open_text(path: Path, column: str | None) -> LineFile:
    """Plain text: each line is a row."""
    if column is not None:
        raise FileFormatError(f"{path}: a text file has no columns; leave --column out")
    return LineFile(path, None, text_rows)


def text_rows(lines: Lines, column: str | None) -> Iterator[Row]:  # noqa: ARG001 - a `RowReader`
    """Each line is a row, an empty one too."""
    return map(without_end, lines)


def open_json_lines(path: Path, column: str | None) -> LineFile:
    """JSON lines: each is an object with a column of text, or a bare string."""
    with path.open("rb") as stream:
        lines = Lines(stream, str(path))
        values = [json_value(line, lines) for line in islice(lines, PEEKED_LINES)]
    objects = [value for value in values if isinstance(value, dict)]
    if objects:
        columns = dict.fromkeys(key for value in objects for key in value)
        strings = [c for c in columns if any(isinstance(value.get(c), str) for value in objects)]
        column = choose_column(str(path), column, list(columns), strings)
    return LineFile(path, column, json_rows)


def json_rows(lines: Lines, column: str | None) -> Iterator[Row]:
    """The text of each line; None for an empty line, a null, or an object without the column."""
    for line in lines:
        value = json_value(line, lines)
        if isinstance(value, dict):
            if column is None:
                raise FileFormatError(
                    f"{lines.name}, line {lines.number}: an object, where the lines before were "
                    "bare strings; name the column of the texts with --column"
                )
            value = value.get(column)
        if value is not None and not isinstance(value, str):
            where = f"column {column!r} holds" if column else "this is"
            raise FileFormatError(
                f"{lines.name}, line {lines.number}: {where} {_json_kind(value)}, not a text"
            )
        yield value


def json_value(line: str, lines: Lines) -> Any:  # Any: whatever the line holds
    """The JSON value of one line; None for an empty line."""
    if not line.strip():
        return None
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise FileFormatError(f"{lines.name}, line {lines.number}: not JSON: {error}") from None


def _json_kind(value: object) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "an array"}
    return kinds.get(type(value), "an object")


def open_csv(path: Path, column: str | None) -> LineFile:
    """CSV with a header line, separated by commas, semicolons or tabs, whichever the header has."""
    with path.open("rb") as stream:
        first = next(Lines(stream, str(path)), "")
        delimiter = max(",;\t", key=first.count)
        stream.seek(0)
        header = next(csv_records(Lines(stream, str(path)), delimiter), None)
    if header is not None:
        # Every field of a CSV is a string, so a column can be guessed only when it is alone.
        column = choose_column(str(path), column, header, header)
    return LineFile(path, column, partial(csv_rows, delimiter=delimiter))


def csv_rows(lines: Lines, column: str | None, *, delimiter: str) -> Iterator[Row]:
    """The column's text in each record; None in a record too short to have it."""
    records = csv_records(lines, delimiter)
    header = next(records, [])
    index = header.index(column) if column in header else 0
    for record in records:
        if len(record) > len(header):
            raise FileFormatError(
                f"{lines.name}, line {lines.number}: {len(record)} fields, where the header has "
                f"{len(header)}; a text that holds {delimiter!r} must stand in quotes"
            )
        yield record[index] if index < len(record) else None


def csv_records(lines: Lines, delimiter: str) -> Iterator[list[str]]:
    """The records; one may go on over several lines where a field stands in quotes."""
    # The module's own limit is 128 KB, less than a chapter. Without any, one forgotten quote would
    # read the whole file into memory.
    csv.field_size_limit(MAX_LINE_BYTES)
    try:
        yield from csv.reader(lines, delimiter=delimiter, strict=True)
    except csv.Error as error:
        raise FileFormatError(f"{lines.name}, line {lines.number}: not CSV: {error}") from None
