"""Which places may answer a request, and in which order they are asked: pure decisions."""

import math
from collections.abc import Mapping, Sequence

from fledge.routing.health import Health
from fledge.routing.places import BudgetLeft, Place, Size
from fledge.routing.wishes import Policy, Route, chosen

STALE_S = 300.0
"""What was measured so long ago is measured again: a place that was slow may have become fast."""


def picked(places: Sequence[Place], route: Route) -> list[Place]:
    """The places that a route leaves, in its order; what its policy decides is not."""
    by_name = {place.name: place for place in places}
    return [by_name[name] for name in chosen(by_name, route)]


def affordable(places: Sequence[Place], budget_left: BudgetLeft) -> list[Place]:
    """Those at which something may still be spent."""
    return [place for place in places if _may_spend(budget_left(place.name))]


def _may_spend(left_nanos: int | None) -> bool:
    return left_nanos is None or left_nanos > 0


def ranked(
    places: Sequence[Place],
    policy: Policy | None,
    health_of: Mapping[str, Health],
    size: Size,
    now_s: float,
) -> list[Place]:
    """In the order of a policy; of equals, and without one, as they came."""
    if policy == "cheapest":
        return sorted(places, key=_price)
    if policy == "fastest":
        return sorted(places, key=lambda place: _speed(health_of[place.name], size, now_s))
    return list(places)


def _price(place: Place) -> float:
    """What nobody knows is taken for the dearest."""
    price = place.price_nanos_per_million_tokens
    return math.inf if price is None else price


def _speed(health: Health, size: Size, now_s: float) -> float:
    """Seconds that it may take: none for one that nobody knows, so that it gets its chance.

    One request at a time finds out; what loads has to be waited for.
    """
    if health.loads:
        return math.inf
    expected_s = health.latency.expected_s(size.texts)
    is_old = health.measured_s is None or now_s - health.measured_s > STALE_S
    if is_old and not health.running:
        return 0.0
    return math.inf if expected_s is None else expected_s
