"""`fledge providers`: how the enabled providers do, and one text sent to find out."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.table import Column, Table
from rich.text import Text

from fledge.catalog.shipped import shipped_entries
from fledge.cli import console
from fledge.cli.options import JsonOption
from fledge.cli.remote import Server
from fledge.cli.running import UrlOption
from fledge.errors import ServerUnreachable, SettingsError
from fledge.money import money_of, nanos_of, shown_money
from fledge.remotes import Remote, read_providers, with_providers
from fledge.settings import Settings, load_settings
from fledge.types import ModelEntry

NONE_ENABLED = (
    "no provider is enabled: every model is answered on this machine; the setting "
    "providers.enabled names those that may be asked"
)

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Show the enabled providers, and try them.\n\nBoth ask a running server, which alone "
    "knows how they do. Keys are never shown.",
)


@app.command("list")
def list_providers(*, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the enabled providers and the models that they have.

    With state, latency, price, budget left, last error, and whether the vectors are those of the
    model's first deployment. Without a server: what the settings say.
    """
    settings = load_settings()
    try:
        found = Server(url, settings).ask("GET", "/admin/providers")["data"]
    except ServerUnreachable as error:
        if url is not None:
            raise
        console.note(f"no server answers ({_first(error)}); this is what the settings say")
        found = _of_settings(settings)
    if as_json:
        for one in found:
            console.print_json(one)
    elif found:
        console.print_table(_listing(found))
    if not found:
        console.note(NONE_ENABLED)


@app.command("test")
def try_providers(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The provider's name.", show_default="all, in turn"),
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Any name of the model to ask for.",
            show_default="one that is warm here, else the first",
        ),
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send one text to a provider, through a running server.

    Where the model is warm here, a few more are sent to compare the vectors. What that costs is
    counted. Exit code 1: one did not answer, or with other vectors than the model's.
    """
    server = Server(url, load_settings())
    names = [name] if name is not None else _names(server, model)
    query = "" if model is None else f"?{urlencode({'model': model})}"
    tested = []
    for one in names:
        tested.append(server.ask("POST", f"/admin/providers/{quote(one, safe='')}/test{query}"))
        if as_json:
            console.print_json(tested[-1])
    if not tested:
        console.note(NONE_ENABLED if model is None else f"no provider has {model}")
        raise typer.Exit(1)
    if not as_json:
        console.print_table(_trials(tested))
    if any(one["status"] != "live" or one.get("space") == "differs" for one in tested):
        raise typer.Exit(1)


def _names(server: Server, model: str | None) -> list[str]:
    """Every provider of a server, or those that have a model."""
    found = server.ask("GET", "/admin/providers")["data"]
    if model is None:
        return [one["provider"] for one in found]
    id = server.ask("GET", f"/v1/models/{quote(model, errors='surrogateescape')}")["id"]
    return [one["provider"] for one in found if id in {at["id"] for at in one["models"]}]


def _of_settings(settings: Settings) -> list[dict[str, Any]]:
    """What a server would list, as far as the settings tell. Nobody is asked anything."""
    shipped = shipped_entries() if settings.catalog == "shipped" else []
    read = read_providers(settings)
    entries = with_providers(settings, shipped) if read else []
    return [_set(name, one, entries) for name, one in read.items()]


def _set(name: str, one: Remote | SettingsError, entries: Iterable[ModelEntry]) -> dict[str, Any]:
    models = [
        {"id": entry.id, "provider_id": entry.provider_ids[name], "status": "unknown"}
        for entry in entries
        if name in entry.provider_ids
    ]
    if isinstance(one, SettingsError):
        return {"provider": name, "status": "error", "error": str(one), "models": models}
    price = one.provider.price_nanos_per_million_tokens
    budget = one.monthly_budget_nanos
    return {
        "provider": name,
        "status": "unknown",
        "base_url": one.provider.base_url,
        **({} if price is None else {"price_per_million_tokens": money_of(price)}),
        **({} if budget is None else {"monthly_budget": money_of(budget)}),
        "models": models,
    }


def _listing(found: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(
        "provider",
        "state",
        Column("model", overflow="fold"),
        Column("ms", justify="right"),
        Column("a million tokens", justify="right"),
        Column("budget left", justify="right"),
        "vectors",
        Column("last error", overflow="fold"),
    )
    for one in found:
        for at in one["models"] or [{"id": "none", "status": one["status"]}]:
            table.add_row(
                Text(one["provider"]),
                _state(one, at),
                Text(at["id"]),
                _number(at.get("latency_ms")),
                _money(one.get("price_per_million_tokens")),
                _money(one.get("budget_left", one.get("monthly_budget"))),
                Text(_vectors(at)),
                Text(_last_error(one, at)),
            )
    return table


def _trials(tested: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(
        "provider",
        "state",
        Column("model", overflow="fold"),
        Column("dimension", justify="right"),
        Column("ms", justify="right"),
        Column("tokens", justify="right"),
        Column("cost", justify="right"),
        "vectors",
        Column("error", overflow="fold"),
    )
    for one in tested:
        table.add_row(
            Text(one["provider"]),
            one["status"],
            Text(one["model"]),
            str(one.get("dimension", "-")),
            _number(one.get("latency_ms")),
            str(one.get("tokens", "-")),
            _money(one.get("cost")),
            Text(_compared(one)),
            Text(one.get("error", "")),
        )
    return table


def _state(one: Mapping[str, Any], at: Mapping[str, Any]) -> str:
    status = one["status"] if one["status"] != "live" else at["status"]
    return "not asked" if status == "unknown" else str(status)


def _last_error(one: Mapping[str, Any], at: Mapping[str, Any]) -> str:
    words = [str(at[name]) for name in ("error", "last_error") if at.get(name)]
    if (ago_s := at.get("last_error_ago_s")) is not None:
        words.append(f"{ago_s:.0f} s ago")
    return ", ".join(words) or str(one.get("error", ""))


def _vectors(at: Mapping[str, Any]) -> str:
    """Whether they are those of the model's first deployment, in a few words."""
    relation = at.get("space", "")
    if relation == "reference":
        return "the first deployment"
    if relation == "differs":
        return f"differ: {'; '.join(at.get('differences', ()))}"
    cosine = at.get("cosine")
    return relation if cosine is None else f"{relation}, cosine {cosine:.5f}"


def _compared(one: Mapping[str, Any]) -> str:
    if one["status"] != "live":
        return "-"
    beside = one.get("compared_with")
    if beside is None:
        return "the first deployment"
    if one.get("space") == "unknown":
        return f"not compared: {beside} has the model not warm, or does not answer"
    return f"{_vectors(one)}, next to {beside}"


def _number(ms: float | None) -> str:
    return "-" if ms is None else f"{ms:.1f}"


def _money(value: float | None) -> str:
    return "-" if value is None else shown_money(nanos_of(value))


def _first(error: Exception) -> str:
    """An error's first half: what it advises is for commands that need a server."""
    return str(error).partition(";")[0]
