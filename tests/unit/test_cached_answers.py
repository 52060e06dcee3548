"""The service over a cache: every answer is the one that the model alone would give."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fledge.cache.cache import Cache
from fledge.cache.memory import MemoryTier
from fledge.catalog.catalog import Catalog
from fledge.errors import (
    ComputeError,
    DeadlineExceeded,
    InputTooLong,
    InvalidRequest,
    ModelLoadError,
    TooManyInputs,
)
from fledge.prompts import PromptChoice
from fledge.requests import CompareRequest, EmbedRequest, EmbedResponse
from fledge.service import Service
from fledge.settings import Settings
from fledge.stores import open_cache
from fledge.testing import FakeBackend, FakeDeployments, fake_card
from fledge.types import EmbedJob, EmbedResult, ModelEntry, Truncation
from tests.unit.cache.fakes import FakeTier, settle
from tests.unit.cached import Notebook, Place
from tests.unit.engine.lifecycle.fakes import World

LONG = "word " * 30
REFUSE = Truncation(refuse=True)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_hit_is_what_was_computed_bit_for_bit_wherever_it_comes_from() -> None:
    files, redis = FakeTier("files"), FakeTier("redis")
    place = Place(files, redis, memory=False)
    await place.embed("a", "b c", LONG)
    everything = dict(files.entries)
    for tiers in ((files,), (redis,), (files, redis)):
        for tier in (files, redis):
            tier.entries = dict(everything) if tier in tiers else {}
        assert (await place.embed(LONG, "a", "b c", "a")).hit_count == 4
    assert len(place.model.jobs) == 1


async def test_any_mixture_of_hits_misses_and_repeats_is_what_the_model_gives() -> None:
    generator = np.random.default_rng(0)
    place = Place(FakeTier("files"), FakeTier("redis"))
    for _ in range(40):
        count = int(generator.integers(1, 12))
        inputs = [f"text {n}" if n % 3 else LONG[n:] for n in generator.integers(0, 30, count)]
        await place.embed(*inputs, dimensions=(None, 3, 8)[generator.integers(3)])
    assert len(place.computed) == len(set(place.computed))


async def test_what_is_used_is_counted_the_same_on_a_hit() -> None:
    place = Place()
    for inputs in (["a", "b c"], ["a", "b c"], ["b c", "d e f", "b c"]):
        await place.embed(*inputs)
    counted = [(one.texts, one.tokens, one.cache_hits) for one in place.accounts.records]
    assert counted == [(2, 7, 0), (2, 7, 2), (3, 13, 2)]
    assert place.accounts.records[1].compute_s == 0


async def test_the_limit_of_tokens_is_on_what_was_sent_not_on_what_was_computed() -> None:
    place = Place(max_tokens_per_request=12)
    await place.embed("a b c d")
    await place.embed("e f")
    for inputs in (["a b c d"] * 3, ["a b c d", "e f", "g"]):
        with pytest.raises(TooManyInputs) as error:
            await place.service.embed(EmbedRequest(inputs=inputs, field="input"))
        assert error.value.field == "input"
    assert (await place.embed("a b c d", "e f")).hit_count == 2


async def test_who_refuses_cut_texts_is_told_which_is_too_long_though_it_is_kept() -> None:
    place = Place()
    await place.embed("a", LONG, "b")
    with pytest.raises(InputTooLong, match=r"`inputs\[2\]`") as error:
        await place.embed("a", "b", LONG, truncation=REFUSE)
    assert error.value.field == "inputs[2]"
    assert (await place.embed("a", "b", truncation=REFUSE)).hit_count == 2
    request = CompareRequest(query="a", documents=["a", "b", LONG], truncation=REFUSE)
    with pytest.raises(InputTooLong) as error:
        await place.service.compare(request)
    assert error.value.field == "documents[2]"


async def test_an_error_about_one_of_the_missing_names_it_as_the_caller_counts() -> None:
    place = Place()
    await place.embed("a", "c")
    place.model.error = InvalidRequest("`items[1]` is odd", field="items[1]")
    with pytest.raises(InvalidRequest) as error:
        await place.embed("a", "b", "c", "b", "d")
    assert (error.value.field, str(error.value)) == ("inputs[4]", "`inputs[4]` is odd")


async def test_a_vector_that_is_not_finite_is_not_kept() -> None:
    class Broken(FakeBackend):
        async def embed(self, job: EmbedJob) -> EmbedResult:
            result = await super().embed(job)
            result.vectors[-1, 0] = np.nan if len(self.jobs) % 2 else np.inf
            return result

    place = Place(tier := FakeTier())
    place.deployments.backends[place.model.card.id] = Broken()
    for _ in range(2):
        with pytest.raises(ComputeError, match="not finite"):
            await place.embed("a", "b")
    assert tier.entries == {}
    place.deployments.backends[place.model.card.id] = place.model
    assert (await place.embed("a", "b")).hit_count == 0


async def test_without_the_cache_is_a_new_computation_that_joins_nobody_and_is_kept() -> None:
    place = Place()
    place.model.hold()
    usual = place.begin("a")
    await settle()
    fresh = [place.begin("a", use_cache=False) for _ in range(2)]
    await settle()
    assert len(place.model.jobs) == 3
    place.model.release()
    assert [one.hit_count for one in await asyncio.gather(usual, *fresh)] == [0, 0, 0]
    assert (await place.embed("a", use_cache=False)).hit_count == 0
    assert len(place.model.jobs) == 4
    await place.embed("b", use_cache=False)
    assert (await place.embed("a", "b")).hit_count == 2


async def test_equal_texts_of_many_requests_are_computed_once_and_are_no_hits() -> None:
    place = Place()
    place.model.hold()
    tasks = [place.begin("a", str(number)) for number in range(20)]
    await settle()
    place.model.release()
    answers = await asyncio.gather(*tasks)
    assert place.computed.count("a") == 1
    assert sum(answer.hit_count for answer in answers) == 0


async def test_who_leaves_does_not_take_the_answer_from_those_who_joined() -> None:
    place = Place()
    place.model.hold()
    owner, joiner = place.begin("a"), None
    await settle()
    joiner = place.begin("a")
    await settle()
    owner.cancel()
    await settle()
    place.model.release()
    await joiner
    assert (len(place.model.jobs), place.model.cancelled) == (1, 0)


async def test_who_joined_keeps_to_its_own_patience() -> None:
    place = Place()
    place.model.hold()
    owner = place.begin("a")
    await settle()
    with pytest.raises(DeadlineExceeded):
        await place.embed("a", timeout_s=0.01)
    place.model.release()
    await owner
    assert len(place.model.jobs) == 1


async def test_a_time_out_of_somebody_else_is_not_taken_for_the_requests_own() -> None:
    place = Place()
    place.model.error = TimeoutError("the connection")
    with pytest.raises(TimeoutError, match="the connection"):
        await place.embed("a", timeout_s=60)


async def test_who_joined_outlives_the_patience_of_the_one_who_began() -> None:
    place = Place()
    place.model.hold()
    owner = place.begin("a", timeout_s=0.05)
    await settle()
    joiner = place.begin("a", timeout_s=60)
    with pytest.raises(DeadlineExceeded):
        await owner
    place.model.release()
    await joiner


async def test_an_interactive_request_does_not_wait_for_bulk_work_but_bulk_work_for_it() -> None:
    place = Place()
    place.model.hold()
    tasks = [place.begin("a", priority=1)]
    await settle()
    for priority in (0, 0, 1):
        tasks.append(place.begin("a", priority=priority))
        await settle()
    assert [job.priority for job in place.model.jobs] == [1, 0]
    place.model.release()
    await asyncio.gather(*tasks)


async def test_both_parts_of_a_comparison_are_kept_each_under_its_prompt() -> None:
    place = Place(card=fake_card(similarity="dot"))
    request = CompareRequest(
        query="a",
        documents=["a", "b"],
        query_prompt_choice=PromptChoice(prompt_name="query"),
        document_prompt_choice=PromptChoice(prompt_name="document"),
    )
    first = await place.service.compare(request)
    again = await place.service.compare(request)
    assert (first.hit_count, again.hit_count) == (0, 3)
    assert list(again.scores) == list(first.scores)
    assert list(again.token_counts) == list(first.token_counts)
    others = await place.service.compare(replace(request, documents=["b", "c"]))
    assert others.hit_count == 2
    alone = await Service.over([FakeBackend(place.model.card)], Settings()).compare(request)
    assert list(alone.scores) == list(first.scores)


async def test_a_document_that_equals_the_query_is_computed_once_where_nothing_tells_them_apart(
) -> None:  # fmt: skip
    place = Place()
    choice = PromptChoice(input_type="query")
    request = CompareRequest(
        query="a", documents=["b", "a"], query_prompt_choice=choice, document_prompt_choice=choice
    )
    answer = await place.service.compare(request)
    assert sorted(map(str, place.computed)) == ["a", "b"]
    assert answer.scores[1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("changed", "value"),
    [("revision", "other"), ("precision", "int8"), ("arithmetic", "2"), ("max_seq_length", 9)],
)
async def test_a_model_that_was_loaded_anew_as_another_is_asked_anew(
    changed: str, value: Any
) -> None:
    place = Place()
    await place.embed("a")
    await place.service.unload(place.model.card.id)
    await place.embed("a")
    assert len(place.model.jobs) == 1  # the same one as before
    other: dict[str, Any] = {changed: value}
    place.deployments.set(
        place.model.card.id, state="warm", card=replace(place.model.card, **other)
    )
    answer = await place.service.embed(EmbedRequest(inputs=["a"]))
    assert answer.hit_count == 0


async def test_what_computes_stays_until_it_has_computed_though_its_model_has_to_leave() -> None:
    """A request that asked for its model once more would wait for it to be loaded anew, which
    waits for this request."""
    world = World()
    tier = FakeTier()
    entry = ModelEntry(id="org/a")
    service = Service(
        Catalog([entry]), world.lifecycle, Settings(), cache=Cache(MemoryTier(2**20), [tier])
    )
    tier.hold()
    asked = asyncio.create_task(service.embed(EmbedRequest(inputs=["a"])))
    await settle()
    leaving = asyncio.create_task(world.lifecycle.unload(entry))
    await settle()
    tier.release()
    async with asyncio.timeout(5):
        assert (await asked).hit_count == 0
        await leaving
    assert (world.loader.loaded, world.loader.closed) == (["org/a"], ["org/a"])
    await world.lifecycle.aclose()


async def test_a_model_stays_while_it_computes_for_others_than_the_one_who_began() -> None:
    world, entry = World(), ModelEntry(id="org/a")
    service = Service(Catalog([entry]), world.lifecycle, Settings(), cache=Cache())
    await world.touch("org/a")
    world.loader.models["org/a"].hold()
    tasks = []
    for _ in range(2):
        tasks.append(asyncio.create_task(service.embed(EmbedRequest(inputs=["a"]))))
        await settle()
    tasks[0].cancel()
    leaving = asyncio.create_task(world.lifecycle.unload(entry))
    await settle()
    assert world.loader.closed == []
    world.loader.models["org/a"].release()
    async with asyncio.timeout(5):
        assert (await tasks[1]).hit_count == 0
        await leaving
    assert world.loader.closed == ["org/a"]
    assert len(world.loader.models["org/a"].jobs) == 1
    await world.lifecycle.aclose()


async def test_a_model_that_cannot_be_loaded_is_no_business_of_the_caches() -> None:
    place = Place()
    await place.embed("a")
    await place.service.unload(place.model.card.id)
    place.deployments.errors[place.model.card.id] = ModelLoadError("it is gone")
    with pytest.raises(ModelLoadError):
        await place.service.embed(EmbedRequest(inputs=["a"]))


@pytest.mark.parametrize("name", ["fledge/fake", "other-name", "fake", "Fledge/FAKE"])
async def test_a_model_can_be_left_out_by_any_of_its_names(name: str) -> None:
    tier = FakeTier()
    place = Place(tier, model={name: {"cache": False}})
    for _ in range(2):
        assert (await place.embed("a", "a")).hit_count == 0
    assert place.computed == ["a", "a"]
    assert (tier.entries, tier.asked) == ({}, [])


async def test_of_a_model_that_is_left_out_equal_texts_in_flight_are_computed_once() -> None:
    place = Place(model={"fake": {"cache": False}})
    place.model.hold()
    tasks = [place.begin("a") for _ in range(5)]
    await settle()
    place.model.release()
    await asyncio.gather(*tasks)
    assert place.computed == ["a"]


@pytest.mark.parametrize("memory_bytes", [0, 2**20])
@pytest.mark.parametrize("files_bytes", [0, 2**20])
async def test_every_size_may_be_0(tmp_path: Any, memory_bytes: int, files_bytes: int) -> None:
    settings = Settings(
        cache_memory_bytes=memory_bytes, cache_files_bytes=files_bytes, cache_dir=tmp_path
    )
    backend = FakeBackend()
    hits = []
    for _ in range(2):  # another start
        service = Service(
            Catalog([ModelEntry(id=backend.card.id)]),
            FakeDeployments(backend),
            settings,
            cache=open_cache(settings),
        )
        for _ in range(2):
            answer = await service.embed(EmbedRequest(inputs=["a", "b", "a"]))
            assert len(answer.vectors) == 3
            hits.append(answer.hit_count)
        await service.aclose()
    # right after the first answer the file may not have it yet
    assert hits[0] == 0
    assert hits[1] in ((3,) if memory_bytes else (0, 3) if files_bytes else (0,))
    assert hits[2] == (3 if files_bytes else 0)
    assert (tmp_path / "vectors").exists() == bool(files_bytes)


async def test_a_cache_that_does_not_close_keeps_no_usage_from_being_written() -> None:
    class Stuck(FakeTier):
        may_close = asyncio.Event()

        async def aclose(self) -> None:
            await self.may_close.wait()
            await super().aclose()

    stuck, other = Stuck("files"), FakeTier("redis")
    place = Place(stuck, other)
    closing = asyncio.create_task(place.service.aclose())
    await settle()
    assert place.accounts.is_closed
    assert other.is_closed
    assert not place.deployments.is_closed
    stuck.may_close.set()
    await closing
    assert stuck.is_closed
    assert place.deployments.is_closed


async def test_usage_has_no_names_that_callers_made_up() -> None:
    accounts, deployments = Notebook(), FakeDeployments()
    catalog = Catalog([ModelEntry(id="fledge/fake")], allows_any=True)
    service = Service(catalog, deployments, Settings(allow_any_model=True), accounts=accounts)
    for model in ("nobody/has-it", "fledge/fake"):
        deployments.errors[model] = ModelLoadError("it is not there")
        with pytest.raises(ModelLoadError):
            await service.embed(EmbedRequest(inputs=["a"], model=model))
    await service.embed(EmbedRequest(inputs=["a"], model="somebody/has-it"))
    counted = [(one.model, one.errors) for one in accounts.records]
    assert counted == [("", 1), ("fledge/fake", 1), ("somebody/has-it", 0)]


def test_without_a_cache_several_event_loops_may_ask_at_once() -> None:
    backend = FakeBackend()
    settings = Settings(model={"org/not-served-here": {"cache": False}})
    service = Service.over([backend], settings)

    def ask(inputs: Sequence[str]) -> EmbedResponse:
        return asyncio.run(service.embed(EmbedRequest(inputs=inputs)))

    async def from_threads() -> list[EmbedResponse]:
        return await asyncio.gather(*(asyncio.to_thread(ask, ["a", str(n % 3)]) for n in range(20)))

    answers = asyncio.run(from_threads())
    assert len(backend.jobs) == 20
    for number, answer in enumerate(answers):
        alone = ask(["a", str(number % 3)])
        assert answer.vectors.tobytes() == alone.vectors.tobytes()
        assert answer.hit_count == 0
