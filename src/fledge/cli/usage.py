"""`fledge usage`: what was used, out of the database, whether or not a server runs."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer
from rich.table import Column, Table
from rich.text import Text

from fledge.accounts.moments import day
from fledge.accounts.usage import month_of
from fledge.accounts.usage_query import GROUPS, Group, UsageQuery, as_csv, columns
from fledge.cli import console
from fledge.money import shown_money
from fledge.settings import load_settings
from fledge.stores import report_usage

_NANOS, _MONEY = "cost_nanos", "cost"
_NAMES = ("day", "key_id", "key_name", "model", "deployment", "bill_to")


def usage(
    *,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="The first day, UTC, as 2026-11-01.",
            show_default="first of the month",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="The last day.", show_default="today")
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help=f"A row for each combination of these: {', '.join(GROUPS)}; '' for one sum.",
        ),
    ] = "key,model",
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Only this key; `keyless` for requests without one."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Only the model of this id.")
    ] = None,
    form: Annotated[
        Literal["table", "json", "csv"],
        typer.Option("--format", help="json: a line each. csv: for a spreadsheet."),
    ] = "table",
) -> None:
    """Show what was used, and by which key.

    Requests, texts, tokens, cache hits, errors, seconds of computation, and money where prices are
    known. A server that runs writes them down twice a second.
    """
    today = datetime.now(UTC).date()
    last = today if until is None else day(until, "until")
    query = UsageQuery(
        since=month_of(last) if since is None else day(since, "since"),
        until=last,
        group_by=_groups(by),
        model=model,
    )
    rows = report_usage(load_settings(), query, key=key)
    if form == "json":
        for row in rows:
            console.print_json(row)
    elif form == "csv":
        console.print_bytes(as_csv(rows, columns(query)).encode("utf-8", "replace"))
    elif rows:
        console.print_table(_table(rows, columns(query)))
    else:
        console.note(f"nothing was used from {query.since} to {query.until}")


def _groups(by: str) -> tuple[Group, ...]:
    words = {word.strip() for word in by.split(",")} - {""}
    if unknown := sorted(words - set(GROUPS)):
        raise typer.BadParameter(
            f"{', '.join(unknown)}; it knows {', '.join(GROUPS)}", param_hint="--by"
        )
    return tuple(name for name in GROUPS if name in words)


def _table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    # Money only where there is any: nothing costs, unless somebody says so.
    costs = any(row[_NANOS] for row in rows)
    shown = [name for name in names if name != _NANOS and (costs or name != _MONEY)]
    table = Table(
        *(
            Column(name.replace("_", " "), overflow="fold")
            if name in _NAMES
            else Column(name.replace("_", " "), justify="right")
            for name in shown
        )
    )
    for row in rows:
        table.add_row(*(_cell(name, row) for name in shown))
    return table


def _cell(name: str, row: Mapping[str, Any]) -> Text | str:
    if name == _MONEY:
        return shown_money(row[_NANOS])
    value = row[name]
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else Text(value or "-")
