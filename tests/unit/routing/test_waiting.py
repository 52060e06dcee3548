"""What is tried again, what is waited for, and what is left alone."""

import asyncio

import pytest

from fledge.errors import (
    ComputeError,
    DeadlineExceeded,
    ModelLoadError,
    ProviderDenied,
    ProviderRefused,
    ProviderUnavailable,
)
from fledge.routing.options import RouterOptions
from fledge.routing.wishes import Route
from tests.unit.routing.fakes import MODEL, FakePlace, World, unavailable
from tests.unit.routing.virtual import clock, run, settle

NEBIUS_ALONE = Route.alone("nebius")


def pair() -> tuple[FakePlace, FakePlace]:
    return FakePlace("local"), FakePlace("nebius")


def test_all_are_asked_again_after_a_pause_while_there_is_time() -> None:
    async def story() -> None:
        local, nebius = FakePlace("together"), FakePlace("nebius")
        local.errors = [unavailable("together")] * 2
        nebius.errors = [unavailable("nebius")] * 2
        world = World(local, nebius)
        assert await world.ask() == "together"
        gaps_s = [b - a for a, b in zip(local.asked_s, local.asked_s[1:], strict=False)]
        assert gaps_s == pytest.approx([0.4, 0.6])  # 0.2 of failing, and 0.2 and 0.4 of pauses

    run(story())


def test_rounds_are_bounded() -> None:
    async def story() -> None:
        nebius = FakePlace("nebius")
        nebius.error = unavailable("nebius")
        with pytest.raises(ProviderUnavailable):
            await World(nebius).ask(timeout_s=None)
        assert len(nebius.jobs) == 3

    run(story())


def test_a_place_that_says_when_to_come_again_is_asked_then() -> None:
    async def story() -> None:
        nebius = FakePlace("nebius")
        nebius.errors = [unavailable("nebius", 429, 3.0)]
        assert await World(nebius).ask() == "nebius"
        assert nebius.asked_s[1] - nebius.asked_s[0] == pytest.approx(3.1)

    run(story())


@pytest.mark.parametrize(("retry_after_s", "timeout_s"), [(30.0, 120.0), (3.0, 2.0)])
def test_nobody_waits_for_what_would_come_too_late(retry_after_s: float, timeout_s: float) -> None:
    async def story() -> None:
        nebius = FakePlace("nebius")
        nebius.error = unavailable("nebius", 429, retry_after_s)
        world = World(nebius)
        began_s = clock()
        with pytest.raises(ProviderUnavailable) as raised:
            await world.ask(timeout_s=timeout_s)
        assert clock() - began_s == pytest.approx(0.1)
        assert raised.value.retry_after_s == retry_after_s
        with pytest.raises(ProviderUnavailable) as raised:
            await world.ask(timeout_s=timeout_s)
        assert raised.value.retry_after_s == pytest.approx(retry_after_s)
        assert len(nebius.jobs) == 1  # it was not asked again

    run(story())


def test_a_place_that_rests_is_passed_over_and_tried_by_one_afterwards() -> None:
    async def story() -> None:
        nebius, scaleway = FakePlace("nebius"), FakePlace("scaleway")
        nebius.error = unavailable("nebius")
        world = World(nebius, scaleway)
        for _ in range(10):
            assert await world.ask() == "scaleway"
        assert len(nebius.jobs) == 3
        await asyncio.sleep(1)
        tasks = [asyncio.create_task(world.ask()) for _ in range(20)]
        await asyncio.gather(*tasks)
        assert (len(nebius.jobs), nebius.most_running) == (4, 1)
        nebius.error = None
        await asyncio.sleep(2)
        assert await world.ask() == "nebius"

    run(story())


def test_those_who_find_a_place_being_tried_wait_for_what_comes_of_it() -> None:
    async def story() -> None:
        nebius = FakePlace("nebius")
        world = World(nebius)
        nebius.errors = [unavailable("nebius")] * 3
        with pytest.raises(ProviderUnavailable):
            await world.ask()
        tasks = [asyncio.create_task(world.ask()) for _ in range(10)]
        await asyncio.sleep(1.05)
        assert nebius.running == 1
        assert await asyncio.gather(*tasks) == ["nebius"] * 10

    run(story())


