"""What is counted arrives, once, whatever the database does meanwhile."""

import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, Literal

import pytest

from fledge.accounts import meter as meter_module
from fledge.accounts.database import Database
from fledge.accounts.meter import Meter
from fledge.accounts.tables import usage_batches
from fledge.accounts.usage import MonthSum, Sum, UsageRecord
from fledge.accounts.usage_query import UsageQuery
from fledge.accounts.usage_report import usage_report
from fledge.accounts.usage_store import Batch, apply
from fledge.errors import DatabaseUnavailable
from tests.unit.accounts.conftest import Clock, FlakyDatabase

PATIENCE_S = 30
ONE = UsageRecord("key_1", "org/a", texts=2, tokens=10, compute_s=0.001, cost_nanos=3)
ALWAYS = UsageQuery(since=date(2000, 1, 1), until=date(2100, 1, 1), group_by=())
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def stored(database: Database, **query: Any) -> dict[str, Any]:
    (row,) = usage_report(database, replace(ALWAYS, **query))
    return row


def rows(database: Database, *group_by: Any) -> list[tuple[Any, ...]]:
    query = replace(ALWAYS, group_by=group_by)
    return [tuple(row.values()) for row in usage_report(database, query)]


@pytest.fixture
def meter(flaky: FlakyDatabase, clock: Clock) -> Meter:
    return Meter(flaky, now=clock)


def test_what_is_counted_is_stored(meter: Meter, database: Database) -> None:
    meter.count(ONE)
    meter.count(ONE._replace(requests=2, cache_hits=1, errors=1))
    assert stored(database)["requests"] == 0
    meter.flush()
    assert stored(database) == {
        "requests": 3,
        "texts": 4,
        "tokens": 20,
        "cache_hits": 1,
        "errors": 1,
        "compute_seconds": 0.002,
        "cost_nanos": 6,
        "cost": 6e-9,
    }
    meter.count(ONE)
    meter.flush()
    assert stored(database)["tokens"] == 30


def test_nothing_to_write_writes_nothing(meter: Meter, database: Database) -> None:
    meter.flush()
    with database.read() as connection:
        assert connection.execute(usage_batches.select()).all() == []


def test_usage_belongs_to_the_day_on_which_it_happened(
    meter: Meter, flaky: FlakyDatabase, clock: Clock
) -> None:
    clock.set("2026-11-30T23:59:59")
    meter.count(ONE)
    flaky.failure = "down"
    with pytest.raises(DatabaseUnavailable):
        meter.flush()
    clock.set("2026-12-01T00:00:01")
    meter.count(ONE)
    meter.count(ONE)
    flaky.failure = None
    meter.flush()
    assert [row[:2] for row in rows(flaky, "day")] == [("2026-11-30", 1), ("2026-12-01", 2)]


def test_two_instances_add_up(meter: Meter, other: Database, clock: Clock) -> None:
    elsewhere = Meter(other, now=clock)
    for each in (meter, elsewhere, meter):
        each.count(ONE)
        each.flush()
    assert stored(other)["requests"] == 3


def test_instances_that_write_the_same_sums_at_once_do_not_stand_in_each_others_way(
    database: Database, other: Database, clock: Clock
) -> None:
    """Were the order of the rows not the same for all, PostgreSQL would find a deadlock."""
    everybody = threading.Barrier(4)

    def work(number: int) -> None:
        meter = Meter((database, other)[number % 2], now=clock)
        order = random.Random(number)  # noqa: S311 - no secret
        everybody.wait()
        for _ in range(10):
            for model in order.sample(range(50), 50):
                meter.count(ONE._replace(model=f"org/{model}", key_id=f"key_{model % 7}"))
            meter.flush()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert stored(database)["requests"] == 4 * 10 * 50


def test_more_sums_than_one_batch_takes_are_all_stored(
    meter: Meter, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter_module, "_BATCH_SUMS", 7)
    for number in range(100):
        meter.count(ONE._replace(model=f"org/{number}"))
    meter.flush()
    assert stored(database)["requests"] == 100
    assert meter.month_to_date("key_1") == MonthSum(1000, 300)


# --- failures


