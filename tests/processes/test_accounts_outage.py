"""A PostgreSQL that goes and comes back under load: callers notice nothing, and all is counted."""

from collections.abc import Iterator
from datetime import date

import pytest

from fledge.accounts.database import Database, open_database
from fledge.accounts.key_store import KeyStore
from fledge.accounts.keyring import Keyring
from fledge.accounts.keys import KeySpec
from fledge.accounts.meter import Meter
from fledge.accounts.usage import MonthSum, UsageRecord
from fledge.accounts.usage_query import UsageQuery
from fledge.accounts.usage_report import usage_report
from fledge.errors import DatabaseUnavailable
from tests.postgres import PostgresServer, postgres_server
from tests.processes.cutting_proxy import CuttingProxy

__all__ = ["postgres_server"]

ALWAYS = UsageQuery(since=date(2000, 1, 1), until=date(2100, 1, 1), group_by=())
ONE = UsageRecord("key_1", "org/a", tokens=10)


@pytest.fixture
def server(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """One that runs again afterwards, whatever a test did."""
    yield postgres_server
    postgres_server.start_if_stopped()


class Instance:
    """What one process of a cluster has, and the requests that it answers."""

    def __init__(self, url: str) -> None:
        self.database = open_database(url)
        self.store = KeyStore(self.database)
        self.keyring = Keyring(self.store, refresh_s=0.05)
        self.meter = Meter(self.database, flush_s=0.05)
        self.answered = 0
        self.keyring.start()
        self.meter.start()

    def answer(self, secret: str) -> None:
        key = self.keyring.find(secret)
        assert key is not None
        self.meter.count(UsageRecord(key.id, "org/a", tokens=10))
        self.meter.month_to_date(key.id)
        self.answered += 1

    def lags_s(self) -> float:
        """For how long the database has not answered, as far as both threads noticed."""
        return min(self.keyring.age_s(), self.meter.status().written_s)

    def close(self) -> None:
        self.meter.close()
        self.keyring.close()
        self.database.close()


def tokens(database: Database) -> int:
    (row,) = usage_report(database, ALWAYS)
    found: int = row["tokens"]
    return found


def test_callers_notice_nothing_of_a_database_that_stops_and_starts(server: PostgresServer) -> None:
    url = server.new_database()
    instances = [Instance(url), Instance(url)]
    made = instances[0].store.create(KeySpec(name="a"))
    for one in instances:
        one.keyring.refresh()

    def answer_while(is_wanted: object) -> None:
        assert callable(is_wanted)
        while is_wanted():
            for one in instances:
                for _ in range(20):
                    one.answer(made.secret)

    for _ in range(3):
        so_far = instances[0].answered
        answer_while(lambda: instances[0].answered < so_far + 2000)  # noqa: B023 - used at once
        server.stop()
        answer_while(lambda: any(one.lags_s() < 0.5 for one in instances))
        with pytest.raises(DatabaseUnavailable):
            instances[0].store.revoke("a")
        server.start()
        answer_while(lambda: any(one.lags_s() > 0.3 for one in instances))

    instances[1].store.revoke("a")
    for one in instances:
        one.keyring.refresh()
        assert one.keyring.find(made.secret) is None
        one.close()
    database = open_database(url)
    answered = sum(one.answered for one in instances)
    assert tokens(database) == 10 * answered
    late = Meter(database)
    late.read_months()
    assert late.month_to_date(made.key.id) == MonthSum(10 * answered, 0)
    database.close()


def test_a_commit_whose_answer_is_lost_counts_once(server: PostgresServer) -> None:
    url = server.new_database()
    proxy = CuttingProxy(server.port)
    database = open_database(url.replace(f":{server.port}/", f":{proxy.port}/"))
    meter = Meter(database)
    direct = open_database(url)

    meter.count(ONE)
    proxy.cuts_commits = True
    with pytest.raises(DatabaseUnavailable):
        meter.flush()
    assert proxy.cut == 1
    assert tokens(direct) == 10  # it was done all the same
    meter.count(ONE)
    proxy.cuts_commits = False
    meter.flush()

    assert tokens(direct) == 20
    assert meter.month_to_date("key_1") == MonthSum(20, 0)
    for one in (database, direct):
        one.close()
    proxy.close()
