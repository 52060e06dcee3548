"""`fledge embed`: texts from the command line, from a pipe, or from a file of any size."""

import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, TypeAlias

import anyio
import typer

from fledge.cli import console
from fledge.cli.embed_file import EMPTY_ROWS, FileJob, describe, run_file_job
from fledge.cli.embedder import ServiceEmbedder
from fledge.cli.options import ColumnOption, ModelOption, PrecisionOption, PromptNameOption, given
from fledge.cli.tools import tools_of
from fledge.errors import FileFormatError
from fledge.files.embedder import embed_rows
from fledge.files.formats import OutputFormat, open_source, output_format
from fledge.files.lines import Lines
from fledge.files.report import Report, Tally
from fledge.files.rows import Computed
from fledge.files.sinks import Encoder, JsonLinesEncoder, NpyEncoder
from fledge.files.sources import text_rows
from fledge.library import Model
from fledge.prompts import PromptChoice
from fledge.requests import EmbedRequest
from fledge.settings import load_settings

STDIN = "-"

TextsArgument: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT", help="Texts to embed; a single `-` reads them from stdin, one a line."
    ),
]
InputOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--input",
        "-i",
        metavar="FILE",
        help="Texts from a file: .txt (one a line), .jsonl (objects or strings), .csv or .tsv "
        "(with a header), .parquet. It may be larger than memory.",
    ),
]
OutputOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The file to write for --input, row for row: .jsonl or .parquet with `text` and "
        "`embedding`, which is null where the text is empty or only white space; .npy for "
        "a bare array, where such a text gets a row of zeros. After an interrupt, the same "
        "command goes on.",
    ),
]
FormatOption: TypeAlias = Annotated[
    OutputFormat | None,
    typer.Option(
        "--format",
        help="The output's format, if its ending does not tell; on stdout jsonl or npy. jsonl "
        "to read and to pipe, npy for NumPy, parquet for data frames.",
        show_default="jsonl on stdout",
    ),
]
PromptOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="A text of your own to put before each text, for models that take instructions; "
        "not together with --prompt-name.",
    ),
]
InputTypeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--input-type",
        metavar="TYPE",
        help="What the texts are, as `query` or `document`: picks the model's own prompt for it, "
        "if it has one. An unknown type lists those that are known.",
    ),
]
NormalizeOption: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--normalize/--no-normalize",
        help="Vectors of length 1, or as they are before normalizing; by default as the "
        "model's own modules decide.",
    ),
]
DimensionsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--dimensions",
        metavar="N",
        help="Keep the first N numbers of each vector; sensible for models trained for it.",
    ),
]
OverwriteOption: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output that exists.")
]


def embed(  # noqa: PLR0913 - a parameter is a flag
    context: typer.Context,
    texts: TextsArgument = None,
    *,
    source: InputOption = None,
    output: OutputOption = None,
    kind: FormatOption = None,
    column: ColumnOption = None,
    model: ModelOption = None,
    precision: PrecisionOption = None,
    prompt: PromptOption = None,
    prompt_name: PromptNameOption = None,
    input_type: InputTypeOption = None,
    normalize: NormalizeOption = None,
    dimensions: DimensionsOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Embed texts, or a whole file of them.

    Texts and stdin go to stdout, as lines of JSON with `text` and `embedding`.
    """
    job = None
    if source is not None:
        job = _file_job(texts, source, output, kind, column, overwrite=overwrite)
    else:
        _check_stdout_use(texts, output, kind, column)
    request = EmbedRequest(
        inputs=(),
        prompt_choice=PromptChoice(prompt=prompt, prompt_name=prompt_name, input_type=input_type),
        normalize="model" if normalize is None else normalize,
        dimensions=dimensions,
        field="TEXT",
        priority=1,
    )
    settings = load_settings(**given(model=model, precision=precision))
    with tools_of(context).load(settings) as loaded:
        if job is not None:
            run_file_job(job, loaded, request)
        elif texts == [STDIN]:
            _embed_stdin(loaded, request, kind)
        else:
            _embed_texts(texts or [], loaded, request, kind)


def _file_job(
    texts: list[str] | None,
    source: Path,
    output: Path | None,
    kind: OutputFormat | None,
    column: str | None,
    *,
    overwrite: bool,
) -> FileJob:
    if texts:
        raise typer.BadParameter("give texts or --input, not both")
    if output is None:
        raise typer.BadParameter("--input needs --output FILE (.jsonl, .parquet or .npy)")
    if output.exists() and source.exists() and output.samefile(source):
        raise FileFormatError(f"{output} is the input; write to another file")
    job = FileJob(
        source=open_source(source, column),
        output=output,
        kind=output_format(output, kind),
        overwrite=overwrite,
    )
    job.check()
    return job


def _check_stdout_use(
    texts: list[str] | None, output: Path | None, kind: OutputFormat | None, column: str | None
) -> None:
    if not texts:
        raise typer.BadParameter("give texts, `-` for lines from stdin, or --input and --output")
    if output is not None or column is not None:
        raise typer.BadParameter("--output and --column go with --input FILE")
    if kind == "parquet":
        raise typer.BadParameter("parquet cannot be piped; use --input and --output")
    if kind == "npy" and sys.stdout.isatty():
        raise typer.BadParameter("npy is not for a terminal; redirect it: > vectors.npy")


def _embed_texts(
    texts: Sequence[str], model: Model, request: EmbedRequest, kind: OutputFormat | None
) -> None:
    vectors, truncated = anyio.run(ServiceEmbedder(model.service, request), texts)
    if truncated:
        longest = model.card.max_seq_length
        console.warn(f"{truncated} of {len(texts)} texts cut to the model's {longest} tokens")
    encoder = _stdout_encoder(kind, vectors.shape[1])
    computed = Computed(texts, range(len(texts)), vectors, truncated)
    console.print_bytes(encoder.start(len(texts)) + encoder.encode(computed))


def _embed_stdin(model: Model, request: EmbedRequest, kind: OutputFormat | None) -> None:
    embedder = ServiceEmbedder(model.service, request)
    encoder = _stdout_encoder(kind, request.dimensions or model.card.dimension)
    report = anyio.run(_stream_stdin, embedder, encoder)
    console.note(describe(report, EMPTY_ROWS[kind or "jsonl"]))


async def _stream_stdin(embedder: ServiceEmbedder, encoder: Encoder) -> Report:
    """Lines of JSON go out chunk by chunk; an array waits, since its length comes first."""
    rows = text_rows(Lines(sys.stdin.buffer, "stdin"), None)
    tally = Tally()
    waiting: list[bytes] = []
    async with aclosing(embed_rows(embedder, rows, may_block=True)) as chunks:
        async for computed in chunks:
            tally.add(computed)
            if isinstance(encoder, NpyEncoder):
                waiting.append(encoder.encode(computed))
            else:
                console.print_bytes(encoder.encode(computed))
    console.print_bytes(encoder.start(tally.rows) + b"".join(waiting))
    return tally.report()


def _stdout_encoder(kind: OutputFormat | None, dimension: int) -> Encoder:
    return NpyEncoder(dimension) if kind == "npy" else JsonLinesEncoder()
