"""`fledge embed --input FILE --output FILE`: the bar, the report, and what an interrupt leaves."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fledge.cli import console
from fledge.cli.embedder import ServiceEmbedder
from fledge.files.embedder import OnProgress, embed_file
from fledge.files.formats import OutputFormat, make_encoder
from fledge.files.progress import Identity
from fledge.files.report import Report
from fledge.files.rows import Source
from fledge.files.sinks import PartialFile, check_output
from fledge.inputs import check_dimensions
from fledge.library import Model
from fledge.prompts import choose_prompt
from fledge.requests import EmbedRequest

EMPTY_ROWS = {"jsonl": "null", "parquet": "null", "npy": "rows of zeros"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJob:
    """An input and an output that were checked before the model was loaded.

    Attributes:
        source: where the texts come from.
        output: where the vectors go.
        kind: the output's format.
        overwrite: whether an output that exists may be replaced.
    """

    source: Source
    output: Path
    kind: OutputFormat
    overwrite: bool

    def check(self) -> None:
        """Find what is wrong with the output while it costs nothing.

        Raises:
            FileFormatError: it exists, its folder does not, or its format needs what is missing.
        """
        make_encoder(self.kind, 1)
        check_output(self.output, overwrite=self.overwrite)


def run_file_job(job: FileJob, model: Model, request: EmbedRequest) -> None:
    """Do it, with a bar while it runs and a report at its end."""
    # Before the first file is made: what is refused later would leave two behind.
    choose_prompt(model.card, request.prompt_choice)
    check_dimensions(model.card, request.dimensions)
    dimension = request.dimensions or model.card.dimension
    sink = PartialFile(job.output, make_encoder(job.kind, dimension))
    try:
        with progress_bar(job.source) as on_progress:
            report = anyio.run(
                partial(
                    embed_file,
                    ServiceEmbedder(model.service, request),
                    job.source,
                    sink,
                    identity=identity_of(job, model, request),
                    overwrite=job.overwrite,
                    on_progress=on_progress,
                )
            )
    except KeyboardInterrupt:
        console.note(
            f"interrupted; what is done is kept in {sink.path}: the same command goes on from there"
        )
        raise typer.Exit(130) from None
    console.note(f"{describe(report, EMPTY_ROWS[job.kind])}; written to {job.output}")


def identity_of(job: FileJob, model: Model, request: EmbedRequest) -> Identity:
    """Everything beside the input that decides the bytes of the output."""
    card, choice = model.card, request.prompt_choice
    return {
        "format": job.kind,
        "model": card.id,
        "revision": card.revision,
        "precision": card.precision,
        "prompt": choice.prompt,
        "prompt_name": choice.prompt_name,
        "input_type": choice.input_type,
        "normalize": request.normalize,
        "dimensions": request.dimensions,
    }


def describe(report: Report, empty_rows: str) -> str:
    """The report in one line."""
    parts = [f"{report.rows:,} rows"]
    if report.resumed:
        parts[0] += f" ({report.resumed:,} of them by an interrupted run)"
    parts.append(f"{report.embedded:,} embedded")
    parts.append(f"{report.empty:,} empty" + (f" ({empty_rows})" if report.empty else ""))
    parts.append(f"{report.truncated:,} truncated")
    parts.append(f"{report.seconds:.1f} s")
    parts.append(f"{report.rows_per_second:,.0f} texts/s")
    return ", ".join(parts)


@contextmanager
def progress_bar(source: Source) -> Generator[OnProgress, None, None]:
    """A bar on stderr, if that is a terminal; yields what moves it."""
    terminal = console.error_console()
    with Progress(
        TextColumn("{task.fields[rows]:,} rows"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]:,.0f} texts/s"),
        TimeRemainingColumn(),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None, rows=0, speed=0.0)

        def move(report: Report) -> None:
            fraction = source.fraction
            bar.update(
                task,
                total=None if fraction is None else 1.0,
                completed=fraction or 0.0,
                rows=report.rows,
                speed=report.rows_per_second,
            )

        yield move
