"""Places are mixed only where they answer in one embedding space."""

import asyncio
from pathlib import Path

import pytest

from fledge.errors import BackendUnavailable, CannotCarry, FledgeError
from fledge.routing.space_book import MAX_AGE_S, RETRY_S, SpaceBook, SpaceRules
from fledge.routing.spaces import (
    mark_of,
)
from fledge.routing.turns import Turn
from fledge.routing.wishes import Route
from fledge.types import ModelCard
from tests.unit.routing.fakes import JOB, MODEL, FakePlace, World, noise, unavailable
from tests.unit.routing.spaces import CHECKED, card, kept, pair
from tests.unit.routing.virtual import clock, run, settle


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
        {"default_prompt_name": "query"},
        {"normalizes": False},
    ],
    ids=str,
)
def test_a_mark_is_of_all_that_changes_vectors(facts: dict[str, object]) -> None:
    assert mark_of(card("local", **facts)) != mark_of(card("local"))
    assert mark_of(card("local", dimension=8, origin="elsewhere")) == mark_of(card("local"))


async def card_at(world: World, name: str) -> ModelCard:
    async def attempt(turn: Turn) -> ModelCard:
        async with turn.use(patience_s=0) as backend:
            return backend.card

    return await world.router.run(MODEL, Route.alone(name), attempt)


def test_a_request_means_the_same_wherever_it_is_answered() -> None:
    """The catalogue has a prompt that the model's own files have not, or the other way round."""

    async def story() -> None:
        own, catalogues = {"query": "Q: "}, {"query": "Represent: ", "other": "O: "}
        local = FakePlace(
            "local", card=card("local", prompts=own, default_prompt_name="query", similarity="dot")
        )
        nebius = FakePlace(
            "nebius", card=card("nebius", prompts=catalogues, normalizes=False, max_seq_length=77)
        )
        world = World(local, nebius, rules=CHECKED)
        assert await card_at(world, "nebius") is nebius.card  # nothing better is known
        await world.ask()
        found = await card_at(world, "nebius")
        assert (found.prompts, found.default_prompt_name) == (own, "query")
        assert (found.normalizes, found.similarity) == (True, "dot")
        assert (found.deployment, found.max_seq_length) == ("nebius", 77)
        assert await card_at(world, "nebius") is found
        assert await card_at(world, "local") is local.card
        await world.teach()
        assert world.router.states(MODEL)[1].relation == "same"

    run(story())


def test_what_a_request_means_outlives_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        local = FakePlace("local", card=card("local", prompts={"query": "Q: "}))
        nebius = pair()[1]
        local.delay_s = nebius.delay_s = 0
        await kept(tmp_path / "spaces.json").check(MODEL, local, nebius)
        world = World(local, nebius, book=kept(tmp_path / "spaces.json"))
        assert (await card_at(world, "nebius")).prompts == {"query": "Q: "}

    asyncio.run(story())


def test_comparisons_under_way_end_with_the_router() -> None:
    async def story() -> None:
        local, nebius = pair()
        nebius.delay_s = 1000
        world = World(local, nebius, rules=CHECKED)
        await world.ask()
        await asyncio.sleep(1)
        began_s = clock()
        await world.router.aclose()
        await settle()
        assert (nebius.running, nebius.cancelled) == (0, 1)
        assert clock() == began_s

    run(story())


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
