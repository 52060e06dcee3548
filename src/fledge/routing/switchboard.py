"""The router of a server, with what it needs to know of names and money."""

import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from fledge.routing.observing import UNOBSERVED, ProviderObserver
from fledge.routing.places import Place, cost_nanos
from fledge.routing.router import PlaceState, Router
from fledge.types import LOCAL, ModelEntry


class Spending:
    """What providers have cost this month, by what is known here. For any thread.

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
        # Guards a few lines each, and is held for microseconds: `learn` has a thread of its own.
        self._lock = threading.Lock()
        self._budgets = dict(budgets)
        self._spent = dict(spent)
        self._now = now
        self._month = self._this_month()

    def add(self, name: str, nanos: int) -> None:
        """Count what an answer cost."""
        with self._lock:
            self._turn()
            self._spent[name] = self._spent.get(name, 0) + nanos

    def learn(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Count what other instances have spent as well. Blocks as long as `read` does.

        Args:
            read: what all of them together have spent this month, as far as it is written down.
        """
        before = self._this_month()
        written = read()
        with self._lock:
            self._turn()
            if self._month != before:
                return  # it may be of the month that has just ended
            for name, nanos in written.items():
                # What was spent here in the last second may not be written yet.
                self._spent[name] = max(self._spent.get(name, 0), nanos)

    def spent(self, name: str) -> int:
        """What it has cost this month."""
        with self._lock:
            self._turn()
            return self._spent.get(name, 0)

    def left(self, name: str) -> int | None:
        """What may still be spent; None: as much as one likes."""
        budget = self._budgets.get(name)
        return None if budget is None else budget - self.spent(name)

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
        observer: told of what is charged.
    """

    router: Router
    providers: tuple[str, ...]
    spending: Spending
    close: Callable[[], Awaitable[None]]
    observer: ProviderObserver = UNOBSERVED

    @property
    def deployments(self) -> frozenset[str]:
        """Every name that a request's route may have."""
        return frozenset((LOCAL, *self.providers))

    def charge(self, place: Place, tokens: int) -> int:
        """Count what some tokens cost at a place, in billionths; 0 where nobody knows."""
        return self._count(place.name, place.price_nanos_per_million_tokens, tokens)

    async def test(self, entry: ModelEntry, name: str, *, compares: bool) -> tuple[PlaceState, int]:
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
        price = price_nanos_per_million_tokens
        nanos = cost_nanos(tokens, price) if price else 0
        if nanos:
            self.spending.add(name, nanos)
        if name != LOCAL:
            self.observer.on_charge(name, tokens, nanos)
        return nanos

    async def aclose(self) -> None:
        """Give up what runs beside requests, then hang up. Safe to call twice."""
        try:
            await self.router.aclose()
        finally:
            await self.close()
