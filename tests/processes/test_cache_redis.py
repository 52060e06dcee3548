"""Redis as a tier: shared by instances, and never the reason for an error."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from fledge.cache import breaker, redis
from fledge.cache.breaker import FAILURES
from fledge.cache.cache import Cache
from fledge.cache.memory import MemoryTier
from fledge.cache.redis import BATCH, LATE_AS_A_FAILURE, PREFIX, RedisTier
from fledge.errors import SettingsError
from tests.processes.fake_redis import Manner, fake_redis
from tests.processes.redis_server import RedisServer, redis_server
from tests.processes.redis_tiers import TRIES, calls, found_in_time, keep, look_up, opened
from tests.unit.cache.fakes import FakeModel, entry, key, pairs

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """A server that runs, and is empty."""
    with shared_server.client() as client:
        client.flushall()
        client.config_resetstat()
    return shared_server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may stop."""
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST_REST_S", 0.02)
    monkeypatch.setattr(breaker, "LONGEST_REST_S", 0.05)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what comes when all is well, on a machine that may be busy."""
    monkeypatch.setattr(redis, "PATIENCE_S", 20.0)
    monkeypatch.setattr(redis, "GIVE_UP_S", 20.0)
    monkeypatch.setattr(redis, "CLOSE_S", 20.0)


@pytest.mark.usefixtures("patient")
async def test_instances_share_entries(server: RedisServer) -> None:
    async with opened(server.url) as one, opened(server.url) as other:
        one.put(pairs("a", "b"))
        assert await found_in_time(one, "b")
        assert await look_up(other, "b", "x", "a") == [entry("b"), None, entry("a")]
        assert (other.counts.hits, other.counts.misses, other.counts.failures) == (2, 1, 0)


@pytest.mark.usefixtures("patient")
async def test_entries_leave_after_a_time_and_keys_say_their_form(server: RedisServer) -> None:
    async with opened(server.url, ttl_s=50) as tier:
        tier.put(pairs("a"))
    with server.client() as client:
        assert client.keys("*") == [PREFIX + key("a")]
        assert 0 < client.ttl(PREFIX + key("a")) <= 50
        assert client.get(PREFIX + key("a")) == entry("a")


@pytest.mark.usefixtures("patient")
async def test_a_batch_is_one_round_trip_and_batches_are_bounded(server: RedisServer) -> None:
    texts = [str(number) for number in range(2 * BATCH + 1)]
    await keep(server.url, *texts)
    async with opened(server.url) as tier:
        assert await look_up(tier, *texts[:BATCH]) == [entry(text) for text in texts[:BATCH]]
        assert calls(server, "mget") == 1
        assert await look_up(tier, *texts) == [entry(text) for text in texts]
        assert calls(server, "mget") == 4
    assert calls(server, "set") == len(texts)


@pytest.mark.usefixtures("patient")
async def test_requests_at_the_same_time_share_round_trips(server: RedisServer) -> None:
    texts = [str(number) for number in range(60)]
    await keep(server.url, *texts)
    async with opened(server.url) as tier:
        found = await asyncio.gather(*(look_up(tier, text, "x", text) for text in texts))
        assert found == [[entry(text), None, entry(text)] for text in texts]
        assert calls(server, "mget") <= 2


@pytest.mark.usefixtures("patient")
async def test_damaged_cut_and_foreign_values_are_misses(server: RedisServer) -> None:
    whole = bytes(entry("a"))
    with server.client() as client:
        client.set(PREFIX + key("damaged"), whole[:-1] + b"\0")
        client.set(PREFIX + key("cut"), whole[:-1])
        client.set(PREFIX + key("empty"), b"")
        client.set(PREFIX + key("others"), whole)
        client.rpush(PREFIX + key("list"), "x")
        client.set(PREFIX + key("a"), whole)
    async with opened(server.url) as tier:
        found = await look_up(tier, "damaged", "cut", "empty", "others", "list", "a")
        assert found == [None] * 5 + [entry("a")]
        assert tier.counts.damaged == 4


@pytest.mark.usefixtures("short_rests")
async def test_without_a_server_all_is_missed_and_the_log_says_so_once(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_server.stop()
    async with opened(own_server.url) as tier:
        for _ in range(50):
            tier.put(pairs("a"))
            assert await look_up(tier, "a", "b") == [None, None]
            await asyncio.sleep(0.001)
        assert tier.counts.failures > 0
        about_reading = [line for line in caplog.messages if "reading the cache in Redis" in line]
        assert len(about_reading) == 1
        own_server.start()
        assert await found_in_time(tier, "a")


@pytest.mark.usefixtures("short_rests")
@pytest.mark.parametrize("manner", ["silent", "hanging up", "babbling"])
async def test_a_server_that_misbehaves_is_a_miss(
    manner: Manner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "GIVE_UP_S", 0.1)
    async with fake_redis(manner) as fake, opened(fake.url) as tier:
        for _ in range(30):
            tier.put(pairs("a"))
            assert await look_up(tier, "a", "b") == [None, None]
            await asyncio.sleep(0.002)
        assert fake.connections > 0
        fake.manner = "holding"
        fake.release()
        assert await found_in_time(tier, "a")


async def test_a_server_that_never_answers_is_waited_for_once() -> None:
    async with fake_redis("silent") as fake, opened(fake.url) as tier:
        assert await look_up(tier, "a") == [None]
        assert (tier.counts.late, tier.counts.misses) == (1, 1)
        for _ in range(100):  # it may take GIVE_UP_S to give up: nobody waits for that
            assert await look_up(tier, "a") == [None]
        assert (tier.counts.late, tier.counts.misses) == (1, 101)


@pytest.mark.usefixtures("short_rests")
async def test_a_server_that_is_always_too_slow_is_left_alone_in_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with fake_redis("slow") as fake, opened(fake.url) as tier:
        for _ in range(TRIES):
            assert await look_up(tier, "a") == [None]
            if "reading the cache in Redis does not work (it took" in caplog.text:
                break
            await asyncio.sleep(0.005)
        else:
            pytest.fail("it is asked for ever")
        assert fake.commands.count("MGET") >= LATE_AS_A_FAILURE * FAILURES
        fake.manner = "holding"
        fake.release()
        assert await found_in_time(tier, "a")


async def test_an_answer_that_comes_late_is_not_given_to_the_next_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fake_redis("holding") as fake, opened(fake.url) as tier:
        fake.kept = {PREFIX + one: bytes(value) for one, value in pairs("a", "b")}
        monkeypatch.setattr(redis, "PATIENCE_S", 0.2)
        late = asyncio.create_task(look_up(tier, "a", "a"))
        await fake.held.wait()
        waiting = asyncio.create_task(look_up(tier, "b", "a"))
        assert await late == [None, None]
        monkeypatch.setattr(redis, "PATIENCE_S", 20.0)
        fake.release()
        await waiting  # it has looked at what it got, if anything
        for _ in range(TRIES):
            if await look_up(tier, "b", "a") == [entry("b"), entry("a")]:
                break
            await asyncio.sleep(0.005)
        assert tier.counts.hits >= 2
        assert tier.counts.damaged == 0


@pytest.mark.usefixtures("short_rests")
async def test_a_question_that_was_given_up_leaves_nothing_on_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis, "GIVE_UP_S", 0.1)
    async with fake_redis("holding") as fake, opened(fake.url) as tier:
        fake.kept = {PREFIX + one: bytes(value) for one, value in pairs("a", "b")}
        assert await look_up(tier, "a", "a") == [None, None]
        for _ in range(TRIES):
            if tier.counts.failures:
                break
            await asyncio.sleep(0.005)
        monkeypatch.setattr(redis, "PATIENCE_S", 20.0)
        monkeypatch.setattr(redis, "GIVE_UP_S", 20.0)
        fake.release()
        for _ in range(TRIES):
            if await look_up(tier, "b", "a") != [None, None]:
                break
            await asyncio.sleep(0.005)
        assert fake.connections >= 2
        assert tier.counts.damaged == 0


@pytest.mark.usefixtures("patient")
async def test_a_request_that_is_cancelled_while_it_waits_disturbs_nobody() -> None:
    async with fake_redis("holding") as fake, opened(fake.url) as tier:
        fake.kept = {PREFIX + one: bytes(value) for one, value in pairs("a", "b")}
        gone = asyncio.create_task(look_up(tier, "a"))
        await fake.held.wait()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        fake.release()
        for _ in range(TRIES):
            if await look_up(tier, "b", "a") == [entry("b"), entry("a")]:
                break
            await asyncio.sleep(0.005)
        assert fake.connections == 1
        assert tier.counts.failures <= 1


@pytest.mark.usefixtures("short_rests")
async def test_a_paused_server_is_a_miss_until_it_goes_on(own_server: RedisServer) -> None:
    async with opened(own_server.url) as tier:
        assert await found_in_time(tier, "a")
        own_server.pause()
        for _ in range(30):
            assert await look_up(tier, "a", "b") == [None, None]
        own_server.resume()
        assert await found_in_time(tier, "a")


@pytest.mark.usefixtures("short_rests")
async def test_a_server_restarted_under_load_costs_no_answer(own_server: RedisServer) -> None:
    is_over = False

    async def ask(cache: Cache, model: FakeModel, number: int) -> int:
        count = 0
        while not is_over:
            texts = [str((number * 7 + count + offset) % 40) for offset in range(5)]
            await model.ask(cache, *texts)  # which looks at every vector
            count += 1
            await asyncio.sleep(0)
        return count

    async with opened(own_server.url) as tier:
        # a memory for five entries, so that nearly all are asked of Redis
        cache, model = Cache(MemoryTier(2000), [tier]), FakeModel()
        load = [asyncio.create_task(ask(cache, model, number)) for number in range(8)]
        for end in (own_server.kill, own_server.stop, own_server.kill):
            await hits_go_up(tier)
            await asyncio.to_thread(end)
            await asyncio.sleep(0.05)
            await asyncio.to_thread(own_server.start)
        await hits_go_up(tier)
        is_over = True
        assert min(await asyncio.gather(*load)) > 0
        assert tier.counts.damaged == 0


async def hits_go_up(tier: RedisTier) -> None:
    before = tier.counts.hits
    for _ in range(TRIES):
        if tier.counts.hits > before:
            return
        await asyncio.sleep(0.005)
    pytest.fail("Redis does not come back")


@pytest.mark.usefixtures("patient", "short_rests")
async def test_a_server_that_takes_no_more_writes_is_still_read(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await keep(server.url, "a")
    with server.client() as client:
        client.config_set("maxmemory", "1")
    try:
        async with opened(server.url) as tier:
            for _ in range(10):
                tier.put(pairs("b"))
                assert await look_up(tier, "a", "b") == [entry("a"), None]
                await asyncio.sleep(0.005)
    finally:
        with server.client() as client:
            client.config_set("maxmemory", "0")
    assert (tier.counts.written, tier.counts.dropped) == (0, 10)
    assert "writing the cache in Redis does not work" in caplog.text
    assert "reading the cache" not in caplog.text


@pytest.mark.usefixtures("patient", "short_rests")
async def test_a_wrong_password_is_a_miss_and_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        redis_server(tmp_path, "--requirepass", "right") as server,
    ):
        url = server.url.replace("redis://", "redis://:very-wrong@")
        async with opened(url) as tier:
            for _ in range(5):
                tier.put(pairs("a"))
                assert await look_up(tier, "a") == [None]
                await asyncio.sleep(0.005)
        assert tier.counts.failures > 0
        async with opened(server.url.replace("redis://", "redis://:right@")) as tier:
            assert await found_in_time(tier, "a")
    assert "very-wrong" not in caplog.text


@pytest.mark.usefixtures("patient")
async def test_closing_writes_what_waits(server: RedisServer) -> None:
    texts = [str(number) for number in range(3 * BATCH)]
    await keep(server.url, *texts)
    with server.client() as client:
        assert client.dbsize() == len(texts)


async def test_closing_does_not_wait_for_ever_for_a_server_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis, "CLOSE_S", 0.01)
    async with fake_redis("silent") as fake:
        async with opened(fake.url) as tier:
            tier.put(pairs("a"))
            waiting = asyncio.create_task(look_up(tier, "a"))
            await asyncio.sleep(0)
        assert await waiting == [None]
        assert await look_up(tier, "a") == [None]
        await tier.aclose()


async def test_closing_ends_at_whatever_moment_it_begins(server: RedisServer) -> None:
    for moment in range(40):
        async with asyncio.timeout(60), opened(server.url) as tier:
            tier.put(pairs("a"))
            asking = asyncio.create_task(look_up(tier, "a"))
            for _ in range(moment):
                await asyncio.sleep(0)
        await asking


async def test_a_tier_that_was_never_used_needs_no_server() -> None:
    async with opened("redis://127.0.0.1:1/0"):
        pass


async def test_what_does_not_fit_into_the_queue_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch, server: RedisServer
) -> None:
    monkeypatch.setattr(redis, "QUEUE_BYTES", 3 * len(entry("a")))
    monkeypatch.setattr(redis, "CLOSE_S", 20.0)
    async with opened(server.url) as tier:
        tier.put(pairs("a", "b", "c", "d", "e"))
    assert (tier.counts.written, tier.counts.dropped) == (3, 2)


@pytest.mark.parametrize("url", ["", "redis", "http://:secret@host", "redis://host:secret/0"])
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="redis://HOST:PORT/NUMBER") as error:
        RedisTier(url, ttl_s=1)
    assert "secret" not in str(error.value)


@pytest.mark.usefixtures("patient")
async def test_options_of_the_url_cannot_make_it_an_error(server: RedisServer) -> None:
    await keep(server.url, "a")
    async with opened(server.url + "?decode_responses=true") as tier:
        assert await look_up(tier, "a") == [None]
