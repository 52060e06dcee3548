"""What was used, out of the database: sums by key, model, day and more, as plain data."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from sqlalchemy import BigInteger, Row, Select, cast, func, select

from fledge.accounts.database import Database
from fledge.accounts.tables import api_keys, usage_days
from fledge.accounts.usage_query import FILTERS, GROUPS, SUMS, UsageQuery, columns
from fledge.money import money_of


def usage_report(database: Database, query: UsageQuery) -> list[dict[str, Any]]:
    """Rows of plain data, ready for JSON, with the keys of `columns`. Blocks.

    Days are `YYYY-MM-DD`; `cost` is money, and `cost_nanos` the same in billionths, which add up
    without rounding. What was counted in the last second may be missing.

    Raises:
        InvalidRequest: the query is no report.
        DatabaseUnavailable: the database does not answer.
    """
    query.check()
    names = columns(query)
    with database.read() as connection:
        return [_as_data(row, names) for row in connection.execute(_select(query))]


def _select(query: UsageQuery) -> Select[Any]:
    table = usage_days.c
    groups = [
        table.key_id if name == "key" else table[name] for name in GROUPS if name in query.group_by
    ]
    # PostgreSQL sums whole numbers into decimals.
    sums = [cast(func.coalesce(func.sum(table[name]), 0), BigInteger).label(name) for name in SUMS]
    found = select(*groups, *sums).where(table.day >= query.since, table.day <= query.until)
    for name in FILTERS:
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
    if name == "cost":
        return money_of(row["cost_nanos"])
    value = row[name]
    return value.isoformat() if isinstance(value, date) else value
