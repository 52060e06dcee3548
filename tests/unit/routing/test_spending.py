"""Budgets of providers: by the calendar month, and by what every instance has spent."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fledge.routing.places import LocalPlace, RemotePlace
from fledge.routing.switchboard import Spending
from fledge.testing import FakeBackend
from tests.unit.routed import Routed
from tests.unit.routing.observers import Seen


class Calendar:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
def spending(calendar: Calendar) -> Spending:
    return Spending({"nebius": 100}, {"nebius": 40, "other": 7}, now=calendar)


def test_what_was_spent_before_counts(spending: Spending) -> None:
    spending.add("nebius", 50)
    assert (spending.spent("nebius"), spending.left("nebius")) == (90, 10)
    spending.add("nebius", 50)
    assert spending.left("nebius") == -40


def test_who_has_no_budget_may_spend_what_it_likes(spending: Spending) -> None:
    spending.add("other", 10**12)
    assert spending.left("other") is None
    assert spending.left("unheard") is None


def test_a_new_month_begins_with_nothing_spent(spending: Spending, calendar: Calendar) -> None:
    spending.add("nebius", 60)
    assert spending.left("nebius") == 0
    calendar.now += timedelta(seconds=1)
    assert (spending.spent("nebius"), spending.left("nebius")) == (0, 100)
    spending.add("nebius", 1)
    assert spending.left("nebius") == 99


def test_the_same_month_of_another_year_is_another(spending: Spending, calendar: Calendar) -> None:
    calendar.now = calendar.now.replace(year=2027)
    assert spending.left("nebius") == 100


def test_what_other_instances_have_spent_counts_once_it_is_read(spending: Spending) -> None:
    spending.learn(lambda: {"nebius": 90, "other": 7, "local": 0})
    assert spending.left("nebius") == 10


def test_what_is_not_written_yet_is_not_forgotten(spending: Spending) -> None:
    spending.add("nebius", 30)
    spending.learn(lambda: {"nebius": 45})
    assert spending.spent("nebius") == 70


def test_reading_twice_counts_once(spending: Spending) -> None:
    for _ in range(2):
        spending.learn(lambda: {"nebius": 60})
    assert spending.spent("nebius") == 60


def test_what_was_read_of_the_month_before_is_not_taken_for_the_new_one(
    spending: Spending, calendar: Calendar
) -> None:
    def read() -> Mapping[str, int]:
        calendar.now += timedelta(seconds=1)
        return {"nebius": 100}

    spending.learn(read)
    assert spending.left("nebius") == 100


def test_what_is_charged_is_told() -> None:
    routed = Routed()
    seen, found = Seen(), routed.service.switchboard
    assert found is not None
    board = replace(found, observer=seen)
    board.charge(RemotePlace("nebius", FakeBackend(), 20_000_000), 1000)
    board.charge(RemotePlace("gift", FakeBackend(), None), 5)
    board.charge(LocalPlace(routed.deployments), 7)
    assert seen.charges == [("nebius", 1000, 20_000), ("gift", 5, 0)]
