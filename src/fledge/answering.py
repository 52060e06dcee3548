"""From the inputs of a request to vectors: the model made warm, the cache asked, the rest computed.

What is known of a request before its model runs is the service's affair, and so is what is made of
the vectors afterwards.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from fledge.cache.cache import Cache, Fetched
from fledge.cache.flights import Terms
from fledge.cache.key import Space
from fledge.catalog.catalog import Catalog
from fledge.errors import (
    CannotCarry,
    ComputeError,
    DeadlineExceeded,
    InvalidRequest,
    TooManyInputs,
)
from fledge.inputs import Path, check_token_ids, respelled
from fledge.prompts import Prompt, PromptChoice, respelled_choice
from fledge.requests import CompareRequest, EmbedRequest
from fledge.routing.places import Size
from fledge.routing.switchboard import Switchboard
from fledge.routing.turns import Turn
from fledge.settings import Settings
from fledge.telemetry.states import CacheState
from fledge.types import Backend, Deployments, EmbedJob, EmbedResult, Item, ModelCard, ModelEntry
from fledge.waiting_room import WaitingRoom

# Given to the backend to report its deadline by itself before the request is torn down.
_GRACE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Inputs of one request that get the same prompt.

    Attributes:
        items: at least one.
        prompt: what goes before each text.
        choice: how the caller chose it.
        field: how the caller spells the field of the inputs.
        path: how the caller spells one of them.
    """

    items: Sequence[Item]
    prompt: Prompt
    choice: PromptChoice
    field: str
    path: Path


PartsOf: TypeAlias = Callable[[ModelCard], Sequence[Part]]
"""Makes the parts of a request once the card of its model is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of the parts of a request.

    Attributes:
        card: the model that computed them.
        parts: likewise.
        results: one for each part.
        hit_count: how many of the inputs were not computed for this request or beside it.
        computed_tokens: tokens of those that were computed for it.
        load_ms: how long it waited for its model.
        cost_nanos: what it costs, in billionths of the operator's currency.
        cache_ms: how long it then took to know what was left to compute.
    """

    card: ModelCard
    parts: Sequence[Part]
    results: Sequence[EmbedResult]
    hit_count: int
    computed_tokens: int
    load_ms: float
    cache_ms: float
    cost_nanos: int | None = None


class _Hold:
    """A model that does not leave before all who share the hold have let go of it.

    A computation shares the hold of the request that began it, and may outlive it. To ask for the
    model once more would be to wait, where it has to leave, for its next loading, which waits for
    this very request to end.
    """

    __slots__ = ("_began_s", "_computed_s", "_sharers", "_use", "backend")

    def __init__(self, use: AbstractAsyncContextManager[Backend], backend: Backend) -> None:
        self.backend = backend
        self._use = use
        self._sharers = 0
        self._began_s = time.perf_counter()
        self._computed_s: float | None = None

    @property
    def idle_ms(self) -> float:
        """How long it was held before the model had anything to compute; if it had nothing, since
        it is held."""
        return ((self._computed_s or time.perf_counter()) - self._began_s) * 1000

    def compute(self) -> None:
        """Note that there is something."""
        self._computed_s = self._computed_s or time.perf_counter()

    async def __aenter__(self) -> None:
        self._sharers += 1

    async def __aexit__(self, *_: object) -> None:
        self._sharers -= 1
        if not self._sharers:
            await self._use.__aexit__(None, None, None)


