"""A flood of one key, the whole way: from the service through a real lane to a fake model."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime

import pytest

from fledge import answering
from fledge.accounts.callers import Caller
from fledge.accounts.keys import Key
from fledge.engine.backend import LocalBackend
from fledge.errors import DeadlineExceeded, Overloaded
from fledge.requests import EmbedRequest, EmbedResponse
from fledge.service import Service
from fledge.settings import Settings
from fledge.types import EmbedJob
from tests.unit.engine.lane_bench import Bench, Model, backend_of

MAX_QUEUED = 20_000


class World:
    """A service over one model, whose lane computes when it is let go."""

    def __init__(self) -> None:
        self.bench = Bench(max_queued_tokens=MAX_QUEUED)
        self.model = Model()
        self.backend: LocalBackend = backend_of(self.bench.lane, self.model)
        self.service = Service.over([self.backend], Settings())

    def hold(self) -> None:
        self.bench.model.gate.clear()
        self.bench.submit(1)
        self.bench.model.wait_until_computing()

    def let_go(self) -> None:
        self.bench.model.gate.set()

    def ask(
        self, key: Key, *texts: str, timeout_s: float | None = None
    ) -> Coroutine[None, None, EmbedResponse]:
        request = EmbedRequest(inputs=texts, caller=Caller(key), timeout_s=timeout_s)
        return self.service.embed(request)

    async def queued(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.bench.lane.waiting_requests < count:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)

    def close(self) -> None:
        self.let_go()
        self.backend.close()
        self.bench.close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def key(name: str) -> Key:
    return Key(
        id=name, name=name, prefix="fl-", last_four="1234", created=datetime(2026, 1, 1, tzinfo=UTC)
    )


FLOOD, QUIET = key("flood"), key("quiet")


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


@pytest.mark.parametrize("count", [10, 300])
def test_a_query_is_in_the_next_batch_or_the_one_after_however_many_of_another_key_wait(
    world: World, count: int
) -> None:
    async def scenario() -> None:
        world.hold()
        flood = [asyncio.create_task(world.ask(FLOOD, f"f{n:019}")) for n in range(count)]
        await world.queued(count)
        quiet = asyncio.create_task(world.ask(QUIET, "quiet: a query"))
        await world.queued(count + 1)
        world.let_go()
        await asyncio.gather(quiet, *flood)

    run(scenario)
    assert any(ord("q") in batch for batch in world.model.batches[:2])
    assert sum(map(len, world.model.batches)) == count + 1


def test_a_bulk_request_of_one_key_does_not_hold_up_a_query_of_another(world: World) -> None:
    async def scenario() -> None:
        world.hold()
        bulk = asyncio.create_task(world.ask(FLOOD, *[f"f{n:059}" for n in range(300)]))
        await world.queued(1)
        quiet = asyncio.create_task(world.ask(QUIET, "quiet: a query"))
        await world.queued(2)
        world.let_go()
        await asyncio.gather(quiet, bulk)

    run(scenario)
    assert any(ord("q") in batch for batch in world.model.batches[:2])
    assert len(world.model.batches) > 200


def test_a_queue_that_one_key_filled_refuses_that_key_at_once_and_no_other(world: World) -> None:
    async def scenario() -> None:
        world.hold()
        texts = [f"f{n:099}" for n in range(MAX_QUEUED // 100)]
        bulk = asyncio.create_task(world.ask(FLOOD, *texts))
        await world.queued(1)
        with pytest.raises(Overloaded) as raised:  # while nothing moves
            await world.ask(FLOOD, "one more")
        assert raised.value.retry_after_s >= 1
        quiet = asyncio.create_task(world.ask(QUIET, "quiet: a query"))
        await world.queued(2)
        world.let_go()
        await asyncio.gather(quiet, bulk)

    run(scenario)


def test_a_request_whose_time_is_over_before_it_is_computed_never_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "_GRACE_S", 0)

    async def scenario() -> None:
        world.hold()
        with pytest.raises(DeadlineExceeded):  # while nothing moves
            await world.ask(QUIET, "late", timeout_s=0.001)
        world.let_go()
        await world.ask(QUIET, "in time", timeout_s=10)

    run(scenario)
    assert world.model.batches == [[ord("i")]]


def test_a_job_whose_deadline_has_passed_is_not_even_tokenized(world: World) -> None:
    async def scenario() -> None:
        world.hold()
        with pytest.raises(DeadlineExceeded):  # while nothing moves
            await world.backend.embed(EmbedJob(items=["late"], deadline=0))
        world.let_go()

    world.backend._pipeline.encode = pytest.fail  # type: ignore[method-assign,assignment] # a seam
    run(scenario)
