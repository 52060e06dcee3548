"""One tenant's flood in the lane: another is computed next, and finds room in the queue."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from typing import cast

import pytest

from fledge.engine.channel import Computed
from fledge.engine.packing import Row
from fledge.errors import Overloaded
from fledge.types import EmbedJob
from tests.unit.engine.lane_bench import Bench, Model, backend_of, result

MAX_QUEUED = 1000


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A lane that is computing a row of nobody's, until its gate is opened."""
    bench = Bench(max_queued_tokens=MAX_QUEUED)
    bench.model.gate.clear()
    bench.submit(1)
    bench.model.wait_until_computing()
    yield bench
    bench.model.gate.set()
    bench.close()


def submit(bench: Bench, tenant: str, *lengths: int) -> "Future[Computed]":
    rows = [Row([ord(tenant[0])] * length) for length in lengths]
    return bench.lane.submit(bench.channel, rows, priority=0, deadline=None, tenant=tenant)


def test_a_quiet_tenant_is_computed_next_however_many_requests_another_has_waiting(
    bench: Bench,
) -> None:
    flood = [submit(bench, "flood", 10) for _ in range(90)]
    quiet = submit(bench, "quiet", 20, 20, 20)
    bench.model.gate.set()
    assert len(result(quiet)) == 3
    assert [len(result(one)) for one in flood] == [1] * 90
    assert any(ord("q") in batch for batch in bench.model.batches[1:3])


def test_a_queue_that_one_tenant_filled_has_room_for_another_up_to_its_part(bench: Bench) -> None:
    submit(bench, "flood", *[50] * 20)
    with pytest.raises(Overloaded, match="1000 tokens are waiting already"):
        submit(bench, "flood", 1)
    with pytest.raises(Overloaded):
        submit(bench, "quiet", 501)
    submit(bench, "quiet", 300)
    submit(bench, "quiet", 200)
    with pytest.raises(Overloaded):
        submit(bench, "quiet", 1)
    with bench.lane.arriving(bench.channel, 333, tenant="third"), pytest.raises(Overloaded):
        submit(bench, "third", 1)


def test_the_parts_are_of_all_who_wait_for_any_model_or_are_being_tokenized(bench: Bench) -> None:
    other = bench.attach(Model())
    submit(bench, "flood", *[50] * 20)
    rows = [Row([1] * 100)]
    bench.lane.submit(other, rows, priority=0, deadline=None, tenant="elsewhere")
    with bench.lane.arriving(bench.channel, 100, tenant="arriving"):
        with pytest.raises(Overloaded):
            submit(bench, "quiet", 251)
        submit(bench, "quiet", 250)


def test_a_queue_is_never_longer_than_twice_its_limit(bench: Bench) -> None:
    submit(bench, "flood", *[50] * 20)
    admitted = 1000
    for number in range(2, 100):
        try:
            submit(bench, f"{number} comes", MAX_QUEUED // number)
        except Overloaded:
            break
        admitted += MAX_QUEUED // number
    assert MAX_QUEUED < admitted <= 2 * MAX_QUEUED
    assert number < 10


def test_who_has_left_takes_no_part_of_the_queue(bench: Bench) -> None:
    submit(bench, "leaves", 10).cancel()
    with bench.lane.arriving(bench.channel, 10, tenant="leaves too"):
        pass
    submit(bench, "flood", *[50] * 20)
    submit(bench, "quiet", 500)


def test_the_backend_tells_the_lane_who_asks(bench: Bench) -> None:
    backend = backend_of(bench.lane, bench.model)

    async def embed(tenant: str, *items: str) -> "asyncio.Task[object]":
        task = asyncio.ensure_future(backend.embed(EmbedJob(items=items, tenant=tenant)))
        await asyncio.sleep(0)
        return cast("asyncio.Task[object]", task)

    async def scenario() -> None:
        tasks = [await embed("flood", *["f" * 50] * 20)]
        assert (await embed("flood", "f")).exception()
        tasks.append(await embed("quiet", "q" * 400))
        bench.model.gate.set()
        await asyncio.gather(*tasks)
        await backend.aclose()

    asyncio.run(scenario())
