"""Which deployments of a model answer a request: the rules that hold them together."""

import asyncio
import random as dice
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

from fledge.errors import FledgeError, ProviderUnavailable, UnknownModel
from fledge.names import quoted
from fledge.routing.health import Bell, Health, HealthReport
from fledge.routing.journey import Attempt, Journey, Means
from fledge.routing.options import Plan, RouterOptions
from fledge.routing.order import affordable, picked, ranked
from fledge.routing.places import BudgetLeft, Place, Size, no_budgets
from fledge.routing.space_book import SpaceBook
from fledge.routing.spaces import TEXTS, Relation, Verdict
from fledge.routing.turns import Watched
from fledge.routing.wishes import USUAL, Route
from fledge.types import EmbedJob, ModelEntry

Result = TypeVar("Result")
PlacesOf: TypeAlias = Callable[[ModelEntry], Sequence[Place]]
"""Every place of a model, in the order that is usual; none where it runs nowhere."""

ONE_TEXT = Size()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a text has told that was sent to find out.

    Attributes:
        dimension: length of its vector.
        latency_ms: how long it took.
        texts: how many were sent, those of the comparison included.
        tokens: of them.
    """

    dimension: int
    latency_ms: float
    texts: int = 1
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceState:
    """A place of a model, for listings.

    Attributes:
        name: the deployment's.
        is_remote: whether it is a provider.
        price_nanos_per_million_tokens: what it costs; None: nobody knows.
        health: how it does.
        relation: whether it answers in the space of the model's first place, which is the
            `reference`.
        verdict: what was measured; None: nothing, or of something that runs there no more.
        differences: what keeps the two apart, a phrase each.
        budget_left_nanos: what may still be spent there this month; None: no limit.
        trial: of a place that was just tested, what that has told.
    """

    name: str
    is_remote: bool
    price_nanos_per_million_tokens: int | None
    health: HealthReport
    relation: Relation | Literal["reference"]
    verdict: Verdict | None = None
    differences: tuple[str, ...] = ()
    budget_left_nanos: int | None = None
    trial: Trial | None = None


class Router:
    """Asks the places of a model in turn, and remembers how they do. For one event loop.

    Args:
        places: where models run.
        options: what the operator chose.
        book: which places share an embedding space.
        budget_left: what may still be spent at a provider.
        clock: seconds.
        random: between 0 and 1.
    """

    def __init__(
        self,
        places: PlacesOf,
        options: RouterOptions,
        book: SpaceBook,
        *,
        budget_left: BudgetLeft = no_budgets,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = dice.random,
    ) -> None:
        self._places = places
        self._options = options
        self._book = book
        self._budget_left = budget_left
        self._clock = clock
        self._means = Means(options, book, clock, random, self._begin)
        self._healths: dict[tuple[str, str], Health] = {}
        self._bells: dict[str, Bell] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def candidates(
        self, entry: ModelEntry, route: Route = USUAL, size: Size = ONE_TEXT
    ) -> list[Place]:
        """The places that would be asked now, in order; where all rest, the first to be back first.

        Raises:
            UnknownModel, ProviderUnavailable: as `run`.
        """
        plan = self._plan(entry, route, size)
        return plan.admissible() or sorted(
            plan.places, key=lambda place: plan.health[place.name].rest_s
        )

    async def run(
        self,
        entry: ModelEntry,
        route: Route,
        attempt: Attempt[Result],
        *,
        timeout_s: float | None = None,
        size: Size = ONE_TEXT,
    ) -> Result:
        """The first good answer of the model's places, asked in turn.

        Args:
            entry: the model.
            route: what the request says about it.
            attempt: asks one place, within `Turn.use`.
            timeout_s: how long the answer may take, loading not counted; None: as long as it takes.
            size: of the request, where the fastest is wanted.

        Raises:
            UnknownModel: the model runs nowhere, or not where the request wants it.
            ProviderUnavailable: all that is left is spent, or rests.
            DeadlineExceeded: there was no answer in time.
            FledgeError: what the caller caused, at once; otherwise, when all places have failed,
                the most telling error.
        """
        plan = self._plan(entry, route, size)
        answered = await Journey(plan, attempt, self._means).run(timeout_s)
        if len(plan.health) > 1 and answered.place.name == plan.reference.name:
            self._tend(plan)
        return answered.value

    def states(self, entry: ModelEntry) -> list[PlaceState]:
        """Every place of a model that may be asked, in the order of its route."""
        places = self._allowed(entry)
        health = self._health_of(entry, places)
        return [self._state(entry, places[0], place, health[place.name]) for place in places]

    async def test(
        self, entry: ModelEntry, name: str, *, patience_s: float = 0, compares: bool = True
    ) -> PlaceState:
        """Send one text to a place, and compare it with the reference where that can be asked.

        A place that answers may be asked again, whatever was. The comparison costs as many texts as
        `spaces.text_count` says, and loads a reference that is cold: `compares=False` does neither.

        Raises:
            UnknownModel: the model does not run there.
            FledgeError: the place did not answer.
        """
        places = self._allowed(entry)
        place = self._named(entry, places, Route.alone(name))[0]
        health = self._health(entry, place)
        async with place.use(entry, patience_s=patience_s) as backend:
            began_s = self._clock()
            result = await Watched(backend, health, self._clock, backend.card).embed(
                EmbedJob(items=TEXTS[:1])
            )
        trial = Trial(
            dimension=result.vectors.shape[1],
            latency_ms=(self._clock() - began_s) * 1000,
            tokens=sum(result.token_counts),
        )
        health.forgive()
        if compares and place.name != places[0].name:
            # Where the reference cannot be asked, the state says that nothing is known.
            with suppress(FledgeError):
                verdict = await self._book.check(entry, places[0], place)
                trial = replace(
                    trial, texts=1 + verdict.texts, tokens=trial.tokens + verdict.tokens
                )
        return replace(self._state(entry, places[0], place, health), trial=trial)

    async def aclose(self) -> None:
        """Give up what runs beside requests. Safe to call twice."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._book.aclose()

    def _plan(self, entry: ModelEntry, route: Route, size: Size) -> Plan:
        allowed = self._allowed(entry)
        reference = allowed[0]
        health = self._health_of(entry, allowed)
        named = self._named(entry, allowed, route)
        wished = affordable(named, self._budget_left)
        policy = route.policy or self._options.route(entry.id).policy
        if not route.names:
            wished = ranked(wished, policy, health, size, self._clock())
        relations = {
            place.name: self._book.relation(entry.id, reference.name, place.name)
            for place in wished
        }
        # Who names one place alone mixes nothing.
        same = [one for one in wished if route.is_alone or relations[one.name] == "same"]
        if not same:
            spent = next(one.name for one in named if one not in wished)
            raise ProviderUnavailable(f"what {spent} may cost this month is spent", provider=spent)
        unverified = (
            [] if route.is_alone else [one for one in wished if relations[one.name] == "unknown"]
        )
        bell = self._bells.get(entry.id) or Bell()
        return Plan(entry, reference, tuple(same), tuple(unverified), health, bell)

    def _allowed(self, entry: ModelEntry) -> list[Place]:
        """What the settings leave of a model's places; the first is the reference."""
        places = picked(self._places(entry), self._options.route(entry.id))
        if not places:
            raise UnknownModel(f"{entry.id} runs nowhere here: no deployment of its route has it")
        return places

    def _named(self, entry: ModelEntry, places: Sequence[Place], route: Route) -> list[Place]:
        found = picked(places, route)
        if not found:
            raise UnknownModel(
                f"{entry.id} is not at {' or '.join(map(quoted, route.names))} here; it is at "
                f"{', '.join(place.name for place in places)}"
            )
        return found

    def _health_of(self, entry: ModelEntry, places: Sequence[Place]) -> dict[str, Health]:
        if len(places) == 1 and not places[0].is_remote:
            # Nothing to choose from: any model of the hub may come along, so none is remembered.
            return {places[0].name: Health(self._clock)}
        return {place.name: self._health(entry, place) for place in places}

    def _health(self, entry: ModelEntry, place: Place) -> Health:
        key = entry.id, place.name
        if key not in self._healths:
            bell = self._bells.setdefault(entry.id, Bell())
            self._healths[key] = Health(self._clock, bell)
        return self._healths[key]

    def _tend(self, plan: Plan) -> None:
        """Compare what has not been compared, now that the reference has answered."""
        others = affordable(self._allowed(plan.entry), self._budget_left)
        well = [place for place in others if plan.health[place.name].is_well]
        self._book.tend(plan.entry, plan.reference, well)

    def _state(
        self, entry: ModelEntry, reference: Place, place: Place, health: Health
    ) -> PlaceState:
        names = entry.id, reference.name, place.name
        verdict = None if place is reference else self._book.verdict(*names)
        return PlaceState(
            name=place.name,
            is_remote=place.is_remote,
            price_nanos_per_million_tokens=place.price_nanos_per_million_tokens,
            health=health.report(),
            relation="reference" if place is reference else self._book.relation(*names),
            verdict=verdict,
            differences=tuple(self._book.differences(verdict)) if verdict else (),
            budget_left_nanos=self._budget_left(place.name),
        )

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that nobody complains of a loser's