def test_the_own_engine_is_never_left_alone_when_nobody_else_is_well() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.error, nebius.error = ComputeError("no"), unavailable("nebius", 429, 1000)
        world = World(local, nebius)
        for _ in range(5):
            with pytest.raises((ProviderUnavailable, ComputeError)):
                await world.ask()
        assert [state.health.state for state in world.router.states(MODEL)] == ["resting"] * 2
        local.error = None
        began_s = clock()
        assert await world.ask() == "local"
        assert clock() - began_s == pytest.approx(0.1)

    run(story())


def test_a_key_that_is_not_accepted_is_not_sent_with_every_request() -> None:
    async def story() -> None:
        local, nebius = pair()
        nebius.error = ProviderDenied("no such key", provider="nebius", status=401)
        world = World(nebius, local)
        for _ in range(5):
            assert await world.ask() == "local"
        assert len(nebius.jobs) == 1
        state = world.router.states(MODEL)[0]
        assert (state.health.state, state.health.last_status) == ("resting", 401)
        with pytest.raises(ProviderUnavailable) as raised:
            await world.ask(NEBIUS_ALONE)
        assert "no such key" in state.health.last_error  # for the operator alone
        assert "no such key" not in str(raised.value)

    run(story())


def test_a_refused_request_does_not_count_against_the_place() -> None:
    async def story() -> None:
        nebius = FakePlace("nebius")
        nebius.error = ProviderRefused("no", provider="nebius", status=400)
        world = World(nebius)
        for _ in range(10):
            with pytest.raises(ProviderRefused):
                await world.ask()
        assert world.router.states(MODEL)[0].health.state == "well"

    run(story())


def test_a_request_that_gets_no_answer_in_time_is_told_so() -> None:
    async def story() -> None:
        local = FakePlace("local", delay_s=100)
        began_s = clock()
        with pytest.raises(DeadlineExceeded, match="within 10 s"):
            await World(local).ask(timeout_s=10.0)
        assert clock() - began_s == pytest.approx(10.5)  # with half a second of grace
        assert local.cancelled == 1

    run(story())


def test_a_slow_place_gives_way_to_another_where_the_settings_say_how_long_it_may_take() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.delay_s = 1000
        world = World(local, nebius, options=RouterOptions(attempt_timeout_s=5))
        assert await world.ask() == "nebius"
        assert local.cancelled == 1
        assert "within 5 s" in world.router.states(MODEL)[0].health.last_error

    run(story())


def test_nobody_is_asked_in_the_grace_after_the_deadline() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.delay_s, local.error = 5.2, unavailable("local")
        with pytest.raises(ProviderUnavailable):
            await World(local, nebius).ask(timeout_s=5.0)
        assert nebius.jobs == []

    run(story())


def test_a_place_that_began_to_rest_meanwhile_is_passed_over() -> None:
    async def story() -> None:
        local, nebius, scaleway = *pair(), FakePlace("scaleway")
        local.delay_s, local.error = 5, unavailable("local")
        nebius.error = unavailable("nebius", 429, 60.0)
        world = World(local, nebius, scaleway)
        first = asyncio.create_task(world.ask())
        await asyncio.sleep(1)
        with pytest.raises(ProviderUnavailable):
            await world.ask(NEBIUS_ALONE)
        assert await first == "scaleway"
        assert len(nebius.jobs) == 1

    run(story())


def test_a_place_that_rests_is_waited_for_when_all_others_have_failed() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.error = ModelLoadError("no")
        nebius.errors = [unavailable("nebius", 429, 3.0)]
        world = World(local, nebius)
        with pytest.raises(ProviderUnavailable):
            await world.ask(NEBIUS_ALONE, timeout_s=1.0)
        began_s = clock()
        assert await world.ask() == "nebius"
        assert clock() - began_s == pytest.approx(3.1)

    run(story())


