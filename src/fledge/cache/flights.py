"""Answers on their way, so that what two callers want at once is looked up and computed once.

    A call is one request's wait for the keys that it lacks. A flight is a task that looks a set of
    keys up and computes the rest; the call that began it owns it, others may join for some of its
    keys. A flight goes on while anybody waits for it, though its owner may have left.

For one event loop, which alone touches the state that is here.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from fledge.cache.entry import Cached
from fledge.cache.tiers import Pair, TierName
from fledge.errors import DeadlineExceeded, InvalidRequest, ModelLoading, Overloaded
from fledge.types import EmbedResult, Timings

Origin: TypeAlias = Literal[TierName, "joined", "computed"]
"""Where an answer came from: a tier, somebody else's computation or an equal input beside it, or
the request's own computation."""

Compute: TypeAlias = Callable[[Sequence[int]], Awaitable[EmbedResult]]
"""Computes the inputs of some indices, in their order. It is begun while its caller waits, and may
outlive it, as long as others wait for the same: it has to hold what it needs by itself."""

JOINED_SIZE = 32
"""A flight is joined if it is at most so many times as large as what a call lacks: a short query
never waits behind a bulk job, and computing it again adds a thirtieth at most. A guess."""

_OWNERS = (
    asyncio.CancelledError,
    TimeoutError,
    DeadlineExceeded,
    InvalidRequest,
    ModelLoading,
    Overloaded,
)
"""Errors that are about the owner of a flight: its patience, its other inputs, its place in line.
Who joined it asks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a request wants of the cache.

    Attributes:
        is_fresh: compute anew whatever is kept or on its way; what comes of it is kept.
        may_keep: whether the tiers may be asked, and may keep the answers.
        refuses_cut: an answer for a text that was cut is none; computing it says so.
        priority: of the job, smaller is sooner; what is less urgent is not waited for.
        tenant: of the job; what waits behind another's flood is not waited for.
    """

    is_fresh: bool = False
    may_keep: bool = True
    refuses_cut: bool = False
    priority: int = 0
    tenant: str | None = None

    def accept(self, entry: Cached) -> bool:
        """Whether an answer from elsewhere will do."""
        return not (self.refuses_cut and entry.truncated)


class Call:
    """One request's wait.

    Args:
        places: for each key that it lacks, the index of an input.
        compute: computes inputs.
        terms: what the request wants.

    Attributes:
        found: the answers, and where they came from.
        owned: the flights that it began. More than one where another's was joined and then failed.
        bell: rings when something has landed.
    """

    def __init__(self, places: dict[bytes, int], compute: Compute, terms: Terms) -> None:
        self.places = places
        self.compute = compute
        self.terms = terms
        self.found: dict[bytes, tuple[Cached, Origin]] = {}
        self.owned: list[Flight] = []
        self.bell = asyncio.Event()
        self._awaited: dict[bytes, Flight] = {}

    @property
    def is_over(self) -> bool:
        """Whether every key has its answer."""
        return len(self.found) == len(self.places)

    @property
    def timings(self) -> Timings:
        """Of all that was computed for it."""
        return sum((flight.timings for flight in self.owned), Timings())

    def wait_for(self, key: bytes, flight: "Flight") -> None:
        """Expect a key from a flight."""
        self._awaited[key] = flight
        flight.calls.add(self)

    def take(self) -> list[bytes]:
        """Take what has landed; the keys that nobody is looking after.

        Raises:
            Exception: what ended a flight, unless it concerns another caller alone.
        """
        unclaimed = []
        for key in self.places:
            if key in self.found:
                continue
            flight = self._awaited.get(key)
            if flight is None or not self._take_from(flight, key):
                unclaimed.append(key)
        return unclaimed

    def leave(self) -> None:
        """Wait for nothing any more."""
        for flight in set(self._awaited.values()):
            flight.leave(self)

    def _take_from(self, flight: "Flight", key: bytes) -> bool:
        """Take one key if it is there; whether it is, or is still on its way."""
        is_own = flight.owner is self
        if landed := flight.landed.get(key):
            entry, origin = landed
            if not is_own and not self.terms.accept(entry):
                return False
            self.found[key] = (entry, "joined" if origin == "computed" and not is_own else origin)
            return True
        if flight.error is not None and (is_own or not isinstance(flight.error, _OWNERS)):
            raise flight.error
        return flight.error is None


