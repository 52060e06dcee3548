"""`fledge keys`: who may use a server. Works on the database itself, whether or not one runs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias, cast

import typer
from rich.table import Column, Table
from rich.text import Text

from fledge.accounts.keys import ANY_MODEL, Key, KeySpec, NewKey, Scope, budget_nanos, describe
from fledge.accounts.moments import duration_s, moment
from fledge.cli import console
from fledge.cli.config import print_rows
from fledge.cli.options import JsonOption
from fledge.money import nanos_of, shown_money
from fledge.names import without_password
from fledge.settings import load_settings
from fledge.stores import database_url, opened_keys

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Make, list and revoke keys.\n\nThey are in the database of the settings, and every "
    "server on it knows of a change within two seconds. From the first key on, requests need one.",
)

KeyArgument: TypeAlias = Annotated[str, typer.Argument(metavar="KEY", help="Its name or its id.")]
_LIMIT_WORDS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "concurrent_requests": "at once",
    "monthly_token_budget": "tokens/month",
    "monthly_budget": "money/month",
}


@app.command()
def create(  # noqa: PLR0913 - a parameter is a flag
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what it is for.")],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE",
            help="inference embeds and lists models; admin manages models, keys and usage. May be "
            "given twice.",
            show_default="inference",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Only models whose id matches, as `BAAI/*`. May be given several times.",
            show_default="all",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="When it ends by itself: after 12h, 30d or 2w, or at a day (UTC), 2027-01-01.",
            show_default="never",
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(metavar="N", help="Most requests a minute.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(metavar="N", help="Most tokens a minute.")
    ] = None,
    concurrent_requests: Annotated[
        int | None, typer.Option(metavar="N", help="Most requests running at the same time.")
    ] = None,
    monthly_token_budget: Annotated[
        int | None, typer.Option(metavar="N", help="Most tokens of a calendar month, UTC.")
    ] = None,
    monthly_budget: Annotated[
        float | None,
        typer.Option(
            metavar="MONEY",
            help="Most money of a calendar month, UTC, as 20 or 2.5, in the currency of the "
            "providers' prices.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print its secret.

    The secret goes to stdout, alone, so that `KEY=$(fledge keys create NAME)` keeps it; the rest is
    on stderr. It is stored nowhere and cannot be shown again.
    """
    spec = KeySpec(
        name=name,
        scopes=frozenset(cast("list[Scope]", scope or ["inference"])),
        models=tuple(model) if model else ANY_MODEL,
        expires=None if expires is None else moment(expires, datetime.now(UTC), "expires"),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrent_requests=concurrent_requests,
        monthly_token_budget=monthly_token_budget,
        monthly_budget_nanos=budget_nanos(monthly_budget),
    )
    settings = load_settings()
    with opened_keys(settings) as store:
        is_first = not store.has_any()
        made = store.create(spec)
    _print_secret(made, as_json=as_json)
    if is_first:
        # Named, since a server of another user or folder has another one, and no key then.
        console.note(
            f"It is the first key of {without_password(database_url(settings))}: from now on every "
            "request needs one. A server that runs on it begins to ask within two seconds."
        )


@app.command("list")
def list_keys(
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Also those that were revoked or have expired.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the keys that are accepted."""
    now = datetime.now(UTC)
    with opened_keys(load_settings()) as store:
        keys = store.listed(with_ended=every)
    if as_json:
        for key in keys:
            console.print_json(describe(key, now))
        return
    if not keys:
        console.note("there is no key; make one with `fledge keys create NAME`")
        return
    console.print_table(_table(keys, now))


@app.command()
def show(key: KeyArgument, *, as_json: JsonOption = False) -> None:
    """Show one key, also one that has ended. Never its secret."""
    with opened_keys(load_settings()) as store:
        found = store.show(key)
    _print_key(found, as_json=as_json)


@app.command()
def revoke(key: KeyArgument, *, as_json: JsonOption = False) -> None:
    """End a key for ever.

    Every server refuses it within two seconds. What it used stays counted.
    """
    with opened_keys(load_settings()) as store:
        found = store.revoke(key)
        is_last = not store.listed()
    if as_json:
        _print_key(found, as_json=True)
    else:
        typer.echo(f"{found.name} ({found.id}) is revoked")
    if is_last:
        console.note("No key is left, and requests need one still: make another.")


@app.command()
def rotate(
    key: KeyArgument,
    *,
    grace: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How long the secret before is still accepted, as 1h or 7d: long enough to put "
            "the new one everywhere.",
        ),
    ] = "0s",
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret and print it.

    Id, name, limits and usage stay.
    """
    grace_s = duration_s(grace, "grace")
    with opened_keys(load_settings()) as store:
        made = store.rotate(key, grace_s=grace_s)
    _print_secret(made, as_json=as_json)
    console.note(
        f"The secret before is accepted for {grace} more."
        if grace_s
        else "The secret before is refused within two seconds."
    )


def _print_secret(made: NewKey, *, as_json: bool) -> None:
    """The secret on stdout; of what is on stderr a log may be kept, so it is not there."""
    if as_json:
        console.print_json(describe(made.key, datetime.now(UTC)) | {"secret": made.secret})
        return
    typer.echo(made.secret)
    console.note(
        f"This is the secret of {made.key.name} ({made.key.id}); keep it, it cannot be shown "
        "again.\nCallers send it as `Authorization: Bearer SECRET`, or as the api_key of OpenAI's "
        "and Hugging Face's clients."
    )


def _print_key(key: Key, *, as_json: bool) -> None:
    now = datetime.now(UTC)
    if as_json:
        console.print_json(describe(key, now))
        return
    found = describe(key, now)
    print_rows(
        [
            *((name, _spelled(found[name])) for name in ("id", "name", "state", "hint")),
            *((name, _spelled(found[name])) for name in ("scopes", "models")),
            *((name, _spelled(found[name]) or "-") for name in ("created", "expires", "revoked")),
            *((name, _spelled(found[name]) or "no limit") for name in _LIMIT_WORDS),
        ]
    )


def _spelled(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return shown_money(nanos_of(value))
    return ", ".join(value) if isinstance(value, list) else str(value)


def _table(keys: Sequence[Key], now: datetime) -> Table:
    table = Table(
        Column("name", overflow="fold"),
        Column("id", no_wrap=True),
        Column("secret", no_wrap=True),
        Column("state", no_wrap=True),
        "scopes",
        Column("models", overflow="fold"),
        "expires",
        Column("limits", overflow="fold"),
    )
    for key in keys:
        found = describe(key, now)
        limits = [
            f"{_spelled(found[name])} {word}" for name, word in _LIMIT_WORDS.items() if found[name]
        ]
        table.add_row(
            Text(key.name),
            key.id,
            found["hint"],
            found["state"],
            ", ".join(found["scopes"]),
            Text(", ".join(key.models)),
            (found["expires"] or "never").partition("T")[0],
            "\n".join(limits) or "none",
        )
    return table
