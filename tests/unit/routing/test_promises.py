"""What the router promises, whatever its places do."""

import asyncio
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.errors import (
    BackendUnavailable,
    CannotCarry,
    DeadlineExceeded,
    FledgeError,
    InvalidRequest,
    Overloaded,
    ProviderDenied,
)
from fledge.routing.options import RouterOptions
from fledge.routing.wishes import USUAL, Route
from tests.unit.routing.fakes import FakePlace, World, unavailable
from tests.unit.routing.virtual import clock, run

ERRORS: list[Exception | None] = [
    None,
    unavailable("it"),
    unavailable("it", 429, 2.0),
    unavailable("it", 429),
    unavailable("it", None),
    ProviderDenied("no", provider="it", status=401),
    CannotCarry("no"),
    BackendUnavailable("gone"),
    Overloaded("busy", retry_after_s=1),
    ConnectionResetError(),
]
NAMES = ("local", "nebius", "scaleway", "together")

plans = st.lists(
    st.tuples(st.lists(st.sampled_from(ERRORS), max_size=6), st.floats(0.01, 8)),
    min_size=1,
    max_size=len(NAMES),
)
routes = st.sampled_from([USUAL, Route(policy="fastest"), Route(policy="cheapest")])
hedges = st.sampled_from([None, 0.05, 1.0])


def places_of(plan: list[tuple[list[Exception | None], float]]) -> list[FakePlace]:
    places = []
    for name, (errors, delay_s) in zip(NAMES, plan, strict=False):
        place = FakePlace(name, delay_s=delay_s)
        place.errors = list(errors)
        places.append(place)
    return places


@settings(deadline=None)
@given(plans, routes, hedges, st.floats(0.05, 20))
def test_nobody_is_asked_after_the_deadline_and_nobody_waits_longer(
    plan: list[tuple[list[Exception | None], float]],
    route: Route,
    hedge_s: float | None,
    timeout_s: float,
) -> None:
    async def story() -> None:
        places = places_of(plan)
        world = World(*places, options=RouterOptions(hedge_after_s=hedge_s))
        began_s = clock()
        with suppress(FledgeError):
            await world.ask(route, timeout_s=timeout_s)
        assert clock() - began_s <= timeout_s + 0.5 + 1e-6
        for place in places:
            assert all(asked_s <= began_s + timeout_s for asked_s in place.asked_s)
        await asyncio.sleep(0.01)
        assert not any(place.running or place.users for place in places)

    run(story())


@settings(deadline=None)
@given(plans, routes, hedges)
def test_no_place_is_asked_more_often_than_there_are_rounds(
    plan: list[tuple[list[Exception | None], float]], route: Route, hedge_s: float | None
) -> None:
    async def story() -> None:
        places = places_of(plan)
        options = RouterOptions(hedge_after_s=hedge_s)
        world = World(*places, options=options)
        with suppress(FledgeError):
            await world.ask(route, timeout_s=None)
        assert max(len(place.jobs) for place in places) <= options.max_rounds

    run(story())


@settings(deadline=None)
@given(plans, hedges, st.integers(0, 3))
def test_with_one_place_that_works_every_request_is_answered(
    plan: list[tuple[list[Exception | None], float]], hedge_s: float | None, index: int
) -> None:
    async def story() -> None:
        places = places_of(plan)
        well = places[index % len(places)]
        well.errors = []
        world = World(*places, options=RouterOptions(hedge_after_s=hedge_s))
        for _ in range(5):
            assert await world.ask(timeout_s=None) in world.places

    run(story())


@settings(deadline=None)
@given(plans, routes, hedges, st.integers(0, 3))
def test_an_error_of_the_clients_is_told_and_never_tried_again(
    plan: list[tuple[list[Exception | None], float]],
    route: Route,
    hedge_s: float | None,
    index: int,
) -> None:
    async def story() -> None:
        places = places_of(plan)
        strict = places[index % len(places)]
        strict.errors, strict.error = [], InvalidRequest("no")
        world = World(*places, options=RouterOptions(hedge_after_s=hedge_s))
        with suppress(InvalidRequest):
            await world.ask(route, timeout_s=None)
        assert len(strict.jobs) <= 1
        if strict.asked_s and hedge_s is None:
            assert max(asked_s for one in places for asked_s in one.asked_s) == strict.asked_s[0]

    run(story())


@given(st.integers(0, 10_000), hedges)
@settings(max_examples=20, deadline=None)
def test_places_fail_in_turn_under_steady_load_and_no_client_sees_an_error(
    seed: int, hedge_s: float | None
) -> None:
    """For a minute each is away for a while, never all at once, and each in its own way."""
    chance = random.Random(seed)  # noqa: S311 - nothing is secret here
    kinds: list[Exception] = [
        unavailable("it", 503),
        unavailable("it", 429, 4.0),
        unavailable("it", None),
        BackendUnavailable("gone"),
        ConnectionRefusedError(),
    ]

    async def break_in_turn(places: list[FakePlace]) -> None:
        while True:
            for place in places:
                place.error = chance.choice(kinds)
                await asyncio.sleep(chance.uniform(1, 5))
                place.error = None
                await asyncio.sleep(chance.uniform(0, 1))

    async def client(world: World, answered: list[str]) -> None:
        await asyncio.sleep(chance.uniform(0, 60))
        answered.append(await world.ask(timeout_s=30))

    async def story() -> None:
        places = [FakePlace(name, delay_s=0.05) for name in NAMES[:3]]
        world = World(*places, options=RouterOptions(hedge_after_s=hedge_s))
        breaking = asyncio.create_task(break_in_turn(places))
        answered: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(300):
                    group.create_task(client(world, answered))
        finally:
            breaking.cancel()
        assert len(answered) == 300
        assert set(answered) == set(NAMES[:3])

    run(story())


def test_a_storm_of_requests_sends_one_probe() -> None:
    async def story() -> None:
        local, nebius = FakePlace("local"), FakePlace("nebius", delay_s=3)
        nebius.error = unavailable("nebius")
        world = World(nebius, local)
        for _ in range(3):
            await world.ask()
        before = len(nebius.jobs)
        await asyncio.sleep(1)
        await asyncio.gather(*(world.ask() for _ in range(200)))
        assert len(nebius.jobs) == before + 1

    run(story())


def test_a_time_out_is_told_as_one_even_where_every_place_is_slow() -> None:
    async def story() -> None:
        places = [FakePlace(name, delay_s=100) for name in NAMES]
        with pytest.raises(DeadlineExceeded):
            await World(*places, options=RouterOptions(hedge_after_s=1)).ask(timeout_s=5)

    run(story())
