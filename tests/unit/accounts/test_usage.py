"""Adding up in memory: which day, how much at most, and what is not kept apart."""

from datetime import UTC, date, datetime

import pytest

from fledge.accounts import usage
from fledge.accounts.usage import (
    OTHER,
    BillTos,
    Calendar,
    MonthSum,
    MonthToDate,
    Sum,
    Tally,
    UsageRecord,
)

DAY = date(2026, 11, 21)


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        ("2026-11-21T00:00:00", "2026-11-21"),
        ("2026-11-21T23:59:59.999999", "2026-11-21"),
        ("2026-11-22T00:00:00", "2026-11-22"),
        ("2024-02-29T12:00:00", "2024-02-29"),
        ("2026-12-31T23:59:59", "2026-12-31"),
    ],
)
def test_days_are_those_of_utc(moment: str, day: str) -> None:
    calendar = Calendar()
    for now in (unix(moment), unix(moment)):
        assert calendar.turn_to(now).isoformat() == day
    assert calendar.month.isoformat() == f"{day[:8]}01"


def test_a_calendar_follows_a_clock_that_is_set_back() -> None:
    calendar = Calendar()
    calendar.turn_to(unix("2026-12-01T00:00:00"))
    assert calendar.turn_to(unix("2026-11-30T23:00:00")) == date(2026, 11, 30)
    assert calendar.month == date(2026, 11, 1)


def test_equal_ones_add_up_and_others_stay_apart() -> None:
    tally = Tally()
    one = UsageRecord(
        key_id="key_1",
        model="org/a",
        texts=3,
        tokens=40,
        cache_hits=1,
        errors=1,
        compute_s=0.25,
        cost_nanos=7,
    )
    tally.add(DAY, one, "")
    tally.add(DAY, one._replace(requests=2, compute_s=0.5), "")
    tally.add(DAY, one._replace(model="org/b"), "")
    tally.add(DAY, one, "acme")
    assert list(tally.sums) == [
        (DAY, "key_1", "org/a", "local", ""),
        (DAY, "key_1", "org/b", "local", ""),
        (DAY, "key_1", "org/a", "local", "acme"),
    ]
    assert tally.sums[DAY, "key_1", "org/a", "local", ""] == Sum(3, 6, 80, 2, 2, 0.75, 14)


def test_seconds_are_kept_as_whole_microseconds() -> None:
    assert Sum(compute_s=0.1 + 0.2).columns()["compute_us"] == 300_000


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_a_time_that_is_none_does_not_spoil_the_sum(seconds: float) -> None:
    tally = Tally()
    for compute_s in (1.0, seconds, 1.0):
        tally.add(DAY, UsageRecord("key_1", "org/a", compute_s=compute_s), "")
    assert [one.columns()["compute_us"] for one in tally.sums.values()] == [2_000_000]


def test_sums_are_bounded_and_the_tokens_of_a_key_right_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage, "MOST_SUMS", 10)
    tally = Tally()
    for number in range(1000):
        tally.add(DAY, UsageRecord("key_1", f"org/{number}", tokens=1), "")
    assert len(tally.sums) == 11
    assert tally.sums[DAY, "key_1", OTHER, OTHER, ""].tokens == 990
    assert sum(one.tokens for one in tally.sums.values()) == 1000


def test_bill_tos_are_names_and_no_more_than_a_hundred_for_a_key_and_a_day() -> None:
    def billed(name: str, key_id: str = "key_1", day: date = DAY) -> str:
        return bill_tos.clean(day, UsageRecord(key_id, "org/a", bill_to=name))

    bill_tos = BillTos()
    assert [billed(name) for name in ("acme", "Acme-2.x_y", "7")] == ["acme", "Acme-2.x_y", "7"]
    assert {billed(name) for name in (" ", "a b", "=1", "ü", "a" * 97, "a\n")} == {OTHER}
    for number in range(97):
        assert billed(f"org{number}") == f"org{number}"
    assert billed("one-too-many") == OTHER
    assert billed("acme") == "acme"
    assert billed("one-too-many", key_id="key_2") == "one-too-many"
    assert billed("one-too-many", day=date(2026, 11, 22)) == "one-too-many"


def test_a_month_is_what_the_database_has_and_what_was_counted_since() -> None:
    month = MonthToDate(date(2026, 11, 1))
    assert month.total("key_1") == MonthSum(0, 0)
    month.learn("key_1", MonthSum(100, 7))
    month.count("key_1", 5, 1)
    month.count("key_1", 6, 1)
    assert month.total("key_1") == MonthSum(111, 9)
    month.settle("key_1", MonthSum(5, 1))
    assert month.total("key_1") == MonthSum(111, 9)
    month.learn("key_1", MonthSum(1105, 8))
    assert month.total("key_1") == MonthSum(1111, 9)


def test_a_month_begun_anew_is_never_less_than_what_is_written() -> None:
    month = MonthToDate(date(2026, 11, 1))
    month.settle("key_1", MonthSum(5, 1))
    assert month.total("key_1") == MonthSum(5, 1)
    month.learn("key_1", MonthSum(5, 1))
    assert month.total("key_1") == MonthSum(5, 1)
