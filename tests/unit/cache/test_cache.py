"""What is kept is not computed again, and what is given is what was asked for."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from fledge.cache.cache import Cache
from fledge.cache.flights import Terms
from fledge.cache.memory import MemoryTier
from fledge.errors import ComputeError, InputTooLong
from fledge.types import EmbedResult, Timings
from tests.unit.cache.fakes import SPACE, FakeModel, FakeTier, answer, key, pairs

FRESH = Terms(is_fresh=True)
OPTED_OUT = Terms(may_keep=False)
REFUSING = Terms(refuses_cut=True)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def memory() -> MemoryTier:
    return MemoryTier(2**20)


def steps(coroutine: Coroutine[Any, Any, object]) -> int:
    """How often a coroutine yields to the event loop before it ends, if the loop does nothing."""
    count = 0
    try:
        while True:
            coroutine.send(None)
            count += 1
    except StopIteration:
        return count


async def test_what_was_computed_is_not_computed_again() -> None:
    cache, model = Cache(memory()), FakeModel()
    first = await model.ask(cache, "a", "b")
    again = await model.ask(cache, "a", "b")
    assert model.jobs == [["a", "b"]]
    assert (first.origins, first.hit_count) == (["computed", "computed"], 0)
    assert (again.origins, again.hit_count) == (["memory", "memory"], 2)


async def test_only_what_is_missing_is_computed_and_everything_keeps_its_place() -> None:
    cache, model = Cache(memory()), FakeModel()
    await model.ask(cache, "b", "d")
    fetched = await model.ask(cache, "a", "b", "c", "d", "e")
    assert model.jobs == [["b", "d"], ["a", "c", "e"]]
    assert fetched.origins == ["computed", "memory", "computed", "memory", "computed"]
    assert fetched.hit_count == 2


async def test_any_mixture_of_hits_misses_and_repeats_is_in_order() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        cache = Cache(memory(), [FakeTier("files"), FakeTier("redis")])
        for _ in range(4):
            texts = [str(number) for number in generator.integers(0, 12, size=10)]
            await FakeModel().ask(cache, *texts)  # which looks at every vector
            if generator.random() < 0.5 and cache.memory:
                cache.memory.put(pairs(*texts[:3]))


async def test_equal_texts_in_a_batch_are_computed_once() -> None:
    cache, model = Cache(), FakeModel()
    fetched = await model.ask(cache, "a", "b", "a", "a")
    assert model.jobs == [["a", "b"]]
    assert fetched.origins == ["computed", "computed", "joined", "joined"]


async def test_repeats_of_what_is_kept_are_hits() -> None:
    cache, model = Cache(None, [FakeTier("files", "a")]), FakeModel()
    fetched = await model.ask(cache, "a", "b", "a", "b")
    assert fetched.origins == ["files", "computed", "files", "joined"]
    assert fetched.hit_count == 2


async def test_what_is_in_memory_is_given_without_a_task_and_without_yielding() -> None:
    cache, model = Cache(memory(), [FakeTier()]), FakeModel()
    await model.ask(cache, "a", "b")
    tasks = len(asyncio.all_tasks())
    assert steps(model.ask(cache, "a", "b", "a")) == 0
    assert len(asyncio.all_tasks()) == tasks


async def test_tiers_are_asked_in_order_for_what_is_still_missing() -> None:
    files, redis = FakeTier("files", "b"), FakeTier("redis", "b", "c")
    cache, model = Cache(memory(), [files, redis]), FakeModel()
    assert cache.memory is not None
    cache.memory.put(pairs("a"))
    fetched = await model.ask(cache, "a", "b", "c", "d")
    assert fetched.origins == ["memory", "files", "redis", "computed"]
    assert files.asked == [[key("b"), key("c"), key("d")]]
    assert redis.asked == [[key("c"), key("d")]]
    assert model.jobs == [["d"]]


async def test_a_hit_fills_the_tiers_before_it() -> None:
    files, redis = FakeTier("files"), FakeTier("redis", "a")
    cache, model = Cache(memory(), [files, redis]), FakeModel()
    await model.ask(cache, "a")
    assert files.entries == dict(pairs("a"))
    assert (await model.ask(cache, "a")).origins == ["memory"]


async def test_what_is_computed_is_kept_by_every_tier() -> None:
    files, redis = FakeTier("files"), FakeTier("redis")
    await FakeModel().ask(Cache(memory(), [files, redis]), "a")
    assert files.entries == redis.entries == dict(pairs("a"))


async def test_without_tiers_everything_is_computed() -> None:
    cache, model = Cache(), FakeModel()
    await model.ask(cache, "a")
    await model.ask(cache, "a")
    assert model.jobs == [["a"], ["a"]]


async def test_fresh_is_a_new_computation_that_is_kept() -> None:
    files = FakeTier("files", "a")
    cache, model = Cache(memory(), [files]), FakeModel()
    await model.ask(cache, "a")
    files.entries.clear()
    fetched = await model.ask(cache, "a", "a", terms=FRESH)
    assert model.jobs == [["a"]]
    assert (fetched.origins, fetched.hit_count) == (["computed", "joined"], 0)
    assert files.entries == dict(pairs("a"))


async def test_fresh_replaces_what_was_kept() -> None:
    tier = FakeTier("files")
    cache, model = Cache(memory(), [tier]), FakeModel()
    older = answer(["older"])

    async def compute_older(indices: Sequence[int]) -> EmbedResult:
        return older

    await cache.fetch([key("a")], compute_older)
    await model.ask(cache, "a", terms=FRESH)
    await model.ask(cache, "a")
    assert tier.entries == dict(pairs("a"))


async def test_a_model_that_opted_out_is_neither_looked_for_nor_kept() -> None:
    files = FakeTier("files", "a")
    cache, model = Cache(memory(), [files]), FakeModel()
    for terms in (OPTED_OUT, Terms(may_keep=False, is_fresh=True)):
        assert (await model.ask(cache, "a", terms=terms)).origins == ["computed"]
        assert (await model.ask(cache, "b", terms=terms)).origins == ["computed"]
    assert files.asked == []
    assert files.entries == dict(pairs("a"))
    assert cache.memory is not None
    assert len(cache.memory) == 0


async def test_who_refuses_cut_texts_gets_no_answer_for_one_from_the_cache() -> None:
    files = FakeTier("files", "long+", "short")
    cache, model = Cache(memory(), [files]), FakeModel()
    await model.ask(cache, "long+", "short")
    model.error = InputTooLong("too long", field="items[0]")
    with pytest.raises(InputTooLong):
        await model.ask(cache, "long+", terms=REFUSING)
    assert model.jobs == [["long+"]]
    assert (await model.ask(cache, "short", terms=REFUSING)).origins == ["memory"]
    assert (await model.ask(cache, "long+")).origins == ["memory"]


async def test_who_refuses_cut_texts_and_who_does_not_share_the_others() -> None:
    cache, model = Cache(memory()), FakeModel()
    await model.ask(cache, "short", terms=REFUSING)
    assert (await model.ask(cache, "short")).origins == ["memory"]


async def test_the_timings_are_those_of_what_was_computed() -> None:
    cache, model = Cache(memory()), FakeModel()
    assert (await model.ask(cache, "a", "b")).result.timings == Timings(compute_ms=2)
    assert (await model.ask(cache, "a", "c")).result.timings == Timings(compute_ms=1)
    assert (await model.ask(cache, "a", "b")).result.timings == Timings()
    assert (await model.ask(cache, "a", "a", terms=FRESH)).result.timings == Timings(compute_ms=1)


@pytest.mark.parametrize("terms", [Terms(), FRESH])
async def test_an_answer_for_fewer_texts_is_an_error_and_is_not_kept(terms: Terms) -> None:
    tier = FakeTier()

    async def compute(indices: Sequence[int]) -> EmbedResult:
        return answer(["a"])

    with pytest.raises(ComputeError, match="2 inputs were answered with 1 vectors"):
        await Cache(memory(), [tier]).fetch(SPACE.keys(["a", "b"]), compute, terms)
    assert tier.entries == {}


@pytest.mark.parametrize("terms", [Terms(), FRESH])
async def test_an_error_is_raised_as_it_is_and_nothing_is_kept(terms: Terms) -> None:
    tier, model = FakeTier(), FakeModel()
    cache = Cache(memory(), [tier])
    model.error = ComputeError("no")
    with pytest.raises(ComputeError) as error:
        await model.ask(cache, "a", terms=terms)
    assert error.value is model.error
    assert tier.entries == {}
    model.error = None
    assert (await model.ask(cache, "a")).origins == ["computed"]


async def test_no_keys_need_no_computation() -> None:
    async def compute(indices: Sequence[int]) -> EmbedResult:
        raise AssertionError("there was nothing to compute")

    for cache in (Cache(), Cache(memory(), [FakeTier()])):
        fetched = await cache.fetch([], compute)
        assert (len(fetched.result.vectors), fetched.origins, fetched.hit_count) == (0, [], 0)


async def test_origins_are_counted() -> None:
    cache, model = Cache(memory(), [FakeTier("redis", "r")]), FakeModel()
    await model.ask(cache, "a", "a", "r")
    await model.ask(cache, "a", "r")
    await model.ask(cache, "a", terms=FRESH)
    assert cache.counts == Counter(memory=2, redis=1, computed=2, joined=1)


async def test_closing_closes_every_tier_and_may_be_done_twice() -> None:
    tiers = [FakeTier("files"), FakeTier("redis")]
    cache = Cache(memory(), tiers)
    await cache.aclose()
    await cache.aclose()
    assert all(tier.is_closed for tier in tiers)
