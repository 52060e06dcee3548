"""Which reader and which writer a file name's ending means."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from fledge.errors import FileFormatError
from fledge.files.parquet import ParquetEncoder, ParquetFile
from fledge.files.rows import Source
from fledge.files.sinks import Encoder, JsonLinesEncoder, NpyEncoder
from fledge.files.sources import open_csv, open_json_lines, open_text

OutputFormat: TypeAlias = Literal["jsonl", "npy", "parquet"]

READERS: dict[str, Callable[[Path, str | None], Source]] = {
    ".txt": open_text,
    ".jsonl": open_json_lines,
    ".ndjson": open_json_lines,
    ".csv": open_csv,
    ".tsv": open_csv,
    ".parquet": ParquetFile,
}
FORMATS: dict[str, OutputFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npy": "npy",
    ".parquet": "parquet",
}


def open_source(path: Path, column: str | None = None) -> Source:
    """The input of that name, its column found.

    Raises:
        FileFormatError: an ending that is not known, no such file, or no such column.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise FileFormatError(
            f"{path}: cannot tell the format from the ending {path.suffix!r}; "
            f"readable: {', '.join(READERS)}"
        )
    if not path.is_file():
        raise FileFormatError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    return reader(path, column)


def output_format(path: Path, asked: OutputFormat | None = None) -> OutputFormat:
    """The format asked for, or the one that an output's ending means.

    Raises:
        FileFormatError: an ending that means another format than the one asked for, or none.
    """
    meant = FORMATS.get(path.suffix.lower())
    if asked is not None and meant not in {None, asked}:
        raise FileFormatError(
            f"{path}: the ending {path.suffix!r} means {meant}, but {asked} was asked for; "
            "change one of them"
        )
    kind = asked or meant
    if kind is None:
        raise FileFormatError(
            f"{path}: cannot tell the format from the ending {path.suffix!r}; "
            f"writable: {', '.join(FORMATS)}"
        )
    return kind


def make_encoder(kind: OutputFormat, dimension: int) -> Encoder:
    """The writer of a format, for vectors of that length.

    Raises:
        FileFormatError: Parquet without pyarrow.
    """
    if kind == "jsonl":
        return JsonLinesEncoder()
    if kind == "npy":
        return NpyEncoder(dimension)
    return ParquetEncoder(dimension)
