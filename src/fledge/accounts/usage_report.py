"""What was used: sums by key, model, day and more, as plain data and as CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, TypeAlias, get_args

from sqlalchemy import BigInteger, Row, Select, cast, func, select

from fledge.accounts.database import Database
from fledge.accounts.tables import api_keys, usage_days
from fledge.errors import InvalidRequest

Group: TypeAlias = Literal["day", "key", "model", "deployment", "bill_to"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""What a report can be broken down by, in the order of its columns."""

_SUMS = ("requests", "texts", "tokens", "cache_hits", "errors", "compute_us", "cost_nanos")
_FILTERS = ("key_id", "model", "deployment", "bill_to")
_SHOWN_SUMS = tuple({"compute_us": "compute_seconds"}.get(name, name) for name in _SUMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """What a report is about.

    Attributes:
        since: the first day, UTC.
        until: the last day, UTC.
        group_by: one row for each combination of these; empty: one row in all.
        key_id: of this key alone.
        model: of this public id alone.
        deployment: of this deployment alone.
        bill_to: of what was asked to be billed to this name alone.
        limit: most rows; None: all.
    """

    since: date
    until: date
    group_by: tuple[Group, ...] = ("day", "key", "model")
    key_id: str | None = None
    model: str | None = None
    deployment: str | None = None
    bill_to: str | None = None
    limit: int | None = None

    def check(self) -> None:
        """Refuse what is no report.

        Raises:
            InvalidRequest: its `field` names what is wrong.
        """
        if self.until < self.since:
            raise InvalidRequest(
                f"`until` must not be before `since`; {self.until} is before {self.since}",
                field="until",
            )
        if unknown := [name for name in self.group_by if name not in GROUPS]:
            raise InvalidRequest(
                f"`group_by` knows {', '.join(GROUPS)}, not {', '.join(unknown)}",
                field="group_by",
            )
        for name in _FILTERS:
            if not (getattr(self, name) or "").isprintable():
                raise InvalidRequest(f"`{name}` has a control character", field=name)
        if self.limit is not None and self.limit < 1:
            raise InvalidRequest(f"`limit` must be 1 or more, not {self.limit}", field="limit")


def columns(query: UsageQuery) -> tuple[str, ...]:
    """The names of a report's columns: what it is broken down by, then the sums."""
    groups = [name for name in GROUPS if name in query.group_by]
    named = [
        column
        for name in groups
        for column in (("key_id", "key_name") if name == "key" else (name,))
    ]
    return (*named, *_SHOWN_SUMS)


def usage_report(database: Database, query: UsageQuery) -> list[dict[str, Any]]:
    """Rows of plain data, ready for JSON, with the keys of `columns`. Blocks.

    Days are `YYYY-MM-DD`; `cost_nanos` is money in billionths. What was counted in the last second
    may be missing.

    Raises:
        InvalidRequest: the query is no report.
        DatabaseUnavailable: the database does not answer.
    """
    query.check()
    names = columns(query)
    with database.read() as connection:
        return [_as_data(row, names) for row in connection.execute(_select(query))]


def as_csv(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Rows as CSV with a heading; `names` are those of `columns`, in case there are no rows."""
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _select(query: UsageQuery) -> Select[Any]:
    table = usage_days.c
    groups = [
        table.key_id if name == "key" else table[name] for name in GROUPS if name in query.group_by
    ]
    # PostgreSQL sums whole numbers into decimals.
    sums = [cast(func.coalesce(func.sum(table[name]), 0), BigInteger).label(name) for name in _SUMS]
    found = select(*groups, *sums).where(table.day >= query.since, table.day <= query.until)
    for name in _FILTERS:
        if (value := getattr(query, name)) is not None:
            found = found.where(table[name] == value)
    found = found.group_by(*groups).order_by(*groups).limit(query.limit)
    if "key" not in query.group_by:
        return found
    # Joined afterwards: a name for each row of the report, not for each that it sums.
    summed = found.subquery()
    return (
        select(*summed.c, func.coalesce(api_keys.c.name, "").label("key_name"))
        .join_from(summed, api_keys, summed.c.key_id == api_keys.c.id, isouter=True)
        .order_by(*(summed.c[column.name] for column in groups))
    )


def _as_data(row: Row[Any], names: Sequence[str]) -> dict[str, Any]:
    found = row._mapping
    return {name: _value(found, name) for name in names}


def _value(row: Mapping[Any, Any], name: str) -> Any:  # Any: dates, texts and numbers
    if name == "compute_seconds":
        return row["compute_us"] / 1e6
    value = row[name]
    return value.isoformat() if isinstance(value, date) else value