class Answering:
    """Answers parts of requests with vectors.

    Args:
        catalog: what was found by a request joins it.
        deployments: where models run.
        settings: limits and time-outs.
        cache: answers kept, and shared between requests on their way; None: neither, and then
            several event loops may ask at once.

    Attributes:
        switchboard: finds the deployment of each request; None: all are computed here.
    """

    def __init__(
        self, catalog: Catalog, deployments: Deployments, settings: Settings, cache: Cache | None
    ) -> None:
        self.switchboard: Switchboard | None = None
        self._catalog = catalog
        self._deployments = deployments
        self._settings = settings
        self._shares = cache is not None
        self._cache = cache or Cache()
        self._waiting = WaitingRoom(settings.max_queued_tokens)
        # A program of its own may have sections about models that it does not serve.
        sections = settings.model.items() if self._shares else ()
        self._uncached = frozenset(
            catalog.find(name).id for name, one in sections if one.cache is False
        )

    async def answer(
        self,
        entry: ModelEntry,
        request: EmbedRequest | CompareRequest,
        parts_of: PartsOf,
    ) -> Answered:
        """Vectors for every part; `parts_of` makes them once the model's card is known.

        Raises:
            ModelLoading, ModelLoadError: as `Deployments.use`.
            InvalidRequest: an input cannot be used, or there are too many tokens.
            Overloaded, DeadlineExceeded, ComputeError: as `Backend.embed`.
        """
        if self.switchboard is not None:
            return await self._answer_somewhere(self.switchboard, entry, request, parts_of)
        async with self._running(entry, request) as (hold, deadline, load_ms):
            return await self._answer(hold, request, parts_of, deadline, load_ms)

    async def _answer_somewhere(
        self,
        switchboard: Switchboard,
        entry: ModelEntry,
        request: EmbedRequest | CompareRequest,
        parts_of: PartsOf,
    ) -> Answered:
        """Wherever the router has it answered best."""

        async def attempt(turn: Turn) -> Answered:
            started = time.perf_counter()
            use = turn.use(patience_s=self._patience_s(request))
            with self._waiting.place(request.items):
                hold = _Hold(use, await use.__aenter__())
            async with hold:
                load_ms = (time.perf_counter() - started) * 1000
                self._catalog.add(entry)
                deadline = turn.deadline.at_s
                answered = await self._answer(hold, request, parts_of, deadline, load_ms)
            cost_nanos = switchboard.charge(turn.place, answered.computed_tokens)
            return replace(answered, cost_nanos=cost_nanos)

        return await switchboard.router.run(
            entry,
            request.route,
            attempt,
            timeout_s=request.timeout_s,
            size=Size(len(request.items)),
        )

    async def _answer(
        self,
        hold: _Hold,
        request: EmbedRequest | CompareRequest,
        parts_of: PartsOf,
        deadline: float | None,
        load_ms: float,
    ) -> Answered:
        card = hold.backend.card
        parts = parts_of(card)
        fetches = [self._fetch(hold, request, part, deadline) for part in parts]
        fetched = [await fetches[0]] if len(fetches) == 1 else await _at_once(fetches)
        if (
            _wants_raw(request)
            and card.normalizes
            and any(one.result.normalized for one in fetched)
        ):
            raise CannotCarry(
                f"{card.deployment} gives vectors of length 1 only, and `normalize` is false",
                field="normalize",
            )
        return Answered(
            card=card,
            parts=parts,
            results=[one.result for one in fetched],
            hit_count=sum(one.hit_count for one in fetched),
            computed_tokens=sum(one.computed_tokens for one in fetched),
            load_ms=load_ms,
            cache_ms=hold.idle_ms,
        )

    def count_repeat(self, texts: int) -> None:
        """Count texts whose answers were in memory, as a whole request."""
        self._cache.count_repeat(texts)

    def cache_state(self) -> CacheState:
        """What the cache has done so far."""
        return self._cache.state()

    async def aclose(self) -> None:
        """Give up what nobody waits for any more, and close the cache and the switchboard."""
        try:
            await self._cache.aclose()
        finally:
            if self.switchboard is not None:
                await self.switchboard.aclose()

    @asynccontextmanager
    async def _running(
        self, entry: ModelEntry, request: EmbedRequest | CompareRequest
    ) -> AsyncIterator[tuple[_Hold, float | None, float]]:
        """The request's model, warm; when its answer is due; the milliseconds of waiting for it.

        The time that loading takes is not the request's own: it begins when the model is warm.
        """
        started = time.perf_counter()
        use = self._deployments.use(entry, patience_s=self._patience_s(request))
        with self._waiting.place(request.items):
            hold = _Hold(use, await use.__aenter__())
        async with hold:
            load_ms = (time.perf_counter() - started) * 1000
            self._catalog.add(entry)
            timeout_s = request.timeout_s
            if timeout_s is None:
                yield hold, None, load_ms
                return
            timeout = asyncio.timeout(timeout_s + _GRACE_S)
            try:
                async with timeout:
                    yield hold, time.monotonic() + timeout_s, load_ms
            except TimeoutError:
                if not timeout.expired():
                    raise  # somebody else's, as of a connection
                raise DeadlineExceeded(
                    f"no answer within {timeout_s:g} s, the time-out of this server"
                ) from None

    def _patience_s(self, request: EmbedRequest | CompareRequest) -> float:
        if request.patience_s is None:
            return self._settings.load_timeout_s
        return request.patience_s

    async def _fetch(
        self,
        hold: _Hold,
        request: EmbedRequest | CompareRequest,
        part: Part,
        deadline: float | None,
    ) -> Fetched:
        """The vectors of one part, from wherever they are to be had."""
        card = hold.backend.card
        check_token_ids(part.items, part.path, card)
        limit = self._settings.max_tokens_per_request
        job = EmbedJob(
            items=part.items,
            prompt=part.prompt.text,
            truncation=request.truncation,
            side=part.prompt.side,
            priority=request.priority,
            deadline=deadline,
            tenant=request.caller.tenant,
            max_total_tokens=limit,
        )

        async def compute(indices: Sequence[int]) -> EmbedResult:
            async with hold:
                hold.compute()
                return await _compute(hold.backend, job, part, indices)

        keys = Space.of(card, job).keys(part.items)
        fetched = await self._cache.fetch(keys, compute, self._terms(card, request))
        # The backend counted what it computed; the limit is on what the caller sent.
        if (total := sum(fetched.result.token_counts)) > limit:
            raise TooManyInputs(
                f"`{part.field}` has {total} tokens; one request takes at most {limit}",
                field=part.field,
            )
        return fetched

    def _terms(self, card: ModelCard, request: EmbedRequest | CompareRequest) -> Terms:
        return Terms(
            is_fresh=not (self._shares and request.use_cache),
            may_keep=self._shares and card.id not in self._uncached,
            refuses_cut=request.truncation.refuse,
            priority=request.priority,
            tenant=request.caller.tenant,
        )


def _wants_raw(request: EmbedRequest | CompareRequest) -> bool:
    """Whether vectors are wanted as they are before the model's own normalization."""
    return isinstance(request, EmbedRequest) and request.normalize is False


async def _compute(
    backend: Backend, job: EmbedJob, part: Part, indices: Sequence[int]
) -> EmbedResult:
    """The inputs of some indices, each different one once."""
    if len(indices) < len(job.items):
        job = replace(job, items=[job.items[index] for index in indices])
    try:
        result = await backend.embed(job)
    except InvalidRequest as error:
        spelled = respelled_choice(error, part.choice)
        raise respelled(spelled, indices, part.path, part.field) from None
    if not np.isfinite(result.vectors).all():
        raise ComputeError(f"{backend.card.id} computed a value that is not finite")
    return result


async def _at_once(fetches: Sequence[Coroutine[Any, Any, Fetched]]) -> list[Fetched]:
    """All at once, so that they share a batch; when one fails, the others leave the queue."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in fetches]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
