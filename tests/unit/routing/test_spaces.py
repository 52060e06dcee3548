"""Places are mixed only where they answer in one embedding space."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.errors import BackendUnavailable, CannotCarry, FledgeError
from fledge.routing.places import Place
from fledge.routing.space_book import MAX_AGE_S, RETRY_S, SpaceBook, SpaceRules
from fledge.routing.spaces import (
    MOST_PROMPTS,
    PROMPTED_TEXTS,
    TEXTS,
    Verdict,
    compare,
    mark_of,
    text_count,
)
from fledge.routing.verdict_file import VerdictFile
from fledge.routing.wishes import Route
from fledge.testing import fake_card
from fledge.types import EmbedJob, EmbedResult, ModelCard, Vectors
from tests.unit.routing.fakes import JOB, MODEL, FakePlace, World, noise, unavailable
from tests.unit.routing.virtual import clock, run, settle

CHECKED = SpaceRules()
LONG = 256


def card(name: str, **facts: object) -> ModelCard:
    """Of a model whose texts are not cut, so that long ones differ."""
    usual: dict[str, Any] = {"max_seq_length": LONG, "dimension": 64}
    return fake_card(id=MODEL.id, deployment=name, **usual | facts)


def pair(**facts: object) -> tuple[FakePlace, FakePlace]:
    return (
        FakePlace("local", card=card("local")),
        FakePlace("nebius", card=card("nebius", **facts)),
    )


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
    local = FakePlace("local", card=card("local", normalizes=False))
    assert verdict_of(local, pair()[1]).differences(0.99)


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


def a_verdict(**facts: Any) -> Verdict:
    usual: dict[str, Any] = {
        "reference": "local",
        "place": "nebius",
        "dimensions": (64, 64),
        "least_cosine": 0.995,
        "length_ratio": 1.0,
        "texts": 9,
        "tokens": 200,
        "checked_at": 0.0,
        "marks": ("a", "b"),
    }
    return Verdict(**usual | facts)


def test_what_is_no_number_is_no_likeness() -> None:
    assert a_verdict(least_cosine=float("nan")).differences(0.0)
    assert a_verdict(length_ratio=float("nan")).differences(0.0)


def test_an_unverified_place_does_not_stand_in() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.error = unavailable("local")
        world = World(local, nebius, rules=CHECKED)
        with pytest.raises(FledgeError, match="local answered 503"):
            await world.ask()
        assert nebius.jobs == []

    run(story())


def test_after_the_first_answer_the_others_are_compared_beside_the_requests() -> None:
    async def story() -> None:
        local, nebius = pair()
        world = World(local, nebius, rules=CHECKED)
        began_s = clock()
        await world.ask()
        assert clock() - began_s == pytest.approx(0.1)
        await asyncio.sleep(10)
        assert world.router.states(MODEL)[1].relation == "same"
        local.error = unavailable("local")
        assert await world.ask() == "nebius"

    run(story())


def test_a_place_in_another_space_never_stands_in() -> None:
    async def story() -> None:
        local, nebius = pair()
        nebius.twist = noise(0.3)
        world = World(local, nebius, rules=CHECKED)
        await world.teach()
        state = world.router.states(MODEL)[1]
        assert state.relation == "differs"
        assert state.verdict is not None
        assert state.verdict.least_cosine < 0.99
        assert "cosine" in state.differences[0]
        local.error, sent = unavailable("local"), len(nebius.jobs)
        with pytest.raises(FledgeError, match="local answered 503"):
            await world.ask()
        assert len(nebius.jobs) == sent
        for policy in (Route(policy="fastest"), Route(policy="cheapest"), Route(("nebius",))):
            assert [one.name for one in world.router.candidates(MODEL, policy)] == ["local"]
        assert await world.ask(Route.alone("nebius")) == "nebius"  # who names it, mixes nothing

    run(story())


def test_how_much_likeness_is_asked_for_is_a_setting() -> None:
    async def story() -> None:
        local, nebius = pair()
        nebius.twist = noise(0.03)
        for rules, relation in ((CHECKED, "same"), (SpaceRules(min_cosine=0.99999), "differs")):
            world = World(local, nebius, rules=rules)
            await world.teach()
            assert world.router.states(MODEL)[1].relation == relation

    run(story())


def test_where_nothing_is_checked_everything_is_one_space() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.error = unavailable("local")
        world = World(local, nebius, rules=SpaceRules(is_checked=False))
        assert await world.ask() == "nebius"
        local.error = None
        await world.teach()
        assert [job.items for job in nebius.jobs] == [JOB.items]

    run(story())


def test_a_request_that_the_reference_cannot_carry_waits_for_the_comparison() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.errors = [CannotCarry("no")]
        world = World(local, nebius, rules=CHECKED)
        assert await world.ask() == "nebius"
        nebius.twist = noise(0.3)
        other = World(local, nebius, rules=CHECKED)
        local.errors = [CannotCarry("no")]
        with pytest.raises(CannotCarry):
            await other.ask()

    run(story())


def test_a_reference_that_is_down_is_not_compared_with() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.errors = [BackendUnavailable("gone")]
        with pytest.raises(BackendUnavailable):
            await World(local, nebius, rules=CHECKED).ask()
        assert nebius.jobs == []

    run(story())


def test_a_cold_reference_is_not_loaded_for_a_comparison() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.loading_s = 60
        world = World(local, nebius, rules=CHECKED)
        assert (await world.router.test(MODEL, "nebius")).relation == "unknown"
        assert local.patiences_s == [0]

    run(story())


def test_a_pair_is_compared_once_at_a_time() -> None:
    async def story() -> None:
        local, nebius = pair()
        world = World(local, nebius, rules=CHECKED)
        checks = [world.book.check(MODEL, local, nebius) for _ in range(5)]
        assert len({id(one) for one in await asyncio.gather(*checks)}) == 1
        assert len(nebius.jobs) == 3

    run(story())


def test_who_leaves_does_not_end_a_comparison_for_others() -> None:
    async def story() -> None:
        local, nebius = pair()
        book = SpaceBook(clock=clock)
        first, second = (asyncio.create_task(book.check(MODEL, local, nebius)) for _ in range(2))
        await asyncio.sleep(0.15)
        first.cancel()
        assert (await second).texts == 9

    run(story())


def test_a_comparison_that_fails_is_tried_again_later_not_with_every_request() -> None:
    async def story() -> None:
        local, nebius = pair()
        nebius.error = unavailable("nebius")
        world = World(local, nebius, rules=CHECKED)
        for _ in range(5):
            await world.teach()
        assert len(nebius.jobs) == 1
        nebius.error = None
        await asyncio.sleep(RETRY_S)
        await world.teach()
        assert world.router.states(MODEL)[1].relation == "same"

    run(story())


def test_a_comparison_that_never_ends_is_given_up() -> None:
    async def story() -> None:
        local, nebius = pair()
        nebius.delay_s = 1e6
        with pytest.raises(BackendUnavailable, match="within 60 s"):
            await SpaceBook(clock=clock).check(MODEL, local, nebius)

    run(story())


def test_an_old_verdict_holds_until_there_is_a_new_one() -> None:
    async def story() -> None:
        local, nebius = pair()
        world = World(local, nebius, rules=CHECKED)
        await world.teach()
        nebius.twist = noise(0.3)
        await world.teach()
        assert world.router.states(MODEL)[1].relation == "same"
        await asyncio.sleep(MAX_AGE_S)
        await world.teach()
        assert world.router.states(MODEL)[1].relation == "differs"

    run(story())


def test_a_model_that_changes_is_compared_anew() -> None:
    async def story() -> None:
        local, nebius = pair()
        world = World(local, nebius, rules=CHECKED)
        await world.teach()
        local.card = card("local", revision="another")
        await world.ask()
        assert world.router.states(MODEL)[1].relation == "unknown"
        await asyncio.sleep(RETRY_S)
        await world.teach()
        assert world.router.states(MODEL)[1].relation == "same"

    run(story())


@pytest.mark.parametrize(
    "facts",
    [
        {"revision": "b"},
        {"precision": "int8"},
        {"arithmetic": "2"},
        {"provider_id": "x"},
        {"prompts": {"query": "Q: "}},
    ],
    ids=str,
)
def test_a_mark_is_of_all_that_changes_vectors(facts: dict[str, object]) -> None:
    assert mark_of(card("local", **facts)) != mark_of(card("local"))
    assert mark_of(card("local", dimension=8, origin="elsewhere")) == mark_of(card("local"))


def test_comparisons_under_way_end_with_the_router() -> None:
    async def story() -> None:
        local, nebius = pair()
        nebius.delay_s = 1000
        world = World(local, nebius, rules=CHECKED)
        await world.ask()
        await asyncio.sleep(1)
        await world.router.aclose()
        await settle()
        assert (nebius.running, nebius.cancelled) == (0, 1)

    run(story())


def kept(path: Path) -> SpaceBook:
    return SpaceBook(CHECKED, VerdictFile(path), clock=lambda: 1e9)


def test_a_restart_remembers_so_that_a_provider_answers_while_the_model_loads(
    tmp_path: Path,
) -> None:
    path = tmp_path / "folder" / "spaces.json"

    async def first() -> None:
        local, nebius = pair()
        local.delay_s = nebius.delay_s = 0
        await kept(path).check(MODEL, local, nebius)

    async def second() -> None:
        local, nebius = pair()
        local.loading_s = local.delay_s = nebius.delay_s = 0.01
        world = World(local, nebius, book=kept(path))
        world.patience_s = 0
        assert await world.ask() == "nebius"

    asyncio.run(first())
    assert [one.name for one in path.parent.iterdir()] == ["spaces.json"]
    asyncio.run(second())


def test_a_restart_with_other_files_forgets_once_they_are_seen(tmp_path: Path) -> None:
    async def story() -> None:
        local, nebius = pair()
        local.delay_s = nebius.delay_s = 0
        await kept(tmp_path / "spaces.json").check(MODEL, local, nebius)
        book = kept(tmp_path / "spaces.json")
        assert book.relation(MODEL.id, "local", "nebius") == "same"
        book.note(MODEL.id, "local", card("local", revision="another"))
        assert book.relation(MODEL.id, "local", "nebius") == "unknown"

    asyncio.run(story())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"version": 2, "verdicts": [{}]}', b'{"version": 1}', b"\xff",
     b'{"version": 1, "verdicts": [{"model": "a"}]}', b"[" * 100_000,
     b'{"version": 1, "verdicts": 5}'],
    ids=lambda content: repr(content[:36]),
)  # fmt: skip
def test_a_damaged_file_counts_as_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spaces.json"
    path.write_bytes(content)
    file = VerdictFile(path)
    assert file.read() == {}
    verdicts = {("m", "local", "nebius"): a_verdict()}
    file.write(verdicts)
    assert file.read() == verdicts
    assert json.loads(path.read_bytes())["version"] == 1


def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = VerdictFile(tmp_path / "file" / "spaces.json")
    file.write({})
    assert file.read() == {}
