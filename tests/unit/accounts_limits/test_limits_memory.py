"""Limits in memory: what passes, what is said to whoever does not, and what is left behind."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.accounts.limits import Holder, Reservation
from fledge.accounts.limits_memory import MANY, MemoryLimits
from fledge.errors import BudgetExceeded, ConcurrencyExceeded, LimitExceeded
from fledge.types import Room, Standing
from tests.unit.accounts_limits.agreement import Agreement
from tests.unit.accounts_limits.clock import Clock
from tests.unit.accounts_limits.obvious import HOLDERS, MONTH_LEFT_MS, STEPS, Step


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


class Bench:
    """Limits, their clock, and what the meter has counted."""

    def __init__(self, *, has_meter: bool = False) -> None:
        self.clock = Clock()
        self.counted: dict[str, int] = {}
        self.limits = MemoryLimits(
            spent=(lambda holder_id: self.counted.get(holder_id, 0)) if has_meter else None,
            clock=self.clock,
            wall=self.clock.wall,
        )

    async def reserve(self, tokens: int = 0, **amounts: Any) -> Reservation:
        return await self.limits.reserve(Holder(**{"id": "key_1", **amounts}), tokens)

    async def refused(self, tokens: int = 0, **amounts: Any) -> LimitExceeded:
        with pytest.raises(LimitExceeded) as raised:
            await self.reserve(tokens, **amounts)
        return raised.value


@given(HOLDERS, STEPS)
def test_everything_is_as_in_the_slow_obvious_model(
    holders: tuple[Holder, Holder], steps: list[Step]
) -> None:
    bench = Bench()

    async def pass_ms(ms: int) -> None:
        bench.clock.ms += ms

    async def scenario() -> None:
        agreement = Agreement(bench.limits, holders, pass_ms)
        await agreement.take(steps)
        await agreement.end_all()
        for holder in holders:  # no place is left taken
            for _ in range(holder.concurrent_requests or 0):
                await bench.limits.reserve(
                    Holder(id=holder.id, concurrent_requests=holder.concurrent_requests), 0
                )

    run(scenario())


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30)), max_size=60),
)
def test_no_stretch_of_time_has_more_than_the_limit_and_what_leaks_meanwhile(
    limit: int, asks: list[tuple[int, int]]
) -> None:
    async def scenario() -> None:
        bench, passed = Bench(), list[tuple[int, int]]()
        for pause_ms, tokens in asks:
            bench.clock.ms += pause_ms
            try:
                await bench.reserve(tokens, tokens_per_minute=limit)
            except LimitExceeded:
                continue
            passed.append((bench.clock.ms, tokens))
            for i, (since_ms, _) in enumerate(passed):
                within = sum(amount for _, amount in passed[i:])
                assert within * 60_000 <= limit * (60_000 + bench.clock.ms - since_ms)

    run(scenario())


def test_a_whole_minutes_limit_may_be_used_at_once_and_then_one_by_one() -> None:
    async def scenario() -> None:
        bench = Bench()
        for _ in range(60):
            await bench.reserve(requests_per_minute=60)
        error = await bench.refused(requests_per_minute=60)
        assert (error.limit, error.allowed, error.used) == ("requests", 60, 60)
        assert error.retry_after_s == 1
        bench.clock.ms += 999
        assert (await bench.refused(requests_per_minute=60)).retry_after_s == 0.001
        bench.clock.ms += 1
        await bench.reserve(requests_per_minute=60)
        await bench.refused(requests_per_minute=60)

    run(scenario())


def test_what_was_estimated_too_high_is_given_back_and_what_was_too_low_is_charged() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with await bench.reserve(100, tokens_per_minute=100) as reservation:
            assert reservation.standing.tokens == Room(100, 0, 60)
            reservation.settle(30)
            assert reservation.standing.tokens == Room(100, 70, 18)
        assert reservation.standing.tokens == Room(100, 70, 18)
        async with await bench.reserve(70, tokens_per_minute=100) as reservation:
            reservation.settle(250)
        assert reservation.standing.tokens == Room(100, 0, 168)
        error = await bench.refused(1, tokens_per_minute=100)
        assert error.retry_after_s == pytest.approx((180 + 1) * 0.6)

    run(scenario())


def test_who_does_not_settle_gets_the_tokens_back_and_stays_counted() -> None:
    async def scenario() -> None:
        bench = Bench()
        with pytest.raises(ZeroDivisionError):
            async with await bench.reserve(5, tokens_per_minute=10, requests_per_minute=10):
                raise ZeroDivisionError
        reservation = await bench.reserve(0, tokens_per_minute=10, requests_per_minute=10)
        assert reservation.standing.tokens == Room(10, 10, 0)
        assert reservation.standing.requests == Room(10, 8, 12)

    run(scenario())


def test_who_is_refused_is_charged_for_nothing() -> None:
    async def scenario() -> None:
        bench = Bench()
        limits = {"tokens_per_minute": 10, "requests_per_minute": 2, "concurrent_requests": 2}
        for _ in range(5):
            await bench.refused(11, **limits)
        for _ in range(2):
            await bench.reserve(5, **limits)

    run(scenario())


def test_a_request_that_can_never_pass_is_not_told_to_come_back() -> None:
    async def scenario() -> None:
        bench = Bench()
        error = await bench.refused(101, tokens_per_minute=100)
        assert (error.limit, error.retry_after_s) == ("tokens", None)
        assert "this request has about 101 tokens: send it in parts" in str(error)
        assert (await bench.refused(requests_per_minute=0)).retry_after_s is None
        assert (await bench.refused(concurrent_requests=0)).retry_after_s is None
        assert (await bench.refused(11, monthly_token_budget=10)).retry_after_s is None

    run(scenario())


def test_of_several_limits_the_one_that_takes_longest_is_named() -> None:
    async def scenario() -> None:
        bench = Bench()
        limits = {"requests_per_minute": 1, "tokens_per_minute": 10, "concurrent_requests": 1}
        await bench.reserve(1, **limits)
        assert (await bench.refused(1, **limits)).limit == "requests"
        assert (await bench.refused(11, **limits)).limit == "tokens"
        assert (await bench.refused(1, concurrent_requests=1)).limit == "concurrency"

    run(scenario())


def test_as_many_requests_run_as_may_and_every_end_frees_a_place() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with await bench.reserve(concurrent_requests=2):
            async with await bench.reserve(concurrent_requests=2):
                error = await bench.refused(concurrent_requests=2)
                assert isinstance(error, ConcurrencyExceeded)
                assert (error.code, error.allowed, error.used) == (
                    "concurrency_limit_exceeded",
                    2,
                    2,
                )
                assert error.retry_after_s
                await bench.reserve(id="another", concurrent_requests=2)
            await bench.reserve(concurrent_requests=2)

    run(scenario())


@given(st.lists(st.integers(0, 6), max_size=30))
def test_cancelled_requests_leave_no_place_taken(turns: list[int]) -> None:
    """Wherever the cancellation finds them: before, at and after being let in."""

    async def scenario() -> None:
        bench, gate = Bench(), asyncio.Event()

        async def request() -> None:
            async with await bench.reserve(3, concurrent_requests=4, tokens_per_minute=20):
                await gate.wait()

        tasks = []
        for turn in turns:
            tasks.append(asyncio.create_task(request()))
            for _ in range(turn):
                await asyncio.sleep(0)
            tasks[turn % len(tasks)].cancel()
        for task in tasks[::2]:
            task.cancel()
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(4):
            await bench.reserve(5, concurrent_requests=4, tokens_per_minute=20)

    run(scenario())


def test_a_months_budget_ends_with_the_month() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with await bench.reserve(60, monthly_token_budget=100) as reservation:
            reservation.settle(95)
        error = await bench.refused(6, monthly_token_budget=100)
        assert isinstance(error, BudgetExceeded)
        assert (error.code, error.allowed, error.used) == ("insufficient_quota", 100, 95)
        assert error.retry_after_s == pytest.approx(MONTH_LEFT_MS / 1000)
        crossing = await bench.reserve(5, monthly_token_budget=100)
        bench.clock.ms += MONTH_LEFT_MS
        await bench.reserve(100, monthly_token_budget=100)
        await crossing.release()  # of last month's tokens none are this month's
        await bench.refused(1, monthly_token_budget=100)

    run(scenario())


def test_a_budget_is_never_less_used_than_the_meter_has_counted() -> None:
    """After a restart, and where other instances use the same key."""

    async def scenario() -> None:
        bench = Bench(has_meter=True)
        bench.counted["key_1"] = 90
        await bench.refused(11, monthly_token_budget=100)
        async with await bench.reserve(10, monthly_token_budget=100) as reservation:
            await bench.refused(1, monthly_token_budget=100)
            reservation.settle(4)
            bench.counted["key_1"] += 4
        await bench.reserve(6, monthly_token_budget=100)

    run(scenario())


def test_limits_that_are_changed_hold_from_the_next_request_on() -> None:
    async def scenario() -> None:
        bench = Bench()
        for _ in range(10):
            await bench.reserve(requests_per_minute=10)
        await bench.reserve(requests_per_minute=20)
        reservation = await bench.reserve(requests_per_minute=100)
        assert reservation.standing.requests == Room(100, 88, 7.2)
        await bench.refused(requests_per_minute=5)
        await bench.reserve()

    run(scenario())


def test_without_limits_nothing_is_kept() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with await bench.reserve(10**9) as reservation:
            reservation.settle(10**9)
        assert reservation.standing == Standing()
        assert len(bench.limits) == 0

    run(scenario())


def test_holders_who_were_idle_for_a_while_are_forgotten() -> None:
    async def scenario() -> None:
        bench = Bench(has_meter=True)
        limits = {"requests_per_minute": 5, "tokens_per_minute": 50, "monthly_token_budget": 500}
        staying = await bench.reserve(5, id="staying", concurrent_requests=1)
        for number in range(20_000):
            bench.clock.ms += 100
            async with await bench.reserve(5, id=f"key_{number}", **limits) as reservation:
                reservation.settle(3)
        assert len(bench.limits) <= MANY + 1
        await bench.refused(id="staying", concurrent_requests=1)
        await staying.release()
        await bench.reserve(id="staying", concurrent_requests=1)

    run(scenario())


def test_without_a_meter_a_months_tokens_are_kept_until_the_month_is_over() -> None:
    async def scenario() -> None:
        bench = Bench()

        async def use(count: int) -> None:
            for number in range(count):
                async with await bench.reserve(
                    9, id=f"key_{number}", monthly_token_budget=10
                ) as reservation:
                    reservation.settle(9)

        await use(3 * MANY)
        assert len(bench.limits) == 3 * MANY
        await bench.refused(9, id="key_0", monthly_token_budget=10)
        bench.clock.ms += MONTH_LEFT_MS
        for number in range(3 * MANY):
            await bench.reserve(0, id=f"another_{number}", concurrent_requests=9)
        assert len(bench.limits) <= 3 * MANY + MANY

    run(scenario())
