"""Processes killed in the middle of everything: no usage twice, and at most a second missing."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from fledge.accounts.database import Database, open_database
from fledge.accounts.meter import Meter
from fledge.accounts.tables import usage_months
from fledge.accounts.usage_query import UsageQuery
from fledge.accounts.usage_report import usage_report
from tests.postgres import PostgresServer, postgres_server
from tests.processes.accounts_writer import Writer, opening

__all__ = ["postgres_server"]

ALWAYS = UsageQuery(since=date(2000, 1, 1), until=date(2100, 1, 1), group_by=())
MOST_LOST_S = 1.0
DEFAULT_FLUSH_S = 0.5
# So often that many a kill meets a transaction; still so seldom that SQLite, which lets writers
# try again instead of queueing them, lets the other one have its turn.
OFTEN_S = 0.01


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes the URLs of empty databases."""
    if request.param == "sqlite":
        numbers = iter(range(1000))
        return lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database


def check(database: Database) -> None:
    """The file is whole, and its two tables of usage say the same."""
    with database.read() as connection:
        if database.is_sqlite:
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
        by_month = connection.execute(select(func.sum(usage_months.c.tokens))).scalar()
    (days,) = usage_report(database, ALWAYS)
    assert (by_month or 0) == days["tokens"]


def test_twenty_instances_that_are_killed_lose_a_second_at_most_and_count_nothing_twice(
    new_url: Callable[[], str],
) -> None:
    url = new_url()
    for turn in range(10):
        # Two at a time, on one database.
        writers = [
            Writer(url, f"{turn} {flush_s}", flush_s) for flush_s in (DEFAULT_FLUSH_S, OFTEN_S)
        ]
        for writer in writers:
            writer.run_for(MOST_LOST_S + 0.05 + turn * DEFAULT_FLUSH_S / 10)
        killed = [writer.kill() for writer in writers]

        database = open_database(url)
        check(database)
        for writer, at in zip(writers, killed, strict=True):
            (row,) = usage_report(database, replace(ALWAYS, key_id=writer.key_id))
            # Each is said before it is counted, so the last may not have been.
            assert 0 < writer.written <= row["requests"] <= len(writer.said)
            # Where the disk is so slow that a writing takes long, that much more is lost.
            until = at - MOST_LOST_S - writer.slowest_s
            assert row["requests"] >= sum(said < until for said in writer.said[1:])
        database.close()


def test_a_database_whose_first_opening_was_killed_opens(new_url: Callable[[], str]) -> None:
    for turn in range(10):
        url = new_url()
        with opening(url):
            # Work that takes up to as long as the opening does: each is killed a little later.
            sum(range(turn * 400_000))
        database = open_database(url)
        meter = Meter(database)
        meter.start()
        meter.close()
        check(database)
        database.close()
