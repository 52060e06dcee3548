"""Parquet in, through row batches; and out, through a stream of Arrow batches.

A Parquet file has its directory at its end, so it can neither be appended to nor be read before it
is complete. The unfinished output is therefore an Arrow stream, which can; the last step copies it
into row groups, one at a time.
"""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from fledge.errors import FileFormatError
from fledge.files.arrow import arrow
from fledge.files.columns import choose_column
from fledge.files.rows import Computed, Row
from fledge.files.sources import file_fingerprint

READ_ROWS = 256
READ_BUFFER_BYTES = 2**20
ROW_GROUP_BYTES = 64 * 2**20
"""Memory of one row group while it is written; readers like groups of tens of megabytes."""


class ParquetFile:
    """A Parquet file as a `Source`: one column of it, read batch by batch."""

    def __init__(self, path: Path, column: str | None) -> None:
        self.name = str(path)
        self._path = path
        self._rows_read = 0
        with self._open() as file:
            schema = file.schema_arrow
            self._num_rows: int = file.metadata.num_rows
        strings = [field.name for field in schema if _holds_strings(field.type)]
        self.column = choose_column(self.name, column, schema.names, strings)
        if self.column not in strings:
            raise FileFormatError(
                f"{path}: column {self.column!r} holds {schema.field(self.column).type}, not text; "
                f"columns of text: {', '.join(strings) or 'none'}"
            )

    @property
    def fraction(self) -> float | None:
        """How many of the rows the current pass has read."""
        return self._rows_read / self._num_rows if self._num_rows else None

    @property
    def fingerprint(self) -> dict[str, str | int | None]:
        """Size, time of the last change, and the column."""
        return file_fingerprint(self._path, self.column)

    def rows(self) -> Generator[Row, None, None]:
        """A new pass from the first row."""
        self._rows_read = 0
        with self._open() as file:
            batches = file.iter_batches(READ_ROWS, columns=[self.column], use_threads=False)
            try:
                for batch in batches:
                    self._rows_read += batch.num_rows
                    yield from batch.column(0).to_pylist()
            except (arrow().ArrowException, UnicodeDecodeError) as error:
                raise FileFormatError(
                    f"{self.name}, after row {self._rows_read}: damaged: {error}"
                ) from error

    def _open(self) -> Any:  # Any: pyarrow has no types of its own
        try:
            # Buffered and without pre-buffering: otherwise a whole row group is in memory, and some
            # writers put the whole file into one.
            return arrow("pyarrow.parquet").ParquetFile(
                self._path, buffer_size=READ_BUFFER_BYTES, pre_buffer=False
            )
        except arrow().ArrowInvalid as error:
            raise FileFormatError(f"{self.name} is not a Parquet file: {error}") from None


def _holds_strings(kind: Any) -> bool:  # Any: a pyarrow type
    types = arrow("pyarrow.types")
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


class ParquetEncoder:
    """Columns `text` (string) and `embedding` (list of float32, null for an empty row)."""

    def __init__(self, dimension: int) -> None:
        pa = arrow()
        self._dimension = dimension
        self._schema = pa.schema(
            [("text", pa.string()), ("embedding", pa.list_(pa.field("item", pa.float32())))]
        )

    def start(self, rows: int = 0) -> bytes:  # noqa: ARG002 - an `Encoder`
        """The stream's schema message."""
        return bytes(self._schema.serialize())

    def encode(self, computed: Computed) -> bytes:
        """One batch message."""
        pa = arrow()
        lengths = np.zeros(len(computed.rows), np.int32)
        lengths[list(computed.kept)] = self._dimension
        offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
        embeddings = pa.ListArray.from_arrays(
            pa.array(offsets),
            pa.array(computed.vectors.reshape(-1)),
            type=self._schema.field("embedding").type,
            mask=pa.array(lengths == 0),
        )
        texts = pa.array(computed.rows, pa.string())
        return bytes(pa.record_batch([texts, embeddings], schema=self._schema).serialize())

    def finish(self, partial: Path, rows: int) -> Path:  # noqa: ARG002 - an `Encoder`
        """Copy the stream into row groups of a file of its own: a crash leaves the stream whole."""
        pa = arrow()
        finished = partial.with_name(partial.name + ".parquet")
        with (
            pa.OSFile(str(partial), "rb") as stream,
            pa.ipc.open_stream(stream) as batches,
            # Without dictionaries: of floats that hardly ever repeat they only cost time.
            arrow("pyarrow.parquet").ParquetWriter(
                finished, self._schema, use_dictionary=False
            ) as writer,
        ):
            group: list[Any] = []
            for batch in batches:
                group.append(batch)
                if sum(one.nbytes for one in group) >= ROW_GROUP_BYTES:
                    writer.write_table(pa.Table.from_batches(group, self._schema))
                    group = []
            if group:
                writer.write_table(pa.Table.from_batches(group, self._schema))
        return finished
