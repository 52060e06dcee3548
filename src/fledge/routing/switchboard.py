"""The router of a server, with what it needs to know of names and money."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from fledge.routing.places import Place, cost_nanos
from fledge.routing.router import Router
from fledge.types import LOCAL


class Spending:
    """What providers have cost this month, by what is known here.

    Args:
        budgets: billionths that each may cost in a calendar month, UTC; who is missing has none.
        spent: of this month, what was spent before.
        now: the present moment.
    """

    def __init__(
        self,
        budgets: Mapping[str, int],
        spent: Mapping[str, int],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._budgets = dict(budgets)
        self._spent = dict(spent)
        self._now = now
        self._month = self._this_month()

    def add(self, name: str, nanos: int) -> None:
        """Count what an answer cost."""
        self._turn()
        self._spent[name] = self._spent.get(name, 0) + nanos

    def left(self, name: str) -> int | None:
        """What may still be spent; None: as much as one likes."""
        self._turn()
        budget = self._budgets.get(name)
        return None if budget is None else budget - self._spent.get(name, 0)

    def _turn(self) -> None:
        if (month := self._this_month()) != self._month:
            self._month, self._spent = month, {}

    def _this_month(self) -> tuple[int, int]:
        now = self._now()
        return now.year, now.month


@dataclass(frozen=True, slots=True)
class Switchboard:
    """Through which requests find a deployment.

    Attributes:
        router: who decides.
        providers: the names of those that may be asked.
        spending: what they cost.
        close: lets go of their connections.
    """

    router: Router
    providers: tuple[str, ...]
    spending: Spending
    close: Callable[[], Awaitable[None]]

    @property
    def deployments(self) -> frozenset[str]:
        """Every name that a request's route may have."""
        return frozenset((LOCAL, *self.providers))

    def charge(self, place: Place, tokens: int) -> int:
        """Count what some tokens cost at a place, in billionths; 0 where nobody knows."""
        price = place.price_nanos_per_million_tokens
        if not price:
            return 0
        nanos = cost_nanos(tokens, price)
        self.spending.add(place.name, nanos)
        return nanos

    async def aclose(self) -> None:
        """Give up what runs beside requests, then hang up. Safe to call twice."""
        try:
            await self.router.aclose()
        finally:
            await self.close()
