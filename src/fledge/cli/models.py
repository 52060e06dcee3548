"""`fledge models` and `fledge pull`: what is on this machine, and getting more."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from fledge.cli import console, running
from fledge.cli.options import JsonOption
from fledge.cli.tools import tools_of
from fledge.settings import load_settings

app = typer.Typer(rich_markup_mode=None)
app.command("load")(running.load)
app.command("unload")(running.unload)
app.command("pin")(running.pin)
app.command("unpin")(running.unpin)
app.command("status")(running.status)


@app.callback(invoke_without_command=True)
def models(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """List the models on this machine.

    Those that `fledge serve` would load are marked, and listed also when they are not here yet. The
    commands below ask a running server about its models.
    """
    if context.invoked_subcommand is not None:
        if as_json:
            raise typer.BadParameter(f"give --json after `{context.invoked_subcommand}`")
        return
    settings = load_settings()
    rows = tools_of(context).describe_models(settings)
    here = {name for name, _, _ in rows}
    rows = [*((name, _absent(name), 0) for name in settings.models if name not in here), *rows]
    if as_json:
        for name, origin, size in rows:
            console.print_json(
                {
                    "id": name,
                    "origin": origin,
                    "bytes": size,
                    "served": name in settings.models,
                }
            )
        return
    table = Table(Column("model", overflow="fold"), "where from", "size", "served")
    for name, origin, size in rows:
        table.add_row(
            Text(name),
            Text(origin),
            console.format_bytes(size) if size else "-",
            "yes" if name in settings.models else "",
        )
    console.print_table(table)


def _absent(model: str) -> str:
    """Where a model comes from that is in no cache."""
    if Path(model).expanduser().is_dir():
        return "its own folder"
    return "the hub, when it is first served or pulled"


def pull(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help="A hub id, as `BAAI/bge-small-en-v1.5`."),
    ],
) -> None:
    """Download a model and print where it is.

    After that, serving it needs no network.
    """
    typer.echo(tools_of(context).pull(model, load_settings()))
