"""Embedding a whole file: read, compute, write, and remember how far it came.

It knows no model: `embed` is given to it. At most two chunks are in memory, and a chunk is on the
disk before its progress is recorded, so an interrupted run loses what it was computing and no more.
"""

from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Protocol

import numpy as np
from anyio import to_thread

from fledge.errors import FileFormatError
from fledge.files.ordered import in_order, next_chunk
from fledge.files.progress import (
    Identity,
    Progress,
    differences,
    progress_path,
    read_progress,
    save_progress,
)
from fledge.files.report import Report, Tally
from fledge.files.rows import Computed, Row, Source, is_empty
from fledge.files.sinks import PartialFile, check_output
from fledge.types import Vectors


class EmbedTexts(Protocol):
    """Whatever turns texts into vectors. Called again before an earlier call has ended."""

    async def __call__(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """For at least one text: the vectors `[len(texts), dim]`, and how many texts were cut."""
        ...


OnProgress = Callable[[Report], None]


def ignore_progress(report: Report) -> None:
    """Tell nobody."""


async def embed_rows(
    embed: EmbedTexts, rows: Iterator[Row], *, may_block: bool = False
) -> AsyncGenerator[Computed, None]:
    """The rows with their vectors, in order; close it when you may leave before its end.

    Args:
        embed: computes the vectors.
        rows: what to embed.
        may_block: whether the next row may never come, as on a terminal: then an interrupt does
            not wait for it.
    """
    async with (
        aclosing(_chunks(rows, may_block=may_block)) as chunks,
        aclosing(in_order(partial(_embed_chunk, embed), chunks)) as results,
    ):
        async for computed in results:
            yield computed


async def embed_file(
    embed: EmbedTexts,
    source: Source,
    sink: PartialFile,
    *,
    identity: Identity,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> Report:
    """Embed every row of the source into the sink's output, or go on with an interrupted run.

    Args:
        embed: computes the vectors.
        source: the input.
        sink: the output.
        identity: what decides the vectors; with the input's fingerprint it must be the same for
            an interrupted run to be continued.
        overwrite: replace a finished output, and drop an interrupted run that does not fit.
        on_progress: told after each chunk.

    Raises:
        FileFormatError: the input is malformed, the output exists, or an interrupted run does not
            fit and `overwrite` is not given.
    """
    progress = _start(sink, {**identity, **source.fingerprint}, overwrite=overwrite)
    tally = Tally(rows=progress.rows, empty=progress.empty, truncated=progress.truncated)
    with closing(sink), closing(_rows_after(source, progress.rows)) as rows:
        async with aclosing(embed_rows(embed, rows)) as chunks:
            async for computed in chunks:
                tally.add(computed)
                progress = replace(
                    progress,
                    length=sink.append(computed),
                    rows=tally.rows,
                    empty=tally.empty,
                    truncated=tally.truncated,
                )
                save_progress(sink.output, progress)
                on_progress(tally.report())
        sink.finish(tally.rows)
    progress_path(sink.output).unlink(missing_ok=True)
    return tally.report()


def _start(sink: PartialFile, identity: Identity, *, overwrite: bool) -> Progress:
    """Open the sink where an interrupted run stopped, or at its beginning."""
    check_output(sink.output, overwrite=overwrite)
    try:
        earlier = read_progress(sink.output)
        if earlier is not None and _fits(earlier, sink, identity):
            sink.open_at(earlier.length)
            return earlier
    except FileFormatError:
        if not overwrite:
            raise
    progress = Progress(identity=identity, length=sink.open_new())
    save_progress(sink.output, progress)
    return progress


def _fits(earlier: Progress, sink: PartialFile, identity: Identity) -> bool:
    """Whether the earlier run can be continued; False when nothing of it is left."""
    if not sink.path.exists() or not earlier.rows:
        return False
    changed = differences(earlier.identity, identity)
    if sink.path.stat().st_size < earlier.length:
        changed = f"{sink.path.name} is shorter than it was"
    if changed:
        raise FileFormatError(
            f"{sink.output}: an interrupted run left {earlier.rows:,} rows that do not fit: "
            f"{changed}. Pass --overwrite to start again, or run it as it was run before"
        )
    return True


def _rows_after(source: Source, done: int) -> Generator[Row, None, None]:
    """The rows that are still to be computed."""
    with closing(source.rows()) as rows:
        if sum(1 for _ in islice(rows, done)) < done:
            raise FileFormatError(f"{source.name} has fewer than the {done:,} rows already done")
        yield from rows


async def _chunks(rows: Iterator[Row], *, may_block: bool) -> AsyncGenerator[list[Row], None]:
    """Chunks, read in a thread: vectors are handed out while a slow pipe fills the next one."""
    while chunk := await to_thread.run_sync(next_chunk, rows, _chars, abandon_on_cancel=may_block):
        yield chunk


def _chars(row: Row) -> int:
    return len(row or "")


async def _embed_chunk(embed: EmbedTexts, rows: Sequence[Row]) -> Computed:
    kept = [index for index, row in enumerate(rows) if not is_empty(row)]
    texts = [row for row in rows if row is not None and not is_empty(row)]
    if not texts:
        return Computed(rows, kept, np.empty((0, 0), np.float32), 0)
    vectors, truncated = await embed(texts)
    return Computed(rows, kept, vectors, truncated)
