"""A batch beside live traffic: the service and a real lane, over a model that a test holds."""

import asyncio
from pathlib import Path

import pytest

from fledge.api.batch_lines import EmbeddingLines
from fledge.batches.runner import Runner
from fledge.batches.store import BatchStore
from fledge.requests import EmbedRequest
from fledge.service import Service
from fledge.settings import Settings
from tests.unit.batches.fakes import ADMIN, PATIENCE_S, create, jsonl, request
from tests.unit.engine.lane_bench import Bench, Model, backend_of

pytestmark = pytest.mark.anyio

BULK, LIVE = ord("b"), ord("l")


async def test_a_request_that_comes_last_is_computed_before_all_that_waits_of_a_batch(
    tmp_path: Path,
) -> None:
    bench, model = Bench(), Model()
    backend = backend_of(bench.lane, model)
    service = Service.over([backend], Settings())
    store = BatchStore(tmp_path)
    # So long that no two of them fit into one of the lane's batches.
    create(store, jsonl([request(f"r{n}", input="b" * 60) for n in range(20)]))
    runner = Runner(
        store,
        EmbeddingLines(service, service.settings),
        service.accounts.key_of,
        max_line_bytes=10_000,
        max_queued_tokens=1_000_000,
    )
    model.gate.clear()
    runner.start()
    await asyncio.to_thread(model.wait_until_computing)
    async with asyncio.timeout(PATIENCE_S):
        while bench.lane.waiting_requests < 19:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)
        live = [
            asyncio.create_task(service.embed(EmbedRequest(inputs=["l" * 60]))) for _ in range(2)
        ]
        while bench.lane.waiting_requests < 21:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.001)
        model.gate.set()
        await asyncio.gather(*live)
        for batch in store.unfinished():
            while not store.find(batch.id, ADMIN).has_ended:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.005)
    await runner.aclose()
    order = [batch[0] for batch in model.batches]
    # The first was being computed when they came.
    assert order[:3] == [BULK, LIVE, LIVE]
    assert order.count(BULK) == 20
    backend.close()
    bench.close()
