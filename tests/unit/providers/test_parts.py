"""Big jobs: split within the provider's limits, sent a few at a time, joined in order."""

import asyncio
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.errors import BackendUnavailable, DeadlineExceeded, ProviderUnavailable
from fledge.providers.lengths import measure
from fledge.providers.parts import PartAnswer, PartLimits, join, split
from fledge.providers.places import Places
from fledge.types import EmbedResult
from tests.providers.troubles import busy
from tests.providers.wire import tokens_of, vector_of
from tests.unit.providers.conftest import PRESET_OF, Backends, Fakes, job

ITEMS = st.lists(
    st.one_of(st.text(max_size=20), st.lists(st.integers(0, 9), min_size=1, max_size=6)),
    min_size=1,
    max_size=60,
)


@given(ITEMS, st.integers(1, 12), st.integers(1, 60))
def test_every_input_is_in_one_part_in_its_order_and_within_the_limits(
    items: list[str | list[int]], max_inputs: int, max_text_bytes: int
) -> None:
    plain = [
        one.encode("utf-8", "replace").decode() if isinstance(one, str) else one for one in items
    ]
    inputs = measure(plain, "p ")
    parts = split(inputs, PartLimits(max_inputs, max_text_bytes))
    assert [one for part in parts for one in part.inputs] == inputs
    assert [part.first for part in parts] == [
        sum(len(before.inputs) for before in parts[:index]) for index in range(len(parts))
    ]
    for part in parts:
        assert 1 <= len(part.inputs) <= max_inputs
        assert len({isinstance(one.item, str) for one in part.inputs}) == 1
        size = sum(one.size_bytes for one in part.inputs)
        assert size <= max_text_bytes or len(part.inputs) == 1
    for part, after in pairwise(parts):
        size = sum(one.size_bytes for one in part.inputs) + after.inputs[0].size_bytes
        is_same_kind = isinstance(part.inputs[0].item, str) == isinstance(after.inputs[0].item, str)
        assert len(part.inputs) == max_inputs or size > max_text_bytes or not is_same_kind


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.booleans())
def test_the_answers_of_parts_are_joined_in_their_order(
    sizes: list[int], is_estimate: bool
) -> None:
    answers, numbers = [], iter(range(100))
    for size in sizes:
        own = [next(numbers) for _ in range(size)]
        answers.append(
            PartAnswer(
                vectors=np.array([[one, one] for one in own], np.float32),
                token_counts=own,
                truncated=[one % 2 == 0 for one in own],
                counts_estimated=is_estimate and size == sizes[-1],
            )
        )
    whole = join(answers, "far")
    every = list(range(sum(sizes)))
    assert whole.vectors[:, 0].tolist() == every
    assert list(whole.token_counts) == every
    assert list(whole.truncated) == [one % 2 == 0 for one in every]
    assert whole.counts_estimated == is_estimate


