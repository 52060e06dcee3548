"""Limits that instances share: exact while Redis is there, and no trouble while it is not."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings

from fledge.accounts import limits_redis
from fledge.accounts.limits import Holder, Limits, Months, Reservation, SpentTokens
from fledge.accounts.limits_memory import MemoryLimits
from fledge.accounts.limits_redis import PREFIX, RedisLimits
from fledge.accounts.redis_line import FIRST_REST_S
from fledge.errors import BudgetExceeded, LimitExceeded, LimitsUnavailable, SettingsError
from fledge.types import Room
from tests.processes import limits_holder
from tests.processes.redis_server import RedisServer, redis_server
from tests.unit.accounts_limits.agreement import Agreement
from tests.unit.accounts_limits.clock import Clock
from tests.unit.accounts_limits.obvious import HOLDERS, STEPS, Step

PATIENT_S = 20.0
"""Where Redis answers, and only the machine may be busy."""

GUARD_S = 60
LONG_S = 10**6


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def empty(server: RedisServer) -> RedisServer:
    """The server, without anything."""
    with server.client() as client:
        client.flushall()
    return server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may stop."""
    with redis_server(tmp_path) as server:
        yield server


@asynccontextmanager
async def limits_at(
    server: RedisServer,
    *,
    patience_s: float = PATIENT_S,
    lease_s: float = LONG_S,
    refuse: bool = False,
    spent: SpentTokens | None = None,
) -> AsyncIterator[RedisLimits]:
    """One instance's limits."""
    limits = RedisLimits(
        server.url,
        fallback=None if refuse else MemoryLimits(),
        spent=spent,
        lease_s=lease_s,
        patience_s=patience_s,
    )
    try:
        yield limits
    finally:
        await limits.aclose()
        await limits.aclose()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(GUARD_S):
            await scenario

    asyncio.run(guarded())


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what comes by itself."""
    while not holds():  # noqa: ASYNC110 - whatever it is, it tells nobody
        await asyncio.sleep(0.01)


async def refused(limits: Limits, holder: Holder, tokens: int = 0) -> LimitExceeded:
    with pytest.raises(LimitExceeded) as raised:
        await limits.reserve(holder, tokens)
    return raised.value


async def how_many(limits: list[RedisLimits], holder: Holder, tokens: int = 0) -> list[Reservation]:
    """Ask 60 times at once, of all instances in turn: what passes."""
    asks = (limits[n % len(limits)].reserve(holder, tokens) for n in range(60))
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert all(isinstance(one, LimitExceeded) for one in answers if isinstance(one, BaseException))
    return [one for one in answers if not isinstance(one, BaseException)]


def running(server: RedisServer, holder_id: str = "key_1") -> int:
    """Places that are taken, as Redis has it."""
    with server.client() as client:
        return int(client.zcard(f"{PREFIX}{holder_id}:running"))


FAKE_TIME = "redis.call('LRANGE', 'clock', 0, 1)"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The server's own clock, in the hands of the test: `set_time` sets it."""
    for name in ("RESERVE", "SETTLE", "RENEW"):
        script = getattr(limits_redis, name)
        assert "redis.call('TIME')" in script
        monkeypatch.setattr(limits_redis, name, script.replace("redis.call('TIME')", FAKE_TIME))
    return Clock()


