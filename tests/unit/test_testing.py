"""The fakes keep the contracts they stand in for, so that tests against them mean something."""

import asyncio

import numpy as np
import pytest

from fledge.errors import (
    DeadlineExceeded,
    InputTooLong,
    InvalidRequest,
    ModelLoading,
    OutOfMemory,
    TooManyInputs,
)
from fledge.testing import FakeBackend, FakeDeployments, fake_card
from fledge.types import Backend, EmbedJob, EmbedResult, Item, ModelEntry, Truncation

ENTRY = ModelEntry(id="org/name", dimension=5)
LONG = " ".join(f"word{n}" for n in range(30))


def embed(backend: Backend, job: EmbedJob) -> EmbedResult:
    return asyncio.run(backend.embed(job))


def test_equal_items_have_equal_vectors_and_others_differ() -> None:
    vectors = embed(FakeBackend(), EmbedJob(items=["a", "b", "a", [5]])).vectors
    assert vectors.shape == (4, 8)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors[0], vectors[2])
    assert len({row.tobytes() for row in vectors}) == 3


def test_a_prompt_changes_texts_but_no_token_ids() -> None:
    items: list[Item] = ["a", [5, 6]]
    plain = embed(FakeBackend(), EmbedJob(items=items))
    prompted = embed(FakeBackend(), EmbedJob(items=items, prompt="query: "))
    assert not np.array_equal(plain.vectors[0], prompted.vectors[0])
    assert np.array_equal(plain.vectors[1], prompted.vectors[1])
    assert list(prompted.token_counts) == [4, 2]


@pytest.mark.parametrize(("side", "kept"), [("right", "first"), ("left", "last")])
def test_long_items_are_cut_on_the_side_asked_for(side: str, kept: str) -> None:
    backend = FakeBackend(fake_card(max_seq_length=3))
    ids = [10, 11, 12, 13]
    job = EmbedJob(items=[ids], truncation=Truncation(side=side))  # type: ignore[arg-type] # of two
    result = embed(backend, job)
    expected = backend.vector(ids[:3] if kept == "first" else ids[1:])
    assert np.array_equal(result.vectors[0], expected)
    assert (list(result.token_counts), list(result.truncated)) == ([3], [True])


def test_errors_name_the_item() -> None:
    cases = [
        (EmbedJob(items=["a", LONG], truncation=Truncation(refuse=True)), InputTooLong),
        (EmbedJob(items=["a", [-1]]), InvalidRequest),
    ]
    for job, kind in cases:
        with pytest.raises(kind) as caught:
            embed(FakeBackend(), job)
        assert caught.value.field == "items[1]"


def test_the_most_tokens_of_a_job_are_kept() -> None:
    with pytest.raises(TooManyInputs):
        embed(FakeBackend(), EmbedJob(items=["a", "b"], max_total_tokens=5))


def test_a_deadline_passes_while_held() -> None:
    backend = FakeBackend()
    backend.hold()
    with pytest.raises(DeadlineExceeded):
        embed(backend, EmbedJob(items=["a"], deadline=0.0))


def test_tokens_have_ids_and_places_in_the_text() -> None:
    (tokens,) = asyncio.run(FakeBackend().tokenize(["one two"]))
    assert len(tokens.ids) == 4
    assert list(tokens.offsets) == [(0, 0), (0, 3), (4, 7), (0, 0)]


def test_a_cold_model_becomes_warm_when_it_is_used() -> None:
    deployments = FakeDeployments()
    assert deployments.status(ENTRY).state == "cold"

    async def main() -> int:
        async with deployments.use(ENTRY, patience_s=0) as backend:
            return backend.card.dimension

    assert asyncio.run(main()) == 5
    assert deployments.status(ENTRY).state == "warm"
    assert (deployments.uses, deployments.loads) == ([("org/name", 0)], ["org/name"])


def test_many_wait_for_one_load() -> None:
    deployments = FakeDeployments()
    deployments.hold()

    async def main() -> None:
        waiting = [asyncio.create_task(deployments.load(ENTRY)) for _ in range(3)]
        await asyncio.sleep(0)
        assert deployments.status(ENTRY).state == "loading"
        deployments.release()
        assert [status.state for status in await asyncio.gather(*waiting)] == ["warm"] * 3

    asyncio.run(main())
    assert deployments.loads == ["org/name"]


def test_a_load_goes_on_when_nobody_waits() -> None:
    deployments = FakeDeployments()
    deployments.hold()

    async def main() -> None:
        async with deployments.use(ENTRY, patience_s=0.01):
            pass

    with pytest.raises(ModelLoading):
        asyncio.run(main())
    assert deployments.status(ENTRY).state == "loading"
    deployments.release()
    assert deployments.status(ENTRY).state == "warm"


def test_a_load_that_fails_is_remembered_until_it_is_asked_for_again() -> None:
    deployments = FakeDeployments()
    deployments.errors["org/name"] = OutOfMemory("no room", retry_after_s=60)

    async def use() -> None:
        async with deployments.use(ENTRY, patience_s=1):
            pass

    for _ in range(2):
        with pytest.raises(OutOfMemory, match="no room"):
            asyncio.run(use())
    status = deployments.status(ENTRY)
    assert (status.state, status.failure, status.retry_in_s) == ("failed", "out_of_memory", 60)
    assert deployments.loads == ["org/name"]
    deployments.errors.clear()
    assert asyncio.run(deployments.load(ENTRY)).state == "warm"


def test_a_model_is_pinned_and_unloaded() -> None:
    deployments = FakeDeployments(FakeBackend(fake_card(id="org/name")))
    assert deployments.pin(ENTRY, is_pinned=True).is_pinned
    assert asyncio.run(deployments.unload(ENTRY)).state == "cold"
    assert deployments.status(ENTRY).card is not None
    assert (deployments.pins, deployments.unloads) == ([("org/name", True)], ["org/name"])
