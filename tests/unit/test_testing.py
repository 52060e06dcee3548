"""The fake backend keeps the contract of a backend, so that tests against it mean something."""

import asyncio

import numpy as np
import pytest

from fledge.errors import DeadlineExceeded, InputTooLong, InvalidRequest, TooManyInputs
from fledge.testing import FakeBackend, fake_card
from fledge.types import Backend, EmbedJob, EmbedResult, Item, Truncation

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
