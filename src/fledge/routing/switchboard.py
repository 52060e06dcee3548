"""The router of a server, with what it needs to know of names and money."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from fledge.routing.places import Place, cost_nanos
from fledge.routing.router import PlaceState, Router
from fledge.types import LOCAL, ModelEntry


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

    def spent(self, name: str) -> int:
        """What it has cost this month."""
        self._turn()
        return self._spent.get(name, 0)

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
        return self._count(place.name, place.price_nanos_per_million_tokens, tokens)

    async def test(
        self, entry: ModelEntry, name: str, *, compares: bool
    ) -> tuple[PlaceState, int]:
        """Send one text to a provider, and compare it with the model's first place, or not.

        Returns:
            How the provider does, `trial` included, and what it cost, in billionths; 0 where nobody
            knows.

        Raises:
            UnknownModel, FledgeError: as `Router.test`.
        """
        state = await self.router.test(entry, name, compares=compares)
        tokens = state.trial.tokens if state.trial else 0
        return state, self._count(name, state.price_nanos_per_million_tokens, tokens)

    def _count(self, name: str, price_nanos_per_million_tokens: int | None, tokens: int) -> int:
        if not price_nanos_per_million_tokens:
            return 0
        nanos = cost_nanos(tokens, price_nanos_per_million_tokens)
        self.spending.add(name, nanos)
        return nanos

    async def aclose(self) -> None:
        """Give up what runs beside requests, then hang up. Safe to call twice."""
        try:
            await self.router.aclose()
        finally:
            await self.close()