def test_a_place_that_rests_is_no_candidate_beside_one_that_is_well() -> None:
    async def story() -> None:
        nebius, scaleway = FakePlace("nebius"), FakePlace("scaleway")
        nebius.error = unavailable("nebius", 429, 60.0)
        world = World(nebius, scaleway)
        await world.ask()
        assert [one.name for one in world.router.candidates(MODEL)] == ["scaleway"]
        scaleway.error = unavailable("scaleway", 429, 30.0)
        with pytest.raises(ProviderUnavailable):
            await world.ask()
        assert [one.name for one in world.router.candidates(MODEL)] == ["scaleway", "nebius"]

    run(story())


def test_a_trial_whose_client_leaves_is_taken_over() -> None:
    async def story() -> None:
        nebius = FakePlace("nebius")
        nebius.errors = [unavailable("nebius", 429, 1.0)]
        world = World(nebius)
        with pytest.raises(ProviderUnavailable):
            await world.ask(timeout_s=0.5)
        await asyncio.sleep(1)
        nebius.delay_s = 100
        trial = asyncio.create_task(world.ask())
        await settle()
        other = asyncio.create_task(world.ask())
        await asyncio.sleep(1)
        nebius.delay_s = 0.1
        began_s = clock()
        trial.cancel()
        assert await other == "nebius"
        assert clock() - began_s == pytest.approx(0.1)

    run(story())


def test_a_client_that_leaves_takes_its_request_along() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.delay_s = 1000
        task = asyncio.create_task(World(local, nebius).ask())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (local.cancelled, len(nebius.jobs)) == (1, 0)

    run(story())


def test_a_client_that_leaves_during_a_pause_is_let_go() -> None:
    async def story() -> None:
        nebius = FakePlace("nebius")
        nebius.error = unavailable("nebius", 429, 4.0)
        task = asyncio.create_task(World(nebius).ask())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(10)
        assert len(nebius.jobs) == 1

    run(story())


def test_what_is_spent_is_not_asked() -> None:
    async def story() -> None:
        left: dict[str, int | None] = {"local": None, "nebius": 1}
        nebius, local = FakePlace("nebius"), FakePlace("local")
        world = World(nebius, local, budget_left=left.get)
        assert await world.ask() == "nebius"
        left["nebius"] = 0
        assert await world.ask() == "local"
        with pytest.raises(ProviderUnavailable, match="what nebius may cost this month is spent"):
            await world.ask(NEBIUS_ALONE)
        assert world.router.states(MODEL)[0].budget_left_nanos == 0

    run(story())


def test_a_listing_says_how_every_place_does() -> None:
    async def story() -> None:
        world = World(FakePlace("local"), FakePlace("nebius", price=10))
        await world.ask()
        local, nebius = world.router.states(MODEL)
        assert (local.name, local.relation, local.health.successes) == ("local", "reference", 1)
        assert local.health.request_ms == pytest.approx(100)
        assert (nebius.price_nanos_per_million_tokens, nebius.health.request_ms) == (10, None)

    run(story())


def test_a_test_of_a_place_lets_it_be_asked_again() -> None:
    async def story() -> None:
        local, nebius = pair()
        world = World(nebius, local)
        nebius.errors = [ProviderDenied("no", provider="nebius", status=401)] * 2
        await world.ask()
        with pytest.raises(ProviderDenied):
            await world.router.test(MODEL, "nebius")
        assert await world.ask() == "local"
        assert (await world.router.test(MODEL, "nebius")).health.state == "well"
        assert await world.ask() == "nebius"

    run(story())


def test_models_of_one_place_leave_no_trace() -> None:
    """Where any model of the hub may be named, their number has no end."""

    async def story() -> None:
        world = World(FakePlace("local"))
        for _ in range(3):
            await world.ask()
        assert world.router.states(MODEL)[0].health.successes == 0

    run(story())
