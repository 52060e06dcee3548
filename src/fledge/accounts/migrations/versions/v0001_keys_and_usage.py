"""The first tables: keys, their secrets, and what was used.

Column types are spelled out: a migration must not change when `tables` does.
"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them all."""
    _make_keys()
    _make_usage()


def _make_keys() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("last_four", sa.Text, nullable=False),
        sa.Column("created", moment, nullable=False),
        sa.Column("expires", moment),
        sa.Column("revoked", moment),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("requests_per_minute", sa.BigInteger),
        sa.Column("tokens_per_minute", sa.BigInteger),
        sa.Column("concurrent_requests", sa.BigInteger),
        sa.Column("monthly_token_budget", sa.BigInteger),
        sa.Column("monthly_budget_nanos", sa.BigInteger),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_version", "api_keys", ["version"])
    is_living = sa.text("revoked IS NULL")
    op.create_index(
        "uq_api_keys_living_name",
        "api_keys",
        ["name"],
        unique=True,
        sqlite_where=is_living,
        postgresql_where=is_living,
    )
    op.create_table(
        "key_secrets",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("expires", moment),
        sa.PrimaryKeyConstraint("digest", name="pk_key_secrets"),
        sa.ForeignKeyConstraint(
            ["key_id"], ["api_keys.id"], name="fk_key_secrets_key_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_key_secrets_key_id", "key_secrets", ["key_id"])
    keyring = op.create_table(
        "keyring",
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("epoch", name="pk_keyring"),
    )
    op.bulk_insert(keyring, [{"epoch": secrets.token_hex(8), "counter": 0}])


def _make_usage() -> None:
    sums = ("requests", "texts", "tokens", "cache_hits", "errors", "compute_us", "cost_nanos")
    op.create_table(
        "usage_days",
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("deployment", sa.Text, nullable=False),
        sa.Column("bill_to", sa.Text, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in sums),
        sa.PrimaryKeyConstraint(
            "day", "key_id", "model", "deployment", "bill_to", name="pk_usage_days"
        ),
    )
    op.create_index("ix_usage_days_key_id", "usage_days", ["key_id"])
    op.create_table(
        "usage_months",
        sa.Column("month", sa.Date, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nanos", sa.BigInteger, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("month", "key_id", name="pk_usage_months"),
    )
    op.create_index("ix_usage_months_changed", "usage_months", ["month", "changed_ms"])
    op.create_table(
        "usage_batches",
        sa.Column("instance", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("applied", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("instance", name="pk_usage_batches"),
    )
