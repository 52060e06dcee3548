"""Usage in the database: batches of sums that are added exactly once, and sums by month.

Everything here blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, literal_column, select, update

from fledge.accounts.database import Database
from fledge.accounts.tables import usage_batches, usage_days, usage_months
from fledge.accounts.usage import MonthSum, Sum, SumKey, month_of

# The database's own clock: those of the instances may differ.
_NOW_MS: dict[bool, ColumnElement[int]] = {
    True: literal_column("CAST((julianday('now') - 2440587.5) * 86400000 AS BIGINT)"),
    False: literal_column("CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"),
}
# A sum is stamped when it is written, and seen when its transaction commits. No transaction of
# PostgreSQL lasts longer: its statements may take 10 s, and idle ones are ended after 10 s.
_SLOWEST_COMMIT_MS = 30_000
_LONGEST_NAME = 512


@dataclass(frozen=True, slots=True)
class Batch:
    """Sums to add to the database.

    Attributes:
        number: counts the batches of one instance, from 1.
        sums: in the order of their keys. All instances write in it, so that no two ever wait for
            each other.
    """

    number: int
    sums: Sequence[tuple[SumKey, Sum]]

    def months(self) -> dict[tuple[date, str], MonthSum]:
        """The sums by month and key id, in that order."""
        found: dict[tuple[date, str], MonthSum] = {}
        for (day, key_id, *_), one in self.sums:
            at = month_of(day), key_id
            so_far = found.get(at, MonthSum(0, 0))
            found[at] = MonthSum(so_far.tokens + one.tokens, so_far.cost_nanos + one.cost_nanos)
        return found


def apply(database: Database, instance: str, batch: Batch, now: datetime) -> bool:
    """Add a batch, unless it was added before: then nothing changes, and the answer is False.

    After `DatabaseUnavailable` nobody knows whether it was added; trying again does the right
    thing either way. The batches of an instance must be tried in the order of their numbers.

    Raises:
        DatabaseUnavailable: the database does not answer, or the connection broke.
    """
    with database.write() as connection:
        if not _claim(database, connection, instance, batch.number, now):
            return False
        days = [
            {
                "day": day,
                "key_id": key_id,
                "model": _clean(model),
                "deployment": _clean(deployment),
                "bill_to": bill_to,
                **one.columns(),
            }
            for (day, key_id, model, deployment, bill_to), one in batch.sums
        ]
        _add(database, connection, usage_days, days)
        months = [
            {"month": month, "key_id": key_id, "tokens": one.tokens, "cost_nanos": one.cost_nanos}
            for (month, key_id), one in batch.months().items()
        ]
        _add(database, connection, usage_months, months, changed_ms=_NOW_MS[database.is_sqlite])
    return True


def forget_batches(database: Database, before: datetime) -> None:
    """Drop what is known of instances that have added nothing since a moment.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with database.write() as connection:
        connection.execute(delete(usage_batches).where(usage_batches.c.applied < before))


@dataclass(frozen=True, slots=True)
class MonthChanges:
    """The sums of a month that have changed, and from when on to ask the next time."""

    by_key: Mapping[str, MonthSum]
    since_ms: int


def month_changes(database: Database, month: date, since_ms: int) -> MonthChanges:
    """The sums of a month that may have changed since; 0: all.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    table = usage_months.c
    with database.read() as connection:
        now_ms: int = connection.execute(select(_NOW_MS[database.is_sqlite])).scalar_one()
        if since_ms > now_ms:  # the clock was set back
            since_ms = 0
        rows = connection.execute(
            select(table.key_id, table.tokens, table.cost_nanos).where(
                table.month == month, table.changed_ms >= since_ms
            )
        )
        found = {row.key_id: MonthSum(row.tokens, row.cost_nanos) for row in rows}
    return MonthChanges(found, now_ms - _SLOWEST_COMMIT_MS)


def _clean(name: str) -> str:
    """A name that every database takes: one that it refuses would be tried again for ever."""
    return name.encode("utf-8", "replace").decode().replace("\0", "")[:_LONGEST_NAME]


def _claim(
    database: Database, connection: Connection, instance: str, number: int, now: datetime
) -> bool:
    """Note the batch as added, in the transaction that adds it; False: it was noted before.

    Should an earlier try still be under way in the database, this waits for its end.
    """
    known = database.insert(usage_batches).values(instance=instance, number=0, applied=now)
    connection.execute(known.on_conflict_do_nothing())
    claimed = connection.execute(
        update(usage_batches)
        .where(usage_batches.c.instance == instance, usage_batches.c.number < number)
        .values(number=number, applied=now)
    )
    return claimed.rowcount == 1


def _add(
    database: Database,
    connection: Connection,
    table: Table[Any],
    rows: list[dict[str, Any]],
    **stamps: Any,
) -> None:
    """Add rows to those of the same primary key, column by column."""
    statement = database.insert(table)
    if stamps:
        statement = statement.values(stamps)
    sums = {
        column.name: column + statement.excluded[column.name]
        for column in table.c
        if not column.primary_key and column.name not in stamps
    }
    connection.execute(
        statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=sums | stamps),
        rows,
    )


def utc(now: float) -> datetime:
    """A Unix time as a moment."""
    return datetime.fromtimestamp(now, UTC)