def set_time(server: RedisServer, clock: Clock) -> None:
    with server.client() as client:
        client.delete("clock")
        client.rpush("clock", 10**9 + clock.ms // 1000, clock.ms % 1000 * 1000)


@given(HOLDERS, STEPS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_everything_is_as_in_the_slow_obvious_model(
    server: RedisServer, clock: Clock, holders: tuple[Holder, Holder], steps: list[Step]
) -> None:
    async def pass_ms(ms: int) -> None:
        clock.ms += ms
        set_time(server, clock)

    async def scenario() -> None:
        clock.ms = 0
        with server.client() as client:
            client.flushall()
        set_time(server, clock)
        async with limits_at(server) as limits:
            limits._months = Months(clock.wall)
            agreement = Agreement(limits, holders, pass_ms)
            await agreement.take(steps)
            await agreement.end_all()
        assert [running(server, holder.id) for holder in holders] == [0, 0]

    run(scenario())


def test_a_clock_that_goes_back_locks_nobody_out(empty: RedisServer, clock: Clock) -> None:
    async def scenario() -> None:
        holder = Holder(id="key_1", requests_per_minute=60)
        clock.ms = 10**7
        set_time(empty, clock)
        async with limits_at(empty) as limits:
            assert len(await how_many([limits], holder)) == 60
            clock.ms = 0
            set_time(empty, clock)
            assert (await refused(limits, holder)).retry_after_s == 1
            await limits.reserve(Holder(id="key_1", requests_per_minute=61), 0)
            clock.ms = 2000
            set_time(empty, clock)
            await limits.reserve(holder, 0)

    run(scenario())


@pytest.mark.parametrize(
    ("holder", "tokens", "expected", "name"),
    [
        (Holder(id="key_1", requests_per_minute=3), 0, 3, "requests"),
        (Holder(id="key_1", tokens_per_minute=30), 7, 4, "tokens"),
        (Holder(id="key_1", concurrent_requests=7), 0, 7, "concurrency"),
        (Holder(id="key_1", monthly_token_budget=100), 9, 11, "budget"),
    ],
    ids=["requests", "tokens", "concurrency", "budget"],
)
def test_two_instances_share_every_limit_exactly(
    empty: RedisServer, holder: Holder, tokens: int, expected: int, name: str
) -> None:
    async def scenario() -> None:
        async with limits_at(empty) as one, limits_at(empty) as other:
            assert len(await how_many([one, other], holder, tokens)) == expected
            for limits in (one, other):
                assert (await refused(limits, holder, tokens)).limit == name

    run(scenario())


def test_a_place_that_one_instance_frees_is_free_for_the_other(empty: RedisServer) -> None:
    async def scenario() -> None:
        holder = Holder(id="key_1", concurrent_requests=1)
        async with limits_at(empty) as one, limits_at(empty) as other:
            for _ in range(5):
                async with await one.reserve(holder, 0):
                    await refused(other, holder)
                async with await other.reserve(holder, 0):
                    await refused(one, holder)

    run(scenario())


def test_tokens_are_corrected_for_both_instances(empty: RedisServer) -> None:
    async def scenario() -> None:
        holder = Holder(id="key_1", tokens_per_minute=100, monthly_token_budget=1000)
        async with limits_at(empty) as one, limits_at(empty) as other:
            async with await one.reserve(holder, 100) as reservation:
                await refused(other, holder, 10)
                reservation.settle(20)
                assert reservation.standing.tokens == Room(100, 80, 12)
            async with await other.reserve(holder, 79) as reservation:
                reservation.settle(990)
            assert (await refused(one, holder, 1)).limit == "budget"
            wait_s = (await refused(one, Holder(id="key_1", tokens_per_minute=100))).retry_after_s
            assert wait_s == pytest.approx(0.6 * (20 + 990 - 100), abs=GUARD_S)

    run(scenario())


def test_a_month_goes_on_from_what_the_meter_has_counted(empty: RedisServer) -> None:
    async def scenario() -> None:
        holder = Holder(id="key_1", monthly_token_budget=100)
        counted = {"key_1": 90}
        async with limits_at(empty, spent=lambda holder_id: counted[holder_id]) as limits:
            await refused(limits, holder, 11)
            async with await limits.reserve(holder, 10) as reservation:
                reservation.settle(5)
                counted["key_1"] += 5
            with empty.client() as client:
                client.flushall()
            error = await refused(limits, holder, 6)
            assert isinstance(error, BudgetExceeded)
            await limits.reserve(holder, 5)

    run(scenario())


def test_scripts_that_the_server_has_forgotten_are_sent_again(empty: RedisServer) -> None:
    async def scenario() -> None:
        holder = Holder(id="key_1", concurrent_requests=1)
        async with limits_at(empty, refuse=True) as limits:
            for _ in range(2):
                async with await limits.reserve(holder, 0):
                    with empty.client() as client:
                        client.script_flush()
                assert running(empty) == 0

    run(scenario())


def test_nothing_is_kept_of_a_key_that_is_idle(empty: RedisServer) -> None:
    async def scenario() -> None:
        holder = Holder(id="key_1", requests_per_minute=60_000, tokens_per_minute=60_000)
        async with limits_at(empty, lease_s=1) as limits, await limits.reserve(holder, 5):
            pass
        with empty.client() as client:
            for key in client.scan_iter():
                assert 0 < client.pttl(key) <= 10_000

    run(scenario())


def test_without_limits_redis_is_not_asked(own: RedisServer) -> None:
    async def scenario() -> None:
        async with limits_at(own, refuse=True) as limits:
            own.stop()
            async with await limits.reserve(Holder(id="key_1"), 10**9):
                pass

    run(scenario())


def test_the_places_of_an_instance_that_was_killed_are_free_again_with_its_tokens(
    empty: RedisServer,
) -> None:
    holder = Holder(id="key_1", concurrent_requests=2, tokens_per_minute=1000)

    async def scenario(kill: Callable[[], None]) -> None:
        async with limits_at(empty) as limits:
            assert (await refused(limits, holder)).limit == "concurrency"
            kill()
            while True:
                try:
                    reservation = await limits.reserve(holder, 0)
                except LimitExceeded:
                    await asyncio.sleep(0.05)
                else:
                    assert reservation.standing.tokens == Room(1000, 1000, 0)
                    break

    command = [sys.executable, "-m", limits_holder.__name__, empty.url, "1", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        run(scenario(process.kill))


def test_a_request_that_runs_for_long_keeps_its_place(empty: RedisServer) -> None:
    lease_s = 2

    async def scenario() -> None:
        holder = Holder(id="key_1", concurrent_requests=1)
        async with limits_at(empty, lease_s=lease_s) as limits, await limits.reserve(holder, 0):
            until_s = time.monotonic() + 2 * lease_s
            while time.monotonic() < until_s:
                assert (await refused(limits, holder)).limit == "concurrency"
                await asyncio.sleep(0.05)

    run(scenario())


def test_cancelled_requests_leave_nothing_behind(empty: RedisServer) -> None:
    """Cancelled before, while and after Redis is asked, and while it is told."""

    async def scenario() -> None:
        holder = Holder(id="key_1", concurrent_requests=50, tokens_per_minute=5000)
        async with limits_at(empty) as limits:

            async def request() -> None:
                async with await limits.reserve(holder, 100):
                    await asyncio.sleep(0.001)

            for turns in range(60):
                tasks = [asyncio.create_task(request()) for _ in range(3)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            await until(limits._line._is_idle.is_set)
            assert running(empty) == 0
            reservation = await limits.reserve(holder, 0)
            assert reservation.standing.tokens == Room(5000, 5000, 0)

    run(scenario())


def test_without_redis_the_limits_hold_within_the_instance(own: RedisServer) -> None:
    async def scenario() -> None:
        holder = Holder(id="key_1", concurrent_requests=3)
        async with limits_at(own) as limits:
            own.stop()
            for _ in range(3):
                reserved = await how_many([limits], holder)
                assert len(reserved) == 3
                for one in reserved:
                    await one.release()

    run(scenario())


def test_without_redis_requests_are_refused_where_that_was_chosen(own: RedisServer) -> None:
    async def scenario() -> None:
        async with limits_at(own, refuse=True) as limits:
            own.stop()
            for _ in range(10):
                with pytest.raises(LimitsUnavailable) as raised:
                    await limits.reserve(Holder(id="key_1", requests_per_minute=9), 0)
                assert raised.value.retry_after_s >= FIRST_REST_S

    run(scenario())


@pytest.mark.parametrize(
    ("name", "bad", "good"), [("maxmemory", "1", "0"), ("requirepass", "other", "")]
)
def test_redis_that_refuses_is_as_if_it_was_down_until_it_does_not(
    own: RedisServer, name: str, bad: str, good: str
) -> None:
    async def scenario() -> None:
        holder = Holder(id="key_1", concurrent_requests=3)
        with own.client() as client:
            client.config_set(name, bad)
            async with limits_at(own) as limits:
                for _ in range(10):
                    reserved = await how_many([limits], holder)
                    assert len(reserved) == 3
                    for one in reserved:
                        await one.release()
                assert limits.are_shared is False
                client.config_set(name, good)
                while not running(own):
                    async with await limits.reserve(holder, 0):
                        await asyncio.sleep(0.02)
                        if running(own):
                            break
                assert limits.are_shared is True

    run(scenario())


def test_redis_that_hangs_is_waited_for_a_few_times_only(own: RedisServer) -> None:
    async def scenario() -> None:
        holder = Holder(id="key_1", concurrent_requests=3)
        async with limits_at(own, patience_s=0.5) as limits:
            async with await limits.reserve(holder, 0):
                own.pause()
            for _ in range(200):  # half a second each would be 100 s
                async with await limits.reserve(holder, 0):
                    pass
            own.resume()

    run(scenario())


def test_what_redis_hears_after_nobody_waits_for_it_is_taken_back(own: RedisServer) -> None:
    """It reserves for requests that went on without it, and then hears nothing of their end."""

    async def scenario() -> None:
        holder = Holder(id="key_1", concurrent_requests=3, tokens_per_minute=1000)
        async with limits_at(own, patience_s=0.5) as limits:

            async def ask_three_times() -> None:
                asks = [limits.reserve(holder, 100) for _ in range(3)]
                for reservation in await asyncio.gather(*asks):
                    await reservation.release()

            await ask_three_times()  # so that there are connections, and the next are heard
            own.pause()
            await ask_three_times()
            own.resume()
            await until(lambda: running(own) == 3)
            while running(own):
                async with await limits.reserve(Holder(id="key_2", concurrent_requests=1), 0):
                    await asyncio.sleep(0.01)
            reservation = await limits.reserve(holder, 0)
            assert reservation.standing.tokens == Room(1000, 1000, 0)

    run(scenario())


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_redis_is_killed_and_started_again_under_load(
    own: RedisServer, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """No request fails but for its limits, and afterwards both instances share them again."""
    holder = Holder(id="key_1", concurrent_requests=4, requests_per_minute=10**6)
    passed, over = [0, 0], [False]

    async def client(limits: Limits, number: int) -> None:
        while not over[0]:
            try:
                async with await limits.reserve(holder, 10) as reservation:
                    passed[number] += 1
                    await asyncio.sleep(0.001)
                    reservation.settle(7)
            except LimitExceeded:
                await asyncio.sleep(0.001)

    async def more(number: int) -> None:
        before = passed[number]
        await until(lambda: passed[number] > before + 5)

    async def scenario() -> None:
        async with (
            asyncio.timeout(GUARD_S),
            limits_at(own, patience_s=0.5, lease_s=2) as one,
            limits_at(own, patience_s=0.5, lease_s=2) as other,
            asyncio.TaskGroup() as group,
        ):
            for number, limits in enumerate((one, other)):
                for _ in range(8):
                    group.create_task(client(limits, number))
            for stop in (own.kill, own.stop, own.kill):
                await asyncio.gather(more(0), more(1))
                await asyncio.to_thread(stop)
                await asyncio.gather(more(0), more(1))
                await asyncio.to_thread(own.start)
                await until(lambda: running(own) > 0)
            await until(lambda: one._line.is_clear and other._line.is_clear)
            over[0] = True
        async with limits_at(own) as one, limits_at(own) as other:
            await until(lambda: running(own) == 0 or _sweep(own))
            assert len(await how_many([one, other], holder)) == 4

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


def _sweep(server: RedisServer) -> bool:
    """Lapsed places go when somebody asks for one; here only their time must have come."""
    with server.client() as client:
        now_s = client.time()[0]
        return not client.zcount(f"{PREFIX}key_1:running", now_s * 1000, "+inf")


@pytest.mark.parametrize(
    "url", ["http://secret@host", "redis://host:secret", "redis://h/?db=secret"]
)
def test_a_url_that_is_none_of_redis_is_told_without_its_words(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        RedisLimits(url, fallback=None)
    assert "secret" not in str(raised.value)
