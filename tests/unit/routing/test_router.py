"""Who answers, and whose error is told when nobody does."""

import asyncio

import pytest

from fledge.errors import (
    BackendUnavailable,
    CannotCarry,
    ComputeError,
    DeadlineExceeded,
    FledgeError,
    Forbidden,
    InputTooLong,
    InvalidRequest,
    LimitExceeded,
    ModelLoadError,
    ModelLoading,
    OutOfMemory,
    Overloaded,
    ProviderDenied,
    ProviderRefused,
    ProviderUnavailable,
    Stopping,
    UnknownModel,
)
from fledge.routing.options import RouterOptions
from fledge.routing.wishes import Route
from tests.unit.routing.fakes import MODEL, FakePlace, World, unavailable
from tests.unit.routing.virtual import clock, run, settle

NEBIUS_ALONE = Route.alone("nebius")


def pair() -> tuple[FakePlace, FakePlace]:
    return FakePlace("local"), FakePlace("nebius")


FALLS_BACK = [
    unavailable("local"),
    unavailable("local", None),
    unavailable("local", 408),
    unavailable("local", 409),
    unavailable("local", 429, 7.0),
    ProviderDenied("no", provider="local", status=401),
    CannotCarry("no token ids here", field="input"),
    BackendUnavailable("being unloaded"),
    ComputeError("not finite"),
    Overloaded("too much", retry_after_s=3),
    ConnectionRefusedError("nobody"),
    TimeoutError(),
]


@pytest.mark.parametrize("error", FALLS_BACK, ids=repr)
def test_another_place_answers_for_one_that_cannot(error: Exception) -> None:
    async def story() -> None:
        local, nebius = pair()
        local.error = error
        world = World(local, nebius)
        assert await world.ask() == "nebius"
        assert (len(local.jobs), len(nebius.jobs)) == (1, 1)

    run(story())


FINAL = [
    InvalidRequest("no"),
    InputTooLong("no"),
    ProviderRefused("no", provider="local", status=400),
    ProviderRefused("nor this", provider="local", status=422),
    Forbidden("no"),
    LimitExceeded("no", limit="tokens", allowed=1, used=1, retry_after_s=1),
    Stopping("no"),
    DeadlineExceeded("no"),
    UnknownModel("no"),
    ValueError("a mistake of ours"),
]


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_nobody_else_is_asked_where_the_request_is_at_fault(error: Exception) -> None:
    async def story() -> None:
        local, nebius = pair()
        local.error = error
        world = World(local, nebius)
        with pytest.raises(type(error)) as raised:
            await world.ask()
        assert raised.value is error
        assert (len(local.jobs), len(nebius.jobs)) == (1, 0)

    run(story())


@pytest.mark.parametrize("error", [ModelLoadError("no"), OutOfMemory("too large")])
def test_a_model_that_cannot_be_loaded_is_answered_elsewhere(error: FledgeError) -> None:
    async def story() -> None:
        local, nebius = pair()
        local.load_error = error
        assert await World(local, nebius).ask() == "nebius"

    run(story())


def test_a_cold_model_is_waited_for_only_shortly_where_another_place_can_answer() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.loading_s = 60
        world = World(local, nebius)
        began_s = clock()
        assert await world.ask() == "nebius"
        assert clock() - began_s == pytest.approx(2.1)
        assert await world.ask() == "nebius"
        assert clock() - began_s == pytest.approx(2.2)  # it is known to be loading
        await asyncio.sleep(60)
        assert await world.ask() == "local"
        assert local.patiences_s == [2.0, 0.0, 2.0]

    run(story())


def test_a_cold_model_is_waited_for_in_full_when_nobody_else_answers() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.loading_s, nebius.error = 60, unavailable("nebius")
        world = World(local, nebius)
        assert await world.ask(timeout_s=5.0) == "local"
        assert local.patiences_s[-1] == world.patience_s

    run(story())


def test_who_would_not_wait_for_a_cold_model_need_not() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.loading_s, nebius.error = 60, unavailable("nebius")
        world = World(local, nebius)
        world.patience_s = 0
        with pytest.raises(ModelLoading):
            await world.ask()

    run(story())


def test_alone_the_own_engine_is_asked_once_and_waited_for_as_before() -> None:
    async def story() -> None:
        local = FakePlace("local")
        local.loading_s = 60
        world = World(local)
        assert await world.ask(timeout_s=1.0) == "local"
        for error in (Overloaded("busy", retry_after_s=1), BackendUnavailable("gone")):
            local.error = error
            with pytest.raises(type(error)):
                await world.ask()
        assert len(local.jobs) == 3

    run(story())


def test_what_is_wished_for_is_asked_first_or_alone() -> None:
    async def story() -> None:
        places = [FakePlace(name) for name in ("local", "nebius", "scaleway")]
        world = World(*places)
        assert await world.ask(NEBIUS_ALONE) == "nebius"
        assert await world.ask(Route(("scaleway",))) == "scaleway"
        world.places["nebius"].error = unavailable("nebius")
        with pytest.raises(ProviderUnavailable, match="nebius"):
            await world.ask(NEBIUS_ALONE)
        assert len(world.places["local"].jobs) == 0

    run(story())


