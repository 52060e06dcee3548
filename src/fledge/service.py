"""The use cases: embed, compare, rerank, list. Every dialect, the CLI and the Python API end here.

A request names a model, a prompt and limits as its caller thinks of them; here they are resolved
against the catalogue and the model's card, checked, and become one `EmbedJob`. What comes back is
put in the order of the request, cut and normalized. Nothing here knows HTTP, a file format or an
engine.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Self

import numpy as np

from fledge.catalog.catalog import Catalog
from fledge.catalog.listed import Listed
from fledge.catalog.traffic import Traffic
from fledge.errors import ComputeError, DeadlineExceeded, InvalidRequest, TooManyInputs
from fledge.fixed import FixedDeployments, catalog_of
from fledge.inputs import (
    Path,
    check_dimensions,
    check_inputs,
    check_token_ids,
    distinct,
    item_path,
    respelled,
)
from fledge.prompts import (
    Prompt,
    PromptChoice,
    check_prompt_length,
    choose_prompt,
    respelled_choice,
)
from fledge.requests import (
    CompareRequest,
    CompareResponse,
    EmbedRequest,
    EmbedResponse,
    Normalization,
)
from fledge.settings import Settings
from fledge.telemetry import Metrics, ModelState
from fledge.types import (
    Backend,
    Deployments,
    EmbedJob,
    EmbedResult,
    Item,
    ModelCard,
    ModelEntry,
    Side,
    Vectors,
)
from fledge.vectors import cut_dimensions, normalize, similarity
from fledge.waiting_room import WaitingRoom

# Given to the backend to report its deadline by itself before the request is torn down.
_GRACE_S = 0.5


class Service:
    """The models of a catalogue, and what can be asked of them.

    Args:
        catalog: which models there are, and their names.
        deployments: where they run.
        settings: the settings in force; only limits matter here.
        metrics: what is counted on the way.
    """

    def __init__(
        self,
        catalog: Catalog,
        deployments: Deployments,
        settings: Settings,
        metrics: Metrics | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self._catalog = catalog
        self._deployments = deployments
        self._traffic = Traffic()
        self._waiting = WaitingRoom(settings.max_queued_tokens)
        self.metrics.models.show(self._model_states)

    @classmethod
    def over(cls, backends: Sequence[Backend], settings: Settings) -> Self:
        """A service over models that run already, and stay."""
        return cls(catalog_of(backends), FixedDeployments(backends), settings)

    def models(self) -> list[Listed]:
        """Every model of the catalogue and its state; the first answers where none is named."""
        return [self._listed(entry) for entry in self._catalog.entries()]

    def model(self, name: str | None) -> Listed:
        """One model, by any name that requests may use for it.

        Where any model of the hub may be named, these are only those that have been asked for:
        a look does not make one.

        Raises:
            UnknownModel: no model of that name is served.
        """
        return self._listed(self._known(name))

    async def load(self, name: str) -> Listed:
        """Load a model and wait until it is warm.

        Raises:
            UnknownModel: no model of that name is served.
            ModelLoadError: it cannot be loaded.
        """
        entry = self._catalog.find(name)
        await self._deployments.load(entry)
        self._catalog.add(entry)
        return self._listed(entry)

    async def unload(self, name: str) -> Listed:
        """Let a model's requests end, and give its memory back.

        Raises:
            UnknownModel: no model of that name is served.
        """
        entry = self._known(name)
        await self._deployments.unload(entry)
        return self._listed(entry)

    def pin(self, name: str, *, is_pinned: bool) -> Listed:
        """Keep a model from leaving by itself, or no longer.

        Raises:
            UnknownModel: no model of that name is served.
        """
        entry = self._known(name)
        self._deployments.pin(entry, is_pinned=is_pinned)
        return self._listed(entry)

    def problems(self) -> dict[str, str]:
        """What keeps this instance from answering: a name and a reason each."""
        return dict(self._deployments.problems())

    def _model_states(self) -> list[ModelState]:
        return [
            ModelState(one.id, one.status.state, one.status.memory_bytes) for one in self.models()
        ]

    def _known(self, name: str | None) -> ModelEntry:
        """A model of the catalogue, or one that is loading, runs, or is there and failed to load.

        Raises:
            UnknownModel: there is none of that name.
        """
        entry = self._catalog.find(name)
        status = self._deployments.status(entry)
        if status.state == "cold" or status.failure == "not_found":
            return self._catalog.find(name, may_join=False)
        return entry

    def _listed(self, entry: ModelEntry) -> Listed:
        return Listed(
            entry,
            self._deployments.status(entry),
            self._traffic.trending(entry.id),
            self._traffic.total(entry.id),
        )

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """One vector for each input.

        Raises:
            UnknownModel: no model of that name is served.
            InvalidRequest: an input, the prompt or `dimensions` cannot be used, or a limit is
                passed; its subclasses say which.
            ModelLoading, ModelLoadError: as `Deployments.use`.
            Overloaded, DeadlineExceeded, ComputeError: as `Backend.embed`.
        """
        path = item_path(request.field, is_single=request.is_single)
        check_inputs(request.inputs, path, request.field, self.settings.max_inputs_per_request)
        async with self._running(request) as (backend, deadline, load_ms):
            card = backend.card
            prompt = self._prompt(card, request.prompt_choice, request.inputs)
            warnings = check_dimensions(card, request.dimensions, request.dimensions_field)
            result = await self._run(
                backend,
                self._job(request, request.inputs, prompt, deadline),
                request.prompt_choice,
                request.field,
                path,
            )
            return EmbedResponse(
                card=card,
                vectors=_finish(card, result, request.normalize, request.dimensions),
                token_counts=result.token_counts,
                truncated_count=sum(result.truncated),
                # Token ids never get a prompt, so a list of nothing else had none.
                prompt=prompt if any(isinstance(i, str) for i in request.inputs) else Prompt(),
                warnings=warnings,
                timings=replace(result.timings, load_ms=load_ms),
            )

    async def compare(self, request: CompareRequest) -> CompareResponse:
        """One score for each document against the query, by the similarity of the model's card.

        Raises:
            UnknownModel, InvalidRequest, ModelLoading, ModelLoadError, Overloaded,
            DeadlineExceeded, ComputeError: as `embed`.
        """
        query_path = item_path(request.query_field, is_single=True)
        documents_path = item_path(request.documents_field)
        limit = self.settings.max_inputs_per_request
        check_inputs([request.query], query_path, request.query_field, limit)
        check_inputs(request.documents, documents_path, request.documents_field, limit)
        async with self._running(request) as (backend, deadline, load_ms):
            card = backend.card
            query_prompt = self._prompt(card, request.query_prompt_choice, [request.query], "query")
            document_prompt = self._prompt(
                card, request.document_prompt_choice, request.documents, "document"
            )
            query, documents = await _both(
                self._run(
                    backend,
                    self._job(request, [request.query], query_prompt, deadline),
                    request.query_prompt_choice,
                    request.query_field,
                    query_path,
                ),
                self._run(
                    backend,
                    self._job(request, request.documents, document_prompt, deadline),
                    request.document_prompt_choice,
                    request.documents_field,
                    documents_path,
                ),
            )
            query_vectors = _finish(card, query, "model", None)
            document_vectors = _finish(card, documents, "model", None)
            return CompareResponse(
                card=card,
                scores=similarity(query_vectors, document_vectors, card.similarity)[0],
                token_counts=[*query.token_counts, *documents.token_counts],
                truncated_count=sum(query.truncated) + sum(documents.truncated),
                prompt=query_prompt,
                warnings=(),
                timings=replace(documents.timings, load_ms=load_ms),
            )

    async def aclose(self) -> None:
        """Let requests end, and give back every model's memory."""
        await self._deployments.aclose()

    @asynccontextmanager
    async def _running(
        self, request: EmbedRequest | CompareRequest
    ) -> AsyncIterator[tuple[Backend, float | None, float]]:
        """The request's model, warm; when its answer is due; the milliseconds of waiting for it.

        The time that loading takes is not the request's own: it begins when the model is warm.
        """
        entry = self._catalog.find(request.model)
        patience_s = request.patience_s
        if patience_s is None:
            patience_s = self.settings.load_timeout_s
        started = time.perf_counter()
        async with AsyncExitStack() as stack:
            with self._waiting.place(request.items):
                backend = await stack.enter_async_context(
                    self._deployments.use(entry, patience_s=patience_s)
                )
            load_ms = (time.perf_counter() - started) * 1000
            self._catalog.add(entry)
            timeout_s = request.timeout_s
            if timeout_s is None:
                yield backend, None, load_ms
            else:
                try:
                    async with asyncio.timeout(timeout_s + _GRACE_S):
                        yield backend, time.monotonic() + timeout_s, load_ms
                except TimeoutError:
                    raise DeadlineExceeded(
                        f"no answer within {timeout_s:g} s, the time-out of this server"
                    ) from None
            self._traffic.count(entry.id)

    def _prompt(
        self,
        card: ModelCard,
        choice: PromptChoice,
        items: Sequence[Item],
        side: Side | None = None,
    ) -> Prompt:
        """The prompt of a choice; `side` is for callers who named none."""
        prompt = choose_prompt(card, choice)
        check_prompt_length(prompt, choice, items, self.settings.max_body_bytes)
        return replace(prompt, side=prompt.side or side)

    def _job(
        self,
        request: EmbedRequest | CompareRequest,
        items: Sequence[Item],
        prompt: Prompt,
        deadline: float | None,
    ) -> EmbedJob:
        return EmbedJob(
            items=items,
            prompt=prompt.text,
            truncation=request.truncation,
            side=prompt.side,
            priority=request.priority,
            deadline=deadline,
            max_total_tokens=self.settings.max_tokens_per_request,
        )

    async def _run(
        self, backend: Backend, job: EmbedJob, choice: PromptChoice, field_name: str, path: Path
    ) -> EmbedResult:
        """Compute each different item once, and answer for all of them in the job's order."""
        card, limit = backend.card, self.settings.max_tokens_per_request
        check_token_ids(job.items, path, card)
        items, places = distinct(job.items)
        try:
            result = await backend.embed(job if places is None else replace(job, items=items))
        except InvalidRequest as error:
            raise respelled(respelled_choice(error, choice), places, path, field_name) from None
        if not np.isfinite(result.vectors).all():
            raise ComputeError(f"{card.id} computed a value that is not finite")
        if places is None:
            return result
        # The backend counted each different item once; the limit is on what the caller sent.
        token_counts = [result.token_counts[place] for place in places]
        if sum(token_counts) > limit:
            raise TooManyInputs(
                f"`{field_name}` has {sum(token_counts)} tokens; one request takes at most {limit}",
                field=field_name,
            )
        return replace(
            result,
            vectors=result.vectors[places],
            token_counts=token_counts,
            truncated=[result.truncated[place] for place in places],
        )


def _finish(
    card: ModelCard, result: EmbedResult, normalization: Normalization, dimensions: int | None
) -> Vectors:
    """Cut, then normalize: the other order would leave cut vectors shorter than 1."""
    if normalization == "model":
        wanted = card.normalizes
    elif normalization == "similarity":
        wanted = card.normalizes or card.similarity != "dot"
    else:
        wanted = normalization
    vectors = result.vectors
    is_cut = dimensions is not None and dimensions < vectors.shape[1]
    if dimensions is not None and is_cut:
        vectors = cut_dimensions(vectors, dimensions)
    # A backend may offer normalized vectors only; cut, they must not pass for the raw ones.
    if (wanted and (is_cut or not result.normalized)) or (result.normalized and is_cut):
        vectors = normalize(vectors)
    return vectors


async def _both(
    one: Coroutine[Any, Any, EmbedResult], other: Coroutine[Any, Any, EmbedResult]
) -> tuple[EmbedResult, EmbedResult]:
    """Both at once, so that they share a batch; when one fails, the other leaves the queue."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(one), group.create_task(other)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()
