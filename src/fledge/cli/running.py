"""`fledge models load`, `unload`, `pin`, `unpin` and `status`: the models of a running server."""

from typing import Annotated, Any, TypeAlias

import typer
from rich.table import Column, Table
from rich.text import Text

from fledge.cli import console
from fledge.cli.options import JsonOption
from fledge.cli.remote import Server, path_of
from fledge.settings import load_settings

ModelArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="MODEL", help="Any name of the model that requests may use.")
]
UrlOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Where the server is; by default where the settings host and port have it.",
        show_default="http://127.0.0.1:8080",
    ),
]


def load(
    model: ModelArgument,
    *,
    url: UrlOption = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until it is warm, or until it failed.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Load a model into a running server.

    Also one that failed a moment ago. One that the server does not have yet it downloads.
    """
    _ask(url, path_of(model, "load") + ("" if wait else "?wait=false"), as_json=as_json)


def unload(model: ModelArgument, *, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Let a model's requests end, and give its memory back.

    The next request that names it loads it again.
    """
    _ask(url, path_of(model, "unload"), as_json=as_json)


def pin(model: ModelArgument, *, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Keep a model from leaving by itself once it is loaded.

    Until the server stops; the setting `pinned` is for longer.
    """
    _ask(url, path_of(model, "pin"), as_json=as_json)


def unpin(model: ModelArgument, *, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Let a model leave by itself again.

    When it is idle, or when another one needs its memory.
    """
    _ask(url, path_of(model, "unpin"), as_json=as_json)


def status(
    *,
    url: UrlOption = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that are cold.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a running server has loaded.

    Also what it is loading, and what failed to load, and why.
    """
    server = Server(url, load_settings())
    query = "" if every else "?status=warm,loading,failed"
    entries = server.ask("GET", f"/v1/models{query}")["data"]
    if as_json:
        for entry in entries:
            console.print_json(entry)
        return
    table = Table(Column("model", overflow="fold"), "state", "memory", "pinned", "")
    for entry in entries:
        table.add_row(
            Text(entry["id"]),
            entry["status"],
            console.format_bytes(size) if (size := entry.get("memory_bytes")) else "-",
            "yes" if entry["pinned"] else "",
            Text(_details(entry)),
        )
    console.print_table(table)


def _ask(url: str | None, path: str, *, as_json: bool) -> None:
    entry = Server(url, load_settings()).ask("POST", path)
    if as_json:
        console.print_json(entry)
    else:
        typer.echo(_line(entry))


def _line(entry: dict[str, Any]) -> str:
    """What became of a model, in a few words."""
    words = [f"{entry['id']} is {entry['status']}"]
    if size := entry.get("memory_bytes"):
        words.append(console.format_bytes(size))
    if entry["pinned"]:
        words.append("pinned")
    if details := _details(entry):
        words.append(details)
    return ", ".join(words)


def _details(entry: dict[str, Any]) -> str:
    loading, error = entry.get("loading", {}), entry.get("error", {})
    words = [loading["stage"]] if "stage" in loading else []
    if "remaining_s" in loading:
        words.append(f"about {loading['remaining_s']:.0f} s to go")
    if "message" in error:
        words.append(f"{error['kind']}: {error['message']}")
    return ", ".join(words)