@pytest.mark.parametrize("failure", ["down", "midway", "unknown"])
def test_a_flush_that_fails_is_made_good_once(
    meter: Meter, flaky: FlakyDatabase, failure: Literal["down", "midway", "unknown"]
) -> None:
    meter.count(ONE)
    flaky.failure = failure
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            meter.flush()
        meter.count(ONE)
    flaky.failure = None
    meter.flush()
    meter.flush()
    assert stored(flaky)["requests"] == 4
    assert meter.month_to_date("key_1") == MonthSum(40, 12)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_fails_and_when_everything_is_counted_once(
    flaky: FlakyDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(meter_module, "_BATCH_SUMS", 2)
    fate = random.Random(seed)  # noqa: S311 - no secret
    meters = [Meter(flaky, now=clock) for _ in range(2)]
    counted = 0
    for _ in range(150):
        meter = fate.choice(meters)
        for _ in range(fate.randrange(4)):
            meter.count(ONE._replace(model=f"org/{fate.randrange(5)}"))
            counted += 1
        flaky.failure = fate.choice([None, "down", "midway", "unknown"])
        try:
            meter.flush()
            meter.read_months()
        except DatabaseUnavailable:
            pass
        clock.time += fate.random()
    flaky.failure = None
    for meter in meters:
        meter.close()
        meter.read_months()
    assert stored(flaky)["requests"] == counted
    meters[0].read_months()
    assert [meter.month_to_date("key_1").tokens for meter in meters] == [10 * counted] * 2


def test_a_batch_is_added_once_even_while_an_earlier_try_still_runs(
    database: Database, other: Database
) -> None:
    """As after a connection that broke: the database may still be busy with the first try."""
    batch = Batch(1, [((date(2026, 11, 21), "key_1", "org/a", "local", ""), Sum(requests=1))])
    with ThreadPoolExecutor(2) as threads:
        tries = [threads.submit(apply, one, "instance", batch, NOW) for one in (database, other)]
        assert sorted(one.result(PATIENCE_S) for one in tries) == [False, True]
    assert stored(database)["requests"] == 1


def test_a_batch_whose_number_is_past_is_not_added(database: Database) -> None:
    sums = [((date(2026, 11, 21), "key_1", "org/a", "local", ""), Sum(requests=1))]
    assert apply(database, "instance", Batch(5, sums), NOW)
    assert not apply(database, "instance", Batch(5, sums), NOW)
    assert not apply(database, "instance", Batch(4, sums), NOW)
    assert apply(database, "instance", Batch(6, sums), NOW)
    assert apply(database, "another", Batch(1, sums), NOW)
    assert stored(database)["requests"] == 3


def test_names_that_a_database_refuses_do_not_stop_the_writing(
    meter: Meter, database: Database
) -> None:
    for name in ("a\0b", "\udcff", "a" * 5000, "ü" * 600):
        meter.count(ONE._replace(model=name, deployment=name))
    meter.flush()
    assert stored(database)["requests"] == 4


def test_in_an_outage_only_different_sums_take_memory(meter: Meter, flaky: FlakyDatabase) -> None:
    flaky.failure = "down"
    for _ in range(100):
        for number in range(100):
            meter.count(ONE._replace(model=f"org/{number % 5}"))
        with pytest.raises(DatabaseUnavailable):
            meter.flush()
    assert meter.status().waiting == 2 * 5  # one batch that is tried, and what came after it
    flaky.failure = None
    meter.flush()
    assert meter.status().waiting == 0
    assert stored(flaky)["requests"] == 10_000


# --- starting and closing


def test_a_thread_writes_by_itself_and_catches_up(database: Database, flaky: FlakyDatabase) -> None:
    class Watched(Meter):
        looked = threading.Semaphore(0)

        def flush(self) -> None:
            try:
                super().flush()
            finally:
                self.looked.release()

    meter = Watched(flaky, flush_s=0.001)
    meter.start()
    flaky.failure = "unknown"
    for _ in range(20):
        meter.count(ONE)
        assert meter.looked.acquire(timeout=PATIENCE_S)
    flaky.failure = None
    while meter.status().waiting:
        assert meter.looked.acquire(timeout=PATIENCE_S)
    assert stored(database)["requests"] == 20
    meter.close()


def test_by_default_at_most_one_second_waits_to_be_written(database: Database) -> None:
    assert Meter(database)._ticker._interval_s <= 0.5


def test_closing_writes_what_is_left(database: Database, clock: Clock) -> None:
    meter = Meter(database, flush_s=3600, now=clock)
    meter.start()
    meter.count(ONE)
    meter.close()
    meter.close()
    assert stored(database)["requests"] == 1


def test_closing_waits_for_a_database_that_comes_back(
    meter: Meter, flaky: FlakyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def come_back(_: float) -> None:
        flaky.failure = None

    monkeypatch.setattr(time, "sleep", come_back)
    flaky.failure = "unknown"
    meter.count(ONE)
    meter.close(timeout_s=PATIENCE_S)
    assert stored(flaky)["requests"] == 1


def test_closing_tells_what_is_lost(
    meter: Meter, flaky: FlakyDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    flaky.failure = "down"
    meter.count(ONE)
    meter.count(ONE)
    with caplog.at_level(logging.ERROR):
        meter.close(timeout_s=0)
    assert "usage of 2 requests and 20 tokens is lost: down" in caplog.text
    assert "lost usage: 2026-11-21 ['key_1', 'org/a', 'local', '']" in caplog.text


def test_a_start_without_a_database_is_refused(meter: Meter, flaky: FlakyDatabase) -> None:
    flaky.failure = "down"
    with pytest.raises(DatabaseUnavailable):
        meter.start()


def test_instances_of_long_ago_are_forgotten(
    database: Database, clock: Clock, meter: Meter
) -> None:
    def known_after_a_start() -> int:
        late = Meter(database, now=clock)
        late.start()
        late.close()
        with database.read() as connection:
            return len(connection.execute(usage_batches.select()).all())

    meter.count(ONE)
    meter.flush()
    clock.time += 89 * 24 * 3600
    assert known_after_a_start() == 1
    clock.time += 2 * 24 * 3600
    assert known_after_a_start() == 0


# --- budgets


def test_what_is_counted_here_is_known_at_once(meter: Meter) -> None:
    assert meter.month_to_date("key_1") == MonthSum(0, 0)
    meter.count(ONE)
    assert meter.month_to_date("key_1") == MonthSum(10, 3)
    meter.flush()
    assert meter.month_to_date("key_1") == MonthSum(10, 3)
    assert meter.month_to_date("key_2") == MonthSum(0, 0)


def test_what_other_instances_used_is_known_after_a_look(
    meter: Meter, other: Database, clock: Clock
) -> None:
    elsewhere = Meter(other, now=clock)
    for _ in range(3):
        elsewhere.count(ONE)
        meter.count(ONE)
        elsewhere.flush()
        meter.flush()
        meter.read_months()
        elsewhere.read_months()
        assert meter.month_to_date("key_1") == elsewhere.month_to_date("key_1")
    assert meter.month_to_date("key_1") == MonthSum(60, 18)


def test_what_is_committed_late_is_not_missed(
    meter: Meter, flaky: FlakyDatabase, other: Database, clock: Clock
) -> None:
    """The look after a commit asks for what has changed since the look before it, and longer."""
    looking = Meter(other, now=clock)
    flaky.before_commit = looking.read_months
    for _ in range(2):
        meter.count(ONE)
        meter.flush()
    flaky.before_commit = None
    looking.read_months()
    assert looking.month_to_date("key_1") == MonthSum(20, 6)


def test_an_instance_that_starts_knows_the_month(
    meter: Meter, database: Database, clock: Clock
) -> None:
    meter.count(ONE)
    meter.close()
    late = Meter(database, flush_s=3600, now=clock)
    late.start()
    assert late.month_to_date("key_1") == MonthSum(10, 3)
    late.close()


def test_a_month_ends(meter: Meter, clock: Clock) -> None:
    clock.set("2026-12-31T23:59:59")
    meter.count(ONE)
    clock.set("2027-01-01T00:00:00")
    assert meter.month_to_date("key_1") == MonthSum(0, 0)
    meter.count(ONE)
    meter.flush()
    meter.read_months()
    assert meter.month_to_date("key_1") == MonthSum(10, 3)


def test_nothing_is_read_while_a_batch_is_in_doubt(meter: Meter, flaky: FlakyDatabase) -> None:
    meter.count(ONE)
    flaky.failure = "unknown"
    with pytest.raises(DatabaseUnavailable):
        meter.flush()
    meter.read_months()
    assert meter.month_to_date("key_1") == MonthSum(10, 3)


def test_counting_from_many_threads_loses_nothing(meter: Meter, database: Database) -> None:
    def count(_: int) -> None:
        for _ in range(500):
            meter.count(ONE)

    done = threading.Event()

    def flush() -> None:
        while not done.is_set():
            meter.flush()

    flusher = threading.Thread(target=flush)
    flusher.start()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count, range(4)))
    done.set()
    flusher.join(PATIENCE_S)
    meter.close()
    assert stored(database)["requests"] == 2000
    assert meter.month_to_date("key_1").tokens == 20_000