class Flight:
    """Keys that one task looks after.

    Attributes:
        owner: the call that began it, and whose `compute` it uses.
        keys: what it is after.
        calls: those that wait for it.
        landed: what it has found so far, and where.
        timings: of its computation.
        error: what ended it.
        task: where it runs.
    """

    task: asyncio.Task[None]

    def __init__(self, owner: Call, keys: list[bytes], flights: "Flights") -> None:
        self.owner = owner
        self.keys = keys
        self.calls: set[Call] = set()
        self.landed: dict[bytes, tuple[Cached, Origin]] = {}
        self.timings = Timings()
        self.error: BaseException | None = None
        self._flights = flights

    def may_be_joined_by(self, call: Call) -> bool:
        """Whether waiting for it is no worse than computing.

        Tenants have their turns, so one's flight may have to wait for all that the same one wants.
        """
        mine, its = call.terms, self.owner.terms
        is_ours = mine.tenant == its.tenant
        before = len(self.keys) if is_ours else self._flights.under_way[its.tenant]
        return its.priority <= mine.priority and before <= JOINED_SIZE * len(call.places)

    def land(self, pairs: Iterable[Pair], origin: Origin) -> None:
        """Give out what was found."""
        for key, entry in pairs:
            self.landed[key] = (entry, origin)
            self._flights.forget(key, self)
        self._ring()

    def fail(self, error: BaseException) -> None:
        """End without the rest."""
        self.error = error
        self._forget()
        self._ring()

    def leave(self, call: Call) -> None:
        """One call waits no longer; with the last one the flight ends."""
        self.calls.discard(call)
        if not self.calls and not self.task.done():
            self._forget()  # whoever comes now must not wait for what is being given up
            self.task.cancel()

    def _forget(self) -> None:
        for key in self.keys:
            self._flights.forget(key, self)

    def _ring(self) -> None:
        for call in self.calls:
            call.bell.set()


class Flights:
    """The flights of one cache, by key.

    Args:
        work: looks after a flight's keys: lets land what it finds, and ends or raises.

    Attributes:
        under_way: how many keys are looked after for each tenant.
    """

    def __init__(self, work: Callable[[Flight], Coroutine[None, None, None]]) -> None:
        self.under_way: Counter[str | None] = Counter()
        self._work = work
        self._by_key: dict[bytes, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._by_key)

    async def fetch(self, call: Call) -> None:
        """Wait until a call has all its answers.

        Raises:
            Exception: what ended the computation of one of them.
        """
        try:
            while True:
                if unclaimed := call.take():
                    self._claim(call, unclaimed)
                if call.is_over:
                    return
                await call.bell.wait()
                call.bell.clear()
        finally:
            call.leave()

    def forget(self, key: bytes, flight: Flight) -> None:
        """Let nobody join a flight for a key any more."""
        if self._by_key.get(key) is flight:
            del self._by_key[key]

    async def aclose(self) -> None:
        """Give up what is on its way."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _claim(self, call: Call, keys: list[bytes]) -> None:
        """Join flights that are after keys already, and begin one for the rest."""
        own = []
        for key in keys:
            flight = self._by_key.get(key)
            if flight is not None and flight.may_be_joined_by(call):
                call.wait_for(key, flight)
            else:
                own.append(key)
        if own:
            self._begin(Flight(call, own, self))

    def _begin(self, flight: Flight) -> None:
        flight.owner.owned.append(flight)
        for key in flight.keys:
            self._by_key[key] = flight
            flight.owner.wait_for(key, flight)
        self.under_way[flight.owner.terms.tenant] += len(flight.keys)
        flight.task = asyncio.create_task(self._work(flight))
        self._tasks.add(flight.task)
        flight.task.add_done_callback(partial(self._ended, flight))

    def _ended(self, flight: Flight, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        tenant = flight.owner.terms.tenant
        self.under_way[tenant] -= len(flight.keys)
        if not self.under_way[tenant]:
            del self.under_way[tenant]
        if task.cancelled():  # perhaps before it had begun
            flight.fail(asyncio.CancelledError())
        elif error := task.exception():
            flight.fail(error)
