"""Places that fail when told to, and a router over them with a clock that can be looked at."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import numpy as np

from fledge.errors import FledgeError, ModelLoading, ProviderUnavailable
from fledge.routing.options import RouterOptions
from fledge.routing.places import BudgetLeft, Size, no_budgets
from fledge.routing.router import Router
from fledge.routing.space_book import SpaceBook, SpaceRules
from fledge.routing.turns import Turn
from fledge.routing.wishes import USUAL, Route
from fledge.testing import FakeBackend, fake_card
from fledge.types import (
    Backend,
    EmbedJob,
    EmbedResult,
    Health,
    ModelCard,
    ModelEntry,
    Tokens,
    Vectors,
)
from tests.unit.routing.virtual import clock

MODEL = ModelEntry(id="org/name")
JOB = EmbedJob(items=["a text"])
UNCHECKED = SpaceRules(is_checked=False)


def unavailable(
    name: str, status: int | None = 503, retry_after_s: float | None = None
) -> ProviderUnavailable:
    return ProviderUnavailable(
        f"{name} answered {status}", provider=name, status=status, retry_after_s=retry_after_s
    )


class FakePlace:
    """A place whose backend answers after a while, unless it is told to fail.

    Attributes:
        errors: what its next jobs fail with, one each; None: that one succeeds.
        error: what jobs fail with when there is nothing left in `errors`.
        delay_s: seconds that a job takes.
        loading_s: seconds until its model is warm; counted from the first use.
        load_error: what using it fails with.
        asked_s: when each job came.
        jobs: what came.
        patiences_s: of each use.
        cancelled: how many jobs were given up.
        users: how many hold it.
        running: how many jobs are under way.
        most_running: how many were at once.
        twist: what it does to its vectors.
    """

    def __init__(
        self,
        name: str = "local",
        *,
        price: int | None = 0,
        card: ModelCard | None = None,
        delay_s: float = 0.1,
    ) -> None:
        self.name = name
        self.is_remote = name != "local"
        self.price_nanos_per_million_tokens = price
        self.card = card or fake_card(id=MODEL.id, deployment=name)
        self.errors: list[Exception | None] = []
        self.error: Exception | None = None
        self.delay_s = delay_s
        self.loading_s = 0.0
        self.load_error: FledgeError | None = None
        self.asked_s: list[float] = []
        self.jobs: list[EmbedJob] = []
        self.patiences_s: list[float] = []
        self.cancelled = 0
        self.users = 0
        self.running = 0
        self.most_running = 0
        self.twist: Callable[[Vectors], Vectors] = lambda vectors: vectors
        self._warm_s: float | None = None

    @asynccontextmanager
    async def use(self, entry: ModelEntry, *, patience_s: float) -> AsyncIterator[Backend]:
        self.patiences_s.append(patience_s)
        if self.load_error is not None:
            raise self.load_error
        if self._warm_s is None:
            self._warm_s = clock() + self.loading_s
        left_s = self._warm_s - clock()
        await asyncio.sleep(max(min(left_s, patience_s), 0.0))
        if left_s > patience_s:
            raise ModelLoading(entry.id, estimated_time_s=left_s)
        self.users += 1
        try:
            yield self
        finally:
            self.users -= 1

    async def embed(self, job: EmbedJob) -> EmbedResult:
        self.asked_s.append(clock())
        self.jobs.append(job)
        error = self.errors.pop(0) if self.errors else self.error
        with self._one_more():
            try:
                await asyncio.sleep(self.delay_s)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if error is not None:
            raise error
        result = await FakeBackend(self.card).embed(job)
        return EmbedResult(
            vectors=self.twist(result.vectors),
            token_counts=result.token_counts,
            truncated=result.truncated,
        )

    async def tokenize(self, texts: Sequence[str], *, prompt: str | None = None) -> list[Tokens]:
        return await FakeBackend(self.card).tokenize(texts, prompt=prompt)

    def health(self) -> Health:
        return Health("warm")

    async def aclose(self) -> None:
        pass

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            yield
        finally:
            self.running -= 1


class World:
    """A router over some places. Spaces are not checked unless the rules say so.

    Attributes:
        router: likewise.
        places: by name.
        patience_s: of its requests.
    """

    def __init__(
        self,
        *places: FakePlace,
        options: RouterOptions | None = None,
        rules: SpaceRules = UNCHECKED,
        book: SpaceBook | None = None,
        budget_left: BudgetLeft = no_budgets,
    ) -> None:
        self.places = {place.name: place for place in places}
        self.patience_s = 300.0
        self.book = book or SpaceBook(rules, clock=clock)
        self.router = Router(
            lambda _: places,
            options or RouterOptions(),
            self.book,
            budget_left=budget_left,
            clock=clock,
            random=lambda: 1.0,
        )

    async def ask(
        self,
        route: Route = USUAL,
        *,
        job: EmbedJob = JOB,
        timeout_s: float | None = 120.0,
        size: Size | None = None,
    ) -> str:
        """The name of the place that answers a request."""

        async def attempt(turn: Turn) -> str:
            async with turn.use(patience_s=self.patience_s) as backend:
                await backend.embed(job)
            return turn.place.name

        return await self.router.run(
            MODEL, route, attempt, timeout_s=timeout_s, size=size or Size(len(job.items))
        )

    async def teach(self) -> None:
        """Let every comparison be made that is due."""
        await self.ask()
        await asyncio.sleep(10)


def noise(scale: float) -> Callable[[Vectors], Vectors]:
    """Vectors that are somewhat elsewhere."""

    def twist(vectors: Vectors) -> Vectors:
        generator = np.random.default_rng(7)
        return (vectors + generator.normal(size=vectors.shape) * scale).astype(np.float32)

    return twist