def test_a_place_where_the_model_is_not_cannot_be_wished_for() -> None:
    async def story() -> None:
        world = World(*pair())
        with pytest.raises(UnknownModel, match='not at "scaleway" here; it is at local, nebius'):
            await world.ask(Route.alone("scaleway"))
        with pytest.raises(UnknownModel, match="runs nowhere"):
            await World().ask()

    run(story())


def test_a_route_of_the_settings_keeps_everything_else_out() -> None:
    async def story() -> None:
        local, nebius = pair()
        options = RouterOptions(routes={MODEL.id: Route.alone("local")})
        world = World(local, nebius, options=options)
        local.error = BackendUnavailable("gone")
        with pytest.raises(BackendUnavailable):
            await world.ask()
        with pytest.raises(UnknownModel, match='not at "nebius"'):
            await world.ask(NEBIUS_ALONE)
        assert await settled_jobs(nebius) == 0

    run(story())


async def settled_jobs(place: FakePlace) -> int:
    await settle()
    return len(place.jobs)


def test_a_route_of_the_settings_is_an_order() -> None:
    async def story() -> None:
        options = RouterOptions(routes={MODEL.id: Route(("nebius", "local"), is_alone=True)})
        world = World(*pair(), options=options)
        assert await world.ask() == "nebius"

    run(story())


def test_what_a_request_names_goes_before_the_policy_of_the_settings() -> None:
    async def story() -> None:
        options = RouterOptions(routes={MODEL.id: Route(policy="cheapest")})
        world = World(FakePlace("nebius", price=1), FakePlace("scaleway", price=2), options=options)
        assert await world.ask() == "nebius"
        assert await world.ask(Route(("scaleway",))) == "scaleway"

    run(story())


def test_the_cheapest_is_by_price_and_then_by_preference() -> None:
    async def story() -> None:
        prices = {"openai": None, "together": 30, "nebius": 10, "scaleway": 20, "deepinfra": 10}
        world = World(*(FakePlace(name, price=price) for name, price in prices.items()))
        found = world.router.candidates(MODEL, Route(policy="cheapest"))
        names = [one.name for one in found]
        assert names == ["nebius", "deepinfra", "scaleway", "together", "openai"]

    run(story())


def test_the_fastest_is_found_by_trying_each_once() -> None:
    async def story() -> None:
        delays_s = {"local": 0.3, "nebius": 0.1, "scaleway": 0.2}
        world = World(*(FakePlace(name, delay_s=one) for name, one in delays_s.items()))
        answered = [await world.ask(Route(policy="fastest")) for _ in range(6)]
        assert answered == ["local", "nebius", "scaleway", "nebius", "nebius", "nebius"]
        await asyncio.sleep(400)  # what was measured so long ago is measured again
        again = {await world.ask(Route(policy="fastest")) for _ in range(3)}
        assert again == set(delays_s)

    run(story())


def test_one_request_at_a_time_finds_out_how_fast_a_place_is() -> None:
    async def story() -> None:
        world = World(*pair())
        await world.ask()  # local is known
        tasks = [asyncio.create_task(world.ask(Route(policy="fastest"))) for _ in range(5)]
        assert sorted(await asyncio.gather(*tasks)) == ["local"] * 4 + ["nebius"]

    run(story())


def test_the_last_is_told_when_none_can_carry_a_request() -> None:
    async def story() -> None:
        places = [FakePlace("nebius"), FakePlace("scaleway")]
        for place in places:
            place.error = CannotCarry(f"not at {place.name}")
        with pytest.raises(CannotCarry, match="not at scaleway"):
            await World(*places).ask()

    run(story())


TELLING: list[tuple[Exception, Exception, type[FledgeError]]] = [
    (CannotCarry("no"), unavailable("nebius", 429, 60.0), ProviderUnavailable),
    (ModelLoadError("no"), unavailable("nebius"), ProviderUnavailable),
    (Overloaded("busy", retry_after_s=4), unavailable("nebius"), Overloaded),
    (ModelLoadError("no"), ProviderDenied("no", provider="nebius", status=401), ModelLoadError),
    (BackendUnavailable("gone"), CannotCarry("no"), BackendUnavailable),
    (ConnectionResetError(), CannotCarry("no"), BackendUnavailable),
]


@pytest.mark.parametrize(("first", "second", "told"), TELLING)
def test_of_several_errors_the_most_telling_is_told(
    first: Exception, second: Exception, told: type[FledgeError]
) -> None:
    async def story() -> None:
        local, nebius = pair()
        local.error, nebius.error = first, second
        with pytest.raises(told):
            await World(local, nebius).ask()

    run(story())


def test_a_model_that_is_loading_is_not_taken_for_the_fastest() -> None:
    async def story() -> None:
        local, nebius = pair()
        local.loading_s = 60
        world = World(local, nebius)
        await world.ask()
        assert await world.ask(Route(policy="fastest")) == "nebius"
        assert len(local.patiences_s) == 1

    run(story())
