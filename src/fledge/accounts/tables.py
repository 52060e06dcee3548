"""The tables of keys and usage, as the newest migration leaves them.

Nothing here makes or changes a table: `migrations/` does, and a test compares the two.
"""

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    Table,
    Text,
    TypedColumns,
    TypeDecorator,
    text,
)

# Named alike on every database, so that a later migration can name them.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: aware and in UTC for Python, whatever the database makes of time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database: SQLite keeps the digits alone, so that they must be those of UTC."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database: PostgreSQL answers in the time zone of its session."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class KeyColumns(TypedColumns):
    """A key without its secret. Rows stay for ever: usage is charged to them.

    `version` is the keyring's counter when the row last changed. Limits that are null do not
    limit; budgets count from the first of a month, UTC; money is in billionths.
    """

    id: Column[str] = Column(Text, primary_key=True)
    name: Column[str] = Column(Text, nullable=False)
    prefix: Column[str] = Column(Text, nullable=False)
    last_four: Column[str] = Column(Text, nullable=False)
    created: Column[datetime] = Column(UtcDateTime, nullable=False)
    expires: Column[datetime | None] = Column(UtcDateTime)
    revoked: Column[datetime | None] = Column(UtcDateTime)
    scopes: Column[Any] = Column(JSON, nullable=False)
    models: Column[Any] = Column(JSON, nullable=False)
    requests_per_minute: Column[int | None] = Column(BigInteger)
    tokens_per_minute: Column[int | None] = Column(BigInteger)
    concurrent_requests: Column[int | None] = Column(BigInteger)
    monthly_token_budget: Column[int | None] = Column(BigInteger)
    monthly_budget_nanos: Column[int | None] = Column(BigInteger)
    version: Column[int] = Column(BigInteger, nullable=False, index=True)


class SecretColumns(TypedColumns):
    """The SHA-256 of each secret that opens a key, in hex: two while a rotation's grace lasts."""

    digest: Column[str] = Column(Text, primary_key=True)
    key_id: Column[str] = Column(
        Text, ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False, index=True
    )
    expires: Column[datetime | None] = Column(UtcDateTime)


class KeyringColumns(TypedColumns):
    """One row: `counter` grows with every change of a key; `epoch` tells databases apart."""

    epoch: Column[str] = Column(Text, primary_key=True)
    counter: Column[int] = Column(BigInteger, nullable=False)


class DayColumns(TypedColumns):
    """What was used. `day` is in UTC; `key_id` also names those without a key, so no reference."""

    day: Column[date] = Column(Date, primary_key=True)
    key_id: Column[str] = Column(Text, primary_key=True, index=True)
    model: Column[str] = Column(Text, primary_key=True)
    deployment: Column[str] = Column(Text, primary_key=True)
    bill_to: Column[str] = Column(Text, primary_key=True)
    requests: Column[int] = Column(BigInteger, nullable=False)
    texts: Column[int] = Column(BigInteger, nullable=False)
    tokens: Column[int] = Column(BigInteger, nullable=False)
    cache_hits: Column[int] = Column(BigInteger, nullable=False)
    errors: Column[int] = Column(BigInteger, nullable=False)
    compute_us: Column[int] = Column(BigInteger, nullable=False)
    cost_nanos: Column[int] = Column(BigInteger, nullable=False)


class MonthColumns(TypedColumns):
    """The sums that budgets are held against. `changed_ms` is the database's own clock."""

    month: Column[date] = Column(Date, primary_key=True)
    key_id: Column[str] = Column(Text, primary_key=True)
    tokens: Column[int] = Column(BigInteger, nullable=False)
    cost_nanos: Column[int] = Column(BigInteger, nullable=False)
    changed_ms: Column[int] = Column(BigInteger, nullable=False)


class BatchColumns(TypedColumns):
    """The last batch of each running instance that was added to the sums."""

    instance: Column[str] = Column(Text, primary_key=True)
    number: Column[int] = Column(BigInteger, nullable=False)
    applied: Column[datetime] = Column(UtcDateTime, nullable=False)


api_keys = Table(
    "api_keys",
    metadata,
    KeyColumns,
    Index(
        "uq_api_keys_living_name",
        "name",
        unique=True,
        sqlite_where=text("revoked IS NULL"),
        postgresql_where=text("revoked IS NULL"),
    ),
)
key_secrets = Table("key_secrets", metadata, SecretColumns)
keyring = Table("keyring", metadata, KeyringColumns)
usage_days = Table("usage_days", metadata, DayColumns)
usage_months = Table(
    "usage_months", metadata, MonthColumns, Index("ix_usage_months_changed", "month", "changed_ms")
)
usage_batches = Table("usage_batches", metadata, BatchColumns)
