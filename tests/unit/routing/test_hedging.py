"""Where a second place is asked because the first is slow."""

import asyncio

import pytest

from fledge.errors import CannotCarry, InvalidRequest, ProviderUnavailable
from fledge.routing.options import RouterOptions
from tests.unit.routing.fakes import MODEL, FakePlace, World, unavailable
from tests.unit.routing.virtual import clock, run, settle

HEDGED = RouterOptions(hedge_after_s=0.5)


def places(*delays_s: float, price: int | None = 0) -> list[FakePlace]:
    names = ("local", "nebius", "scaleway")
    return [
        FakePlace(name, delay_s=delay_s, price=price)
        for name, delay_s in zip(names, delays_s, strict=False)
    ]


def test_a_slow_place_gets_company_and_the_first_answer_counts() -> None:
    async def story() -> None:
        local, nebius = places(10, 0.2)
        world = World(local, nebius, options=HEDGED)
        began_s = clock()
        assert await world.ask() == "nebius"
        assert clock() - began_s == pytest.approx(0.7)
        await settle()
        assert (local.cancelled, local.running) == (1, 0)

    run(story())


def test_a_place_that_is_fast_enough_gets_none() -> None:
    async def story() -> None:
        local, nebius = places(0.4, 0.1)
        assert await World(local, nebius, options=HEDGED).ask() == "local"
        assert nebius.jobs == []

    run(story())


def test_the_first_may_still_win() -> None:
    async def story() -> None:
        local, nebius = places(0.6, 10)
        assert await World(local, nebius, options=HEDGED).ask() == "local"
        await settle()
        assert nebius.cancelled == 1

    run(story())


def test_both_count_for_the_health_of_their_places() -> None:
    async def story() -> None:
        local, nebius = places(10, 0.2)
        world = World(local, nebius, options=HEDGED)
        await world.ask()
        await settle()
        slow, fast = (state.health for state in world.router.states(MODEL))
        assert slow.request_ms == pytest.approx(700)  # as long as it was waited for
        assert fast.request_ms == pytest.approx(200)

    run(story())


def test_at_most_two_are_asked_at_once() -> None:
    async def story() -> None:
        local, nebius, scaleway = places(10, 10, 0.1)
        assert await World(local, nebius, scaleway, options=HEDGED).ask() == "local"
        assert scaleway.jobs == []

    run(story())


def test_one_that_fails_leaves_the_other_to_answer() -> None:
    async def story() -> None:
        local, nebius = places(1, 1)
        nebius.error = unavailable("nebius")
        assert await World(local, nebius, options=HEDGED).ask() == "local"
        local.error, nebius.error = unavailable("local"), None
        assert await World(local, nebius, options=HEDGED).ask() == "nebius"

    run(story())


def test_when_both_fail_the_next_is_asked() -> None:
    async def story() -> None:
        local, nebius, scaleway = places(1, 1, 0.1)
        local.error, nebius.error = CannotCarry("no"), unavailable("nebius")
        world = World(local, nebius, scaleway, options=HEDGED)
        assert await world.ask() == "scaleway"

    run(story())


def test_a_good_answer_goes_before_an_error_that_comes_with_it() -> None:
    async def story() -> None:
        local, nebius = places(1, 0.5)
        local.error = InvalidRequest("no")
        assert await World(local, nebius, options=HEDGED).ask() == "nebius"
        local.delay_s, nebius.delay_s = 0.75, 0.25
        assert await World(nebius, local, options=HEDGED).ask() == "nebius"

    run(story())


def test_an_error_of_the_clients_ends_both() -> None:
    async def story() -> None:
        local, nebius = places(1, 10)
        local.error = InvalidRequest("no")
        with pytest.raises(InvalidRequest):
            await World(local, nebius, options=HEDGED).ask()
        await settle()
        assert nebius.cancelled == 1

    run(story())


def test_a_client_that_leaves_ends_both() -> None:
    async def story() -> None:
        local, nebius = places(10, 10)
        task = asyncio.create_task(World(local, nebius, options=HEDGED).ask())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle()
        assert (local.cancelled, nebius.cancelled) == (1, 1)

    run(story())


@pytest.mark.parametrize("price", [50, None])
def test_a_place_that_is_too_dear_is_no_second_but_still_stands_in(price: int | None) -> None:
    async def story() -> None:
        local, nebius = places(1, 0.1, price=price)
        options = RouterOptions(hedge_after_s=0.5, hedge_price_limit_nanos=49)
        world = World(local, nebius, options=options)
        assert await world.ask() == "local"
        assert nebius.jobs == []
        local.error = unavailable("local")
        assert await world.ask() == "nebius"

    run(story())


def test_a_model_may_be_hedged_by_itself() -> None:
    options = RouterOptions(hedge_after_s=1.0, hedge_after_s_by_model={MODEL.id: None})
    assert (options.hedge_s(MODEL.id), options.hedge_s("org/other")) == (None, 1.0)


def test_a_cold_model_gets_company_while_it_loads() -> None:
    async def story() -> None:
        local, nebius = places(0.1, 0.2)
        local.loading_s = 1.9
        world = World(local, nebius, options=HEDGED)
        began_s = clock()
        assert await world.ask() == "nebius"
        assert clock() - began_s == pytest.approx(0.7)

    run(story())


def test_when_all_fail_there_is_another_round() -> None:
    async def story() -> None:
        local, nebius = places(1, 1)
        local.errors, nebius.errors = [unavailable("local")], [unavailable("nebius")]
        assert await World(local, nebius, options=HEDGED).ask() == "local"
        local.error = nebius.error = unavailable("both", 429, 100.0)
        with pytest.raises(ProviderUnavailable):
            await World(local, nebius, options=HEDGED).ask()

    run(story())


def test_nothing_goes_on_after_the_end() -> None:
    async def story() -> None:
        local, nebius = places(10, 10)
        world = World(local, nebius, options=HEDGED)
        task = asyncio.create_task(world.ask())
        await asyncio.sleep(1)
        await world.router.aclose()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (local.running, nebius.running) == (0, 0)

    run(story())