@pytest.mark.anyio
@pytest.mark.parametrize("flavour", ["openai", "tei", "cohere", "hf-inference"])
async def test_a_big_job_is_several_requests_and_one_answer(
    flavour: str, fakes: Fakes, backends: Backends
) -> None:
    fake = fakes(flavour)
    texts = [f"text number {number}" for number in range(500)]
    result = await backends(fake).embed(job(*texts))
    limits = PRESET_OF[flavour].limits  # type: ignore[index] # it is one of them
    assert len(fake.requests) == -(-500 // limits.max_inputs)
    assert_right(result, texts)


def assert_right(result: EmbedResult, texts: list[str]) -> None:
    lengths = np.linalg.norm(result.vectors, axis=1, keepdims=True)
    expected = np.stack([vector_of(text) for text in texts])
    assert np.allclose(result.vectors / lengths, expected, atol=1e-6)
    assert len(result.token_counts) == len(result.truncated) == len(texts)


@pytest.mark.anyio
async def test_parts_go_out_together_but_no_more_than_may(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    backend = backends(fake, limits=(1, 1000), max_concurrent_requests=3)
    fake.hold()
    texts = [f"t{number}" for number in range(10)]
    running = asyncio.create_task(backend.embed(job(*texts)))
    await asyncio.to_thread(fake.wait_for, 3)
    fake.release()
    assert_right(await running, texts)
    assert fake.most_at_once == 3
    assert fake.connections == 3, "they are used again"


@pytest.mark.anyio
async def test_the_limit_is_shared_by_all_requests(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    backend = backends(fake, limits=(2, 1000), max_concurrent_requests=2)
    results = await asyncio.gather(
        *(backend.embed(job(f"a{n}", f"b{n}", f"c{n}")) for n in range(5))
    )
    for number, result in enumerate(results):
        assert_right(result, [f"a{number}", f"b{number}", f"c{number}"])
    assert fake.most_at_once <= 2


@pytest.mark.anyio
async def test_one_part_that_fails_gives_up_the_others(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    backend = backends(fake, limits=(1, 1000), max_concurrent_requests=2)
    fake.misbehave(busy)
    with pytest.raises(ProviderUnavailable, match="429"):
        await backend.embed(job(*map(str, range(50))))
    assert len(fake.requests) < 10
    assert backend._client.places.taken == 0


@pytest.mark.anyio
async def test_who_gives_up_ends_all_of_its_requests(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    backend = backends(fake, limits=(1, 1000), max_concurrent_requests=2)
    fake.hold()
    running = asyncio.create_task(backend.embed(job("a", "b", "c", "d")))
    await asyncio.to_thread(fake.wait_for, 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.to_thread(fake.wait_for_dropped, 2)
    assert backend._client.places.taken == 0
    fake.release()
    assert_right(await backend.embed(job("e")), ["e"])


@pytest.mark.anyio
async def test_waiting_for_a_place_ends_with_the_deadline(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    backend = backends(fake, max_concurrent_requests=1)
    fake.hold()
    first = asyncio.create_task(backend.embed(job("a")))
    await asyncio.to_thread(fake.wait_for, 1)
    with pytest.raises(DeadlineExceeded):
        await backend.embed(job("b", deadline=time.monotonic() + 0.02))
    fake.release()
    assert_right(await first, ["a"])
    assert len(fake.requests) == 1


@pytest.mark.anyio
async def test_the_times_of_waiting_and_of_the_provider_are_told_apart(
    fakes: Fakes, backends: Backends
) -> None:
    fake = fakes()
    fake.latency_s = 0.01
    backend = backends(fake, max_concurrent_requests=1)
    first, second = await asyncio.gather(backend.embed(job("a")), backend.embed(job("b")))
    assert first.timings.compute_ms >= 9
    assert second.timings.queue_ms >= 9
    assert first.timings.queue_ms < second.timings.queue_ms
    assert first.timings.busy_ms == 0.0


@pytest.mark.anyio
async def test_a_closed_backend_takes_no_more(fakes: Fakes, backends: Backends) -> None:
    backend = backends(fakes())
    assert backend.health().state == "warm"
    await backend.aclose()
    await backend.aclose()
    assert backend.health().state == "cold"
    with pytest.raises(BackendUnavailable):
        await backend.embed(job("a"))


@pytest.mark.anyio
async def test_the_sum_of_the_tokens_is_the_providers_over_all_parts(
    fakes: Fakes, backends: Backends
) -> None:
    texts = [f"{'word ' * (number % 7)}end" for number in range(40)]
    result = await backends(fakes(), limits=(7, 1000)).embed(job(*texts))
    assert sum(result.token_counts) == sum(map(tokens_of, texts))


async def stand(places: Places, priority: int, order: list[int], name: int) -> None:
    async with places.take(priority):
        order.append(name)
        await asyncio.sleep(0)


@pytest.mark.anyio
async def test_places_go_to_the_smaller_priority_and_else_in_turn() -> None:
    places, order = Places(1), list[int]()
    async with places.take(0):
        tasks = [
            asyncio.create_task(stand(places, priority, order, name))
            for name, priority in enumerate([1, 0, 1, 0])
        ]
        await asyncio.sleep(0)
        assert order == []
    await asyncio.gather(*tasks)
    assert order == [1, 3, 0, 2]
    assert places.taken == 0


@pytest.mark.anyio
async def test_a_place_that_is_given_to_who_has_just_left_goes_on_to_the_next() -> None:
    places, order = Places(1), list[int]()
    async with places.take(0):
        leaving = asyncio.create_task(stand(places, 0, order, 1))
        staying = asyncio.create_task(stand(places, 0, order, 2))
        await asyncio.sleep(0)
    leaving.cancel()  # it has the place, and has not woken up yet
    await asyncio.gather(leaving, staying, return_exceptions=True)
    assert order == [2]
    assert places.taken == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=20), st.integers(1, 4))
def test_no_place_is_lost_or_made(waiters: list[tuple[int, bool]], total: int) -> None:
    async def run() -> None:
        places, inside, most = Places(total), 0, 0

        async def stay(priority: int) -> None:
            nonlocal inside, most
            async with places.take(priority):
                inside += 1
                most = max(most, inside)
                try:
                    await asyncio.sleep(0)
                finally:
                    inside -= 1

        tasks = [asyncio.create_task(stay(priority)) for priority, _ in waiters]
        await asyncio.sleep(0)
        for task, (_, leaves) in zip(tasks, waiters, strict=True):
            if leaves:
                task.cancel()
                await asyncio.sleep(0)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        stayed = [one for one, (_, leaves) in zip(done, waiters, strict=True) if not leaves]
        assert all(one is None for one in stayed)
        assert most <= total
        assert places.taken == 0

    asyncio.run(run())
