"""What a comparison of two places measures."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.errors import CannotCarry
from fledge.routing.places import Place
from fledge.routing.spaces import (
    MOST_PROMPTS,
    PROMPTED_TEXTS,
    TEXTS,
    Verdict,
    compare,
    text_count,
)
from fledge.types import EmbedJob, EmbedResult, Vectors
from fledge.vectors import normalize
from tests.unit.routing.fakes import MODEL, FakePlace, noise
from tests.unit.routing.spaces import a_verdict, card, pair
from tests.unit.routing.virtual import run


def verdict_of(local: Place, nebius: Place) -> Verdict:
    return run(compare(MODEL, local, nebius, checked_at=0.0))


def test_equal_places_are_one_space() -> None:
    verdict = verdict_of(*pair())
    assert verdict.least_cosine == pytest.approx(1)
    assert verdict.length_ratio == pytest.approx(1)
    assert verdict.dimensions == (64, 64)
    assert verdict.differences(0.999) == []


def test_a_comparison_costs_a_few_short_texts_and_says_so() -> None:
    local, nebius = pair()
    verdict = verdict_of(local, nebius)
    sent = [text for job in nebius.jobs for text in job.items]
    assert len(sent) == verdict.texts == text_count(local.card) == 5 + 2 * 2
    assert {job.prompt for job in nebius.jobs} == {None, "query: ", "document: "}
    assert verdict.tokens > 0
    assert all(job.priority > 0 for job in local.jobs)  # requests go first


def test_of_many_prompts_some_are_compared() -> None:
    prompts = {f"task {number}": f"task {number}: " for number in range(50)}
    many = card("local", prompts=prompts | {"none": "", "again": "task 0: "})
    assert text_count(many) == len(TEXTS) + MOST_PROMPTS * len(PROMPTED_TEXTS)


class Forgetful(FakePlace):
    """A place that drops prompts in silence."""

    async def embed(self, job: EmbedJob) -> EmbedResult:
        return await super().embed(replace(job, prompt=None))


def test_a_place_that_drops_prompts_differs() -> None:
    local, nebius = pair()[0], Forgetful("nebius", card=card("nebius"))
    assert "cosine" in verdict_of(local, nebius).differences(0.99)[0]


def test_another_dimension_differs() -> None:
    verdict = verdict_of(*pair(dimension=32))
    assert verdict.differences(0.0) == ["vectors of 32 numbers instead of 64"]


@pytest.mark.parametrize(
    ("twist", "is_same"),
    [
        (noise(0.01), True),
        (noise(0.3), False),
        (lambda vectors: vectors * 2, True),  # the model normalizes
        (lambda vectors: -vectors, False),
        (lambda vectors: vectors * 0, False),
        (lambda vectors: np.roll(vectors, 1, axis=0), False),
    ],
    ids=["precision", "noise", "longer", "turned", "nothing", "order"],
)
def test_what_is_not_alike_differs(twist: Callable[[Vectors], Vectors], is_same: bool) -> None:
    local, nebius = pair()
    nebius.twist = twist
    assert (verdict_of(local, nebius).differences(0.99) == []) == is_same


@pytest.mark.parametrize(("factor", "is_same"), [(1.001, True), (1.05, False), (0.5, False)])
def test_lengths_count_where_the_model_does_not_normalize(factor: float, is_same: bool) -> None:
    local = FakePlace("local", card=card("local", normalizes=False))
    nebius = FakePlace("nebius", card=card("nebius", normalizes=False))
    nebius.twist = lambda vectors: vectors * np.float32(factor)
    verdict = verdict_of(local, nebius)
    assert verdict.length_ratio == pytest.approx(factor, rel=1e-5)
    assert (verdict.differences(0.99) == []) == is_same


def test_a_place_that_normalizes_where_the_model_does_not_differs() -> None:
    local, nebius = FakePlace("local", card=card("local", normalizes=False)), pair()[1]
    nebius.twist = normalize
    assert "times as long" in verdict_of(local, nebius).differences(0.99)[0]


def test_who_names_no_prompt_gets_the_default_one_and_so_does_the_comparison() -> None:
    local = FakePlace("local", card=card("local", default_prompt_name="query"))
    nebius = pair()[1]  # the catalogue knows of no default
    verdict = verdict_of(local, nebius)
    assert verdict.differences(0.99) == []
    assert [(job.prompt, len(job.items)) for job in nebius.jobs] == [
        ("query: ", 5),
        (None, 2),
        ("document: ", 2),
    ]


def test_what_a_place_cannot_be_asked_is_not_compared() -> None:
    local, nebius = pair()
    nebius.errors = [None, CannotCarry("no prompts here"), CannotCarry("no prompts here")]
    verdict = verdict_of(local, nebius)
    assert (verdict.texts, verdict.differences(0.99)) == (len(TEXTS), [])


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_stricter_setting_never_lets_more_through(first: float, second: float) -> None:
    low, high = sorted((first, second))
    verdict = a_verdict(least_cosine=0.5)
    assert not verdict.differences(high) or verdict.differences(low) or high > 0.5
    assert len(verdict.differences(low)) <= len(verdict.differences(high))


def test_what_is_no_number_is_no_likeness() -> None:
    assert a_verdict(least_cosine=float("nan")).differences(0.0)
    assert a_verdict(length_ratio=float("nan")).differences(0.0)
