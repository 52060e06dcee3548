"""What an operator may choose about routing, and a request's plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fledge.routing.health import Bell, Health
from fledge.routing.places import Place
from fledge.routing.wishes import USUAL, Route
from fledge.types import ModelEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterOptions:
    """How the router goes about it.

    Attributes:
        routes: public id -> route, for models that have one of their own.
        max_rounds: how often every place may be asked for one request.
        longest_pause_s: most seconds between two rounds. A provider that says to come again later
            than that is not waited for: the caller is told when.
        cold_patience_s: how long a request waits for a cold local model where a provider can answer
            at once; the load goes on.
        attempt_timeout_s: how long one place may take where another can answer; None: as long as
            the request has. A provider has its own time-out besides.
        hedge_after_s: after so long without an answer the next place is asked too, and the first
            good answer counts; None: never. Both are paid.
        hedge_after_s_by_model: public id -> the same, for models that differ.
        hedge_price_limit_nanos: places that cost more for a million tokens, or nobody knows what,
            are not asked as the second; None: all are.
    """

    routes: Mapping[str, Route] = field(default_factory=dict)
    max_rounds: int = 3
    longest_pause_s: float = 5.0
    cold_patience_s: float = 2.0
    attempt_timeout_s: float | None = None
    hedge_after_s: float | None = None
    hedge_after_s_by_model: Mapping[str, float | None] = field(default_factory=dict)
    hedge_price_limit_nanos: int | None = None

    def route(self, model: str) -> Route:
        """The route of a model."""
        return self.routes.get(model, USUAL)

    def hedge_s(self, model: str) -> float | None:
        """When the next place is asked too; None: never."""
        return self.hedge_after_s_by_model.get(model, self.hedge_after_s)

    def may_hedge(self, place: Place) -> bool:
        """Whether a place may be asked as the second."""
        limit, price = self.hedge_price_limit_nanos, place.price_nanos_per_million_tokens
        return limit is None or (price is not None and price <= limit)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where one request may go.

    Attributes:
        entry: the model.
        reference: the place whose space counts, whether it may be asked or not.
        places: in order; all in the space of the reference, or the only one that was wished for.
        unverified: those of which it is not known in which space they are.
        health: of each, by name.
        bell: rung when one of them may be asked again.
    """

    entry: ModelEntry
    reference: Place
    places: tuple[Place, ...]
    unverified: tuple[Place, ...]
    health: Mapping[str, Health]
    bell: Bell

    def admissible(self) -> list[Place]:
        """Those that may be asked now, in order.

        One that rests is spared if it is somebody else's; the own engine is asked last.
        """
        well = [place for place in self.places if self.health[place.name].may_be_asked]
        resting = [place for place in self.places if place not in well]
        return [*well, *(place for place in resting if not place.is_remote)]
