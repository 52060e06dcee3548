"""A key's money: what it may spend in a month, and what holds it back then."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fledge.accounts.accounts import Accounts, Spent
from fledge.accounts.callers import Caller
from fledge.accounts.charges import Charge
from fledge.accounts.keys import Key
from fledge.accounts.usage import UsageRecord
from fledge.errors import BudgetExceeded
from fledge.routing.switchboard import Spending
from tests.keyed import Keyed

pytestmark = pytest.mark.anyio

NOVEMBER = datetime(2026, 11, 21, tzinfo=UTC)
NINE_DAYS_AND_TEN_SECONDS = 777_610.0
BUDGET = 20 * 10**9


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Keyed]:
    with Keyed(tmp_path) as place:
        yield place


def a_key(place: Keyed, name: str = "app", **spec: Any) -> Key:
    return place.new_key(name, **{"monthly_budget_nanos": BUDGET} | spec).key


async def ask(place: Keyed, caller: Caller, cost_nanos: int = 0) -> None:
    async with Charge(place.accounts, caller, "org/a", 1) as charge:
        charge.settle(texts=1, tokens=1, cache_hits=0, deployment="nebius", cost_nanos=cost_nanos)


async def test_a_key_whose_money_is_spent_is_refused_until_the_month_ends(place: Keyed) -> None:
    caller = Caller(a_key(place))
    await ask(place, caller, BUDGET - 1)
    await ask(place, caller, 5)
    with pytest.raises(BudgetExceeded) as caught:
        await ask(place, caller)
    error = caught.value
    assert str(error) == (
        "this key may spend 20.00 a calendar month (UTC), and 20.000000004 are spent; a new month "
        "begins in 9 days"
    )
    assert (error.limit, error.allowed, error.used) == ("budget", BUDGET, BUDGET + 4)
    assert error.retry_after_s == NINE_DAYS_AND_TEN_SECONDS
    place.clock.time += NINE_DAYS_AND_TEN_SECONDS
    await ask(place, caller)


async def test_requests_in_bulk_are_held_back_too(place: Keyed) -> None:
    caller = Caller(a_key(place), is_bulk=True)
    await ask(place, caller, BUDGET)
    with pytest.raises(BudgetExceeded):
        await ask(place, caller)


async def test_requests_that_run_already_end_and_may_pass_the_budget(place: Keyed) -> None:
    caller = Caller(a_key(place))
    async with Charge(place.accounts, caller, "org/a", 1) as slow:
        await ask(place, caller, BUDGET)
        slow.settle(texts=1, tokens=1, cache_hits=0, cost_nanos=7)
    assert place.accounts.meter.month_to_date(caller.key_id).cost_nanos == BUDGET + 7


async def test_a_refused_request_takes_nothing_of_the_other_limits(place: Keyed) -> None:
    caller = Caller(a_key(place, requests_per_minute=2))
    await ask(place, caller, BUDGET)
    for _ in range(3):
        with pytest.raises(BudgetExceeded):
            await ask(place, caller)
    place.clock.time += NINE_DAYS_AND_TEN_SECONDS
    await ask(place, caller)
    await ask(place, caller)


async def test_each_key_has_its_own_money(place: Keyed) -> None:
    first, second, free = (
        Caller(a_key(place, "a")),
        Caller(a_key(place, "b")),
        Caller(a_key(place, "c", monthly_budget_nanos=None)),
    )
    for caller in (first, free):
        await ask(place, caller, BUDGET)
    await ask(place, second)
    await ask(place, free)
    with pytest.raises(BudgetExceeded):
        await ask(place, first)


async def test_what_other_instances_spent_counts(place: Keyed, tmp_path: Path) -> None:
    caller = Caller(a_key(place))
    with Keyed(tmp_path) as other:
        await ask(other, caller, BUDGET)
    place.accounts.meter.read_months()
    with pytest.raises(BudgetExceeded):
        await ask(place, caller)


@pytest.mark.parametrize(("path", "status"), [("/v1/embeddings", 429), ("/", 402)])
def test_it_is_a_used_up_quota_in_every_dialect_and_computes_nothing(
    place: Keyed, path: str, status: int
) -> None:
    new = place.new_key(monthly_budget_nanos=BUDGET)
    place.accounts.count(UsageRecord(new.key.id, "org/a", "nebius", cost_nanos=BUDGET))
    with place.client(new.secret) as client:
        response = client.post(path, json={"input": "a", "inputs": "a"})
    assert response.status_code == status
    assert response.headers["x-fledge-error"] == "insufficient_quota"
    assert response.headers["retry-after"] == "777610"
    assert "This key may spend 20.00 a calendar month" in response.text
    assert not place.backend.jobs


def test_what_was_spent_this_month_is_known_by_deployment(place: Keyed) -> None:
    for deployment, nanos in (("nebius", 5), ("nebius", 6), ("local", 0)):
        place.accounts.count(UsageRecord("keyless", "org/a", deployment, cost_nanos=nanos))
    place.accounts.meter.flush()
    assert place.accounts.spent_this_month() == {"nebius": 11, "local": 0}
    place.clock.time += NINE_DAYS_AND_TEN_SECONDS
    assert place.accounts.spent_this_month() == {}


def test_what_every_instance_has_spent_is_told_until_the_accounts_close(
    place: Keyed, tmp_path: Path
) -> None:
    with Keyed(tmp_path) as other:
        other.accounts.count(UsageRecord("keyless", "org/a", "nebius", cost_nanos=30))
    spending, told = Spending({"nebius": 100}, {}, now=lambda: NOVEMBER), threading.Event()

    def learn(spent: Spent) -> None:
        spending.learn(spent)
        told.set()

    place.accounts.follow_spending(learn, every_s=0.001)
    assert told.wait(10)
    place.accounts.close()
    assert spending.left("nebius") == 70
    assert "fledge-spending" not in [thread.name for thread in threading.enumerate()]


async def test_accounts_that_keep_nothing_tell_nothing() -> None:
    accounts = Accounts()
    accounts.follow_spending(lambda _: pytest.fail("nobody has spent anything"), every_s=0.001)
    await accounts.aclose()
