"""`fledge similarity` and `fledge rerank`: how alike texts are."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from fledge.cli import console
from fledge.cli.options import (
    ColumnOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    PromptNameOption,
    given,
)
from fledge.cli.tools import tools_of
from fledge.errors import EmptyInput
from fledge.files.formats import open_source
from fledge.files.rows import is_empty
from fledge.settings import load_settings

DIGITS = 4


def similarity(
    context: typer.Context,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT", help="Two or more texts.")],
    *,
    matrix: Annotated[
        bool,
        typer.Option(
            "--matrix", help="Compare each with each, not only the first with the others."
        ),
    ] = False,
    as_json: JsonOption = False,
    model: ModelOption = None,
    precision: PrecisionOption = None,
) -> None:
    """Compare a text with others.

    The first text is compared with each of the others, by the measure that the model was made
    for: the cosine for most, from -1 to 1.
    """
    if len(texts) < 2:
        raise typer.BadParameter("give at least two texts")
    settings = load_settings(**given(model=model, precision=precision))
    with tools_of(context).load(settings) as loaded:
        scores = loaded.similarity(texts if matrix else texts[:1], texts if matrix else texts[1:])
    rows = [[round(float(score), 6) for score in row] for row in scores]
    if matrix:
        _show_matrix(texts, rows, as_json=as_json)
    else:
        _show_scores(texts[0], texts[1:], rows[0], as_json=as_json)


def rerank(  # noqa: PLR0913 - a parameter is a flag
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    documents: Annotated[
        list[str] | None, typer.Argument(metavar="DOCUMENT", help="Where to look.")
    ] = None,
    *,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Documents from a .txt, .jsonl, .csv or .parquet file instead; rows "
            "that are empty or only white space take no part.",
        ),
    ] = None,
    column: ColumnOption = None,
    top_n: Annotated[
        int | None,
        typer.Option("--top-n", "-n", min=1, metavar="N", help="Show the best N only."),
    ] = None,
    as_json: JsonOption = False,
    model: ModelOption = None,
    precision: PrecisionOption = None,
    prompt_name: PromptNameOption = None,
) -> None:
    """Sort documents by similarity to a query."""
    numbered = _documents(documents, source, column)
    settings = load_settings(**given(model=model, precision=precision))
    with tools_of(context).load(settings) as loaded:
        ranking = loaded.rerank(
            query, [text for _, text in numbered], top_n=top_n, prompt_name=prompt_name
        )
    found = [(numbered[one.index][0], one.score, one.document) for one in ranking]
    if as_json:
        for index, score, document in found:
            console.print_json({"index": index, "score": round(score, 6), "document": document})
        return
    table = Table("score", "index", "document")
    for index, score, document in found:
        table.add_row(f"{score:.{DIGITS}f}", str(index), Text(document))
    console.print_table(table)


def _documents(
    documents: list[str] | None, source: Path | None, column: str | None
) -> list[tuple[int, str]]:
    """The documents and their places in the list or the file, from 0."""
    if bool(documents) == (source is not None):
        raise typer.BadParameter("give documents, or --input FILE")
    if source is None:
        return list(enumerate(documents or []))
    numbered = [
        (index, row)
        for index, row in enumerate(open_source(source, column).rows())
        if row is not None and not is_empty(row)
    ]
    if not numbered:
        raise EmptyInput(f"{source} has no text")
    return numbered


def _show_scores(text: str, others: list[str], scores: list[float], *, as_json: bool) -> None:
    if as_json:
        rows = [{"text": one, "score": score} for one, score in zip(others, scores, strict=True)]
        console.print_json({"text": text, "scores": rows})
        return
    table = Table("score", Column(Text(f"similarity to: {text}")))
    for one, score in zip(others, scores, strict=True):
        table.add_row(f"{score:.{DIGITS}f}", Text(one))
    console.print_table(table)


def _show_matrix(texts: list[str], scores: list[list[float]], *, as_json: bool) -> None:
    if as_json:
        console.print_json({"texts": texts, "matrix": scores})
        return
    # Texts as column heads would make columns too wide to fit: they have their row's number.
    table = Table("", "text", *(str(number) for number in range(1, len(texts) + 1)))
    for number, (text, row) in enumerate(zip(texts, scores, strict=True), 1):
        table.add_row(str(number), Text(text), *(f"{score:.{DIGITS}f}" for score in row))
    console.print_table(table)
