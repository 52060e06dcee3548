"""One request at one place: what it is given there, and what is learnt from it."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from fledge.errors import FledgeError, ModelLoading, ProviderRefused
from fledge.routing.health import Health
from fledge.routing.outcomes import outcome_of
from fledge.routing.places import Place
from fledge.types import Backend, EmbedJob, EmbedResult, ModelCard, ModelEntry, Tokens
from fledge.types import Health as BackendHealth

GRACE_S = 0.5
"""Given to a backend to report its deadline by itself before the request is torn down."""


class Deadline:
    """When nobody waits any more for an answer. Waiting for a model to load does not count.

    Args:
        timer: what tears the request down.
        timeout_s: how long it may take; None: as long as it takes.
        clock: seconds, `time.monotonic` outside of tests.

    Attributes:
        at_s: as `EmbedJob.deadline`.
        clock: likewise.
    """

    def __init__(
        self, timer: asyncio.Timeout, timeout_s: float | None, clock: Callable[[], float]
    ) -> None:
        self.at_s = None if timeout_s is None else clock() + timeout_s
        self.clock = clock
        self._timer: asyncio.Timeout | None = timer
        self._pauses = 0
        self._set()

    @property
    def left_s(self) -> float:
        """Seconds that are left; negative when it has passed."""
        return math.inf if self.at_s is None else self.at_s - self.clock()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It does not come nearer while the block lasts."""
        began_s = self.clock()
        self._pauses += 1
        self._set()
        try:
            yield
        finally:
            self._pauses -= 1
            if self.at_s is not None:
                self.at_s += self.clock() - began_s
            self._set()

    def close(self) -> None:
        """The request is over; what still runs of it has no timer to set."""
        self._timer = None

    def _set(self) -> None:
        if self._timer is None:
            return
        if self.at_s is None or self._pauses:
            self._timer.reschedule(None)
        else:
            now_s = asyncio.get_running_loop().time()
            self._timer.reschedule(now_s + self.left_s + GRACE_S)


class Turn:
    """What an attempt is given.

    Args:
        entry: the model.
        place: who is asked.
        deadline: when the answer is due; to be looked at within `use`, since loading moves it.
        health: of the place.
        most_patience_s: the longest to wait for a model to load.
        served: from the card of a place to the one that its answers are finished by.

    Attributes:
        entry: likewise.
        place: likewise.
        deadline: likewise.
        was_hurried: whether the caller would have waited longer for the model to load.
    """

    def __init__(
        self,
        entry: ModelEntry,
        place: Place,
        deadline: Deadline,
        health: Health,
        most_patience_s: float,
        served: Callable[[Place, ModelCard], ModelCard],
    ) -> None:
        self.entry = entry
        self.place = place
        self.deadline = deadline
        self.was_hurried = False
        self._health = health
        self._most_patience_s = most_patience_s
        self._served = served

    @asynccontextmanager
    async def use(self, *, patience_s: float) -> AsyncIterator[Backend]:
        """The place's backend; what is computed with it counts for the place.

        Args:
            patience_s: how long the caller would wait for a model to load. It waits less where
                another place can answer at once, and the load goes on.

        Raises:
            ModelLoading, ModelLoadError: as `Deployments.use`.
        """
        self.was_hurried = patience_s > self._most_patience_s
        context = self.place.use(self.entry, patience_s=min(patience_s, self._most_patience_s))
        try:
            with self.deadline.paused():
                backend = await context.__aenter__()
        except FledgeError as error:
            self._learn(error)
            raise
        try:
            card = self._served(self.place, backend.card)
            yield Watched(backend, self._health, self.deadline.clock, card)
        finally:
            await context.__aexit__(None, None, None)

    def _learn(self, error: FledgeError) -> None:
        if isinstance(error, ModelLoading):
            return
        if fault := outcome_of(error).fault:
            self._health.fail(fault)
        else:
            self._health.note(str(error))


class Watched:
    """A backend, whose results count for the health of its place."""

    def __init__(
        self, backend: Backend, health: Health, clock: Callable[[], float], card: ModelCard
    ) -> None:
        self._backend = backend
        self._health = health
        self._clock = clock
        self._card = card

    @property
    def card(self) -> ModelCard:
        """The backend's, with the prompts and the like of the model's first place."""
        return self._card

    async def embed(self, job: EmbedJob) -> EmbedResult:
        """As the backend does."""
        began_s = self._clock()
        texts = len(job.items)
        try:
            result = await self._backend.embed(job)
        except asyncio.CancelledError:
            self._health.give_up(texts, self._clock() - began_s)
            raise
        except Exception as error:
            if fault := outcome_of(error).fault:
                self._health.fail(fault)
            elif isinstance(error, ProviderRefused):
                self._health.respond()  # it works: it is the request that does not
            raise
        self._health.succeed(texts, self._clock() - began_s)
        return result

    async def tokenize(self, texts: Sequence[str], *, prompt: str | None = None) -> list[Tokens]:
        """As the backend does."""
        return await self._backend.tokenize(texts, prompt=prompt)

    def health(self) -> BackendHealth:
        """The backend's own."""
        return self._backend.health()

    async def aclose(self) -> None:
        """As the backend does."""
        await self._backend.aclose()
