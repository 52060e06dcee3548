"""What other servers' caches got wrong: every answer is compared with that of a backend alone."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.cache.cache import Cache, Fetched
from fledge.cache.flights import Terms
from fledge.cache.key import Space
from fledge.cache.memory import MemoryTier
from fledge.testing import FakeBackend, fake_card
from fledge.types import EmbedJob, EmbedResult, Item, Truncation
from fledge.vectors import cut_dimensions, normalize

LONG = "one two three four five six"
IDS = [1, 23, 456]
WHOLE = Truncation()

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Particular(FakeBackend):
    """Its numbers depend on everything that a real model's may depend on."""

    def __init__(self, arithmetic: str = "1", **facts: Any) -> None:
        super().__init__(fake_card(**facts))
        self.arithmetic = arithmetic

    async def embed(self, job: EmbedJob) -> EmbedResult:
        card = self.card
        facts = (card.id, card.revision, card.precision, self.arithmetic, job.side)
        result = await super().embed(job)
        return replace(
            result, vectors=result.vectors * np.float32(zlib.crc32(repr(facts).encode()))
        )


async def ask(cache: Cache, backend: Particular, job: EmbedJob) -> Fetched:
    """As the service asks; the answer is that of the backend alone."""

    async def compute(indices: Sequence[int]) -> EmbedResult:
        return await backend.embed(replace(job, items=[job.items[index] for index in indices]))

    keys = Space.of(replace(backend.card, arithmetic=backend.arithmetic), job).keys(job.items)
    terms = Terms(refuses_cut=job.truncation.refuse)
    fetched = await cache.fetch(keys, compute, terms)
    alone = await backend.embed(job)
    assert fetched.result.vectors.tobytes() == alone.vectors.tobytes()
    assert fetched.result.token_counts == alone.token_counts
    assert fetched.result.truncated == alone.truncated
    return fetched


@dataclass(frozen=True)
class Way:
    """One way to ask for a text."""

    item: Item = LONG
    prompt: str | None = None
    side: Any = None
    truncation: Truncation = WHOLE
    arithmetic: str = "1"
    facts: tuple[tuple[str, Any], ...] = ()

    async def ask(self, cache: Cache) -> Fetched:
        backend = Particular(self.arithmetic, **dict(self.facts))
        job = EmbedJob(
            items=[self.item], prompt=self.prompt, side=self.side, truncation=self.truncation
        )
        return await ask(cache, backend, job)


def of(**facts: Any) -> Way:
    return Way(facts=tuple(facts.items()))


WAYS = {
    "as it is": Way(),
    "with a prompt": Way(prompt="query: "),
    "with another prompt": Way(prompt="document: "),
    "with the prompt in the text": Way(item="query: " + LONG),
    "as a query": Way(side="query"),
    "as a document": Way(side="document"),
    "cut at 5": Way(truncation=Truncation(max_tokens=5)),
    "cut at 6": Way(truncation=Truncation(max_tokens=6)),
    "cut from the left": Way(truncation=Truncation(max_tokens=5, side="left")),
    "as ids": Way(item=IDS),
    "as other ids": Way(item=[12, 345, 6]),
    "as a text of ids": Way(item="1,23,456"),
    "as a text of a list of ids": Way(item=str(IDS)),
    "of another model": of(id="org/other"),
    "of another revision": of(revision="4567def"),
    "in another precision": of(precision="int8"),
    "in another dimension": of(dimension=6),
    "of a shorter model": of(max_seq_length=4),
    "after the arithmetic has changed": Way(arithmetic="2"),
    "in other letters": Way(item=LONG.upper()),
    "with a space": Way(item=LONG + " "),
}


@pytest.mark.parametrize("other", list(WAYS)[1:])
async def test_different_things_never_share_a_vector(other: str) -> None:
    cache = Cache(MemoryTier(2**20))
    for name in ("as it is", other, "as it is", other):
        await WAYS[name].ask(cache)
    assert cache.counts == {"computed": 2, "memory": 2}


@given(st.lists(st.sampled_from(list(WAYS)), max_size=30))
async def test_no_order_of_asking_gives_a_wrong_answer(names: list[str]) -> None:
    cache = Cache(MemoryTier(2**20))
    for name in names:
        await WAYS[name].ask(cache)
    assert cache.counts["computed"] == len(set(names))


@given(st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=8), max_size=8))
async def test_partial_hits_in_any_order_keep_every_vector_in_its_place(
    batches: list[list[str]],
) -> None:
    cache, backend = Cache(MemoryTier(2**20)), Particular()
    for texts in batches:
        await ask(cache, backend, EmbedJob(items=texts))


async def test_texts_and_ids_in_one_batch_are_told_apart() -> None:
    cache, backend = Cache(MemoryTier(2**20)), Particular()
    items: list[Item] = [IDS, "1,23,456", LONG, tuple(IDS), str(IDS)]
    for order in (items, items[::-1], items):
        await ask(cache, backend, EmbedJob(items=order))
    assert cache.counts["computed"] == 4


async def test_a_hit_costs_the_backend_nothing_and_counts_the_same_tokens() -> None:
    cache, backend = Cache(MemoryTier(2**20)), Particular()
    job = EmbedJob(items=["a", "b c", LONG], prompt="query: ", truncation=Truncation(max_tokens=6))
    first = await ask(cache, backend, job)
    jobs = len(backend.jobs)
    again = await ask(cache, backend, job)
    assert len(backend.jobs) == jobs + 1  # the one that `ask` compares with
    assert again.result.token_counts == first.result.token_counts
    assert again.result.truncated == first.result.truncated == [False, False, True]


async def test_what_is_done_to_a_vector_afterwards_is_done_to_the_kept_one_too() -> None:
    cache, backend = Cache(MemoryTier(2**20)), Particular()
    job = EmbedJob(items=["a", "b"])
    computed = (await ask(cache, backend, job)).result.vectors
    for finish in (normalize, lambda raw: cut_dimensions(raw, 3), lambda raw: raw):
        kept = (await ask(cache, backend, job)).result.vectors
        np.testing.assert_array_equal(finish(kept), finish(computed))
        kept[:] = 0  # whatever a dialect does with it


async def test_whether_vectors_came_normalized_is_kept_too() -> None:
    cache, backend = Cache(MemoryTier(2**20)), Particular()
    job = EmbedJob(items=["a"])

    async def compute(indices: Sequence[int]) -> EmbedResult:
        result = await backend.embed(job)
        return replace(result, vectors=normalize(result.vectors), normalized=True)

    elsewhere = replace(backend.card, deployment="provider", provider_id="its-name")
    keys = Space.of(elsewhere, job).keys(job.items)
    assert (await cache.fetch(keys, compute)).result.normalized
    assert (await cache.fetch(keys, compute)).result.normalized
    # the same model computed here is another space
    assert not (await ask(cache, backend, job)).result.normalized
