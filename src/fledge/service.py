"""The use cases: embed, compare, rerank. Every dialect, the CLI and the Python API end here.

A request names a model, a prompt and limits as its caller thinks of them; here they are resolved
against the model's card, checked, and become one `EmbedJob`. What comes back is put in the order
of the request, cut and normalized. Nothing here knows HTTP, a file format or an engine.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fledge.errors import ComputeError, InvalidRequest, TooManyInputs, UnknownModel
from fledge.inputs import (
    Path,
    check_dimensions,
    check_inputs,
    distinct,
    item_path,
    model_names,
    quoted,
    respelled,
)
from fledge.prompts import (
    Prompt,
    PromptChoice,
    check_prompt_length,
    choose_prompt,
    respelled_choice,
)
from fledge.settings import Settings
from fledge.types import (
    Backend,
    EmbedJob,
    EmbedResult,
    Health,
    Item,
    ModelCard,
    Side,
    Timings,
    Truncation,
    Vectors,
)
from fledge.vectors import cut_dimensions, normalize, ranking, similarity

Normalization: TypeAlias = bool | Literal["model", "similarity"]
"""True, false; `model`: as the model's own modules decide; `similarity`: normalized unless the
card says that its vectors are compared by the dot product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """Inputs to embed, as the caller asked for it.

    Attributes:
        inputs: texts, or lists of token ids; at least one.
        model: a name of the model; None means the first one served.
        prompt_choice: what goes before each text, and which side of a search the texts are on.
        dimensions: length of the vectors; None means the model's own.
        normalize: see `Normalization`.
        truncation: what happens to inputs that are too long.
        priority: smaller is sooner.
        deadline: `time.monotonic()` seconds after which nobody waits for the answer.
        field: how the caller spells the field of the inputs, for error messages.
        is_single: whether the caller gave one bare input, so that errors name no index.
        dimensions_field: how the caller spells the field of the dimensions, for error messages.
    """

    inputs: Sequence[Item]
    model: str | None = None
    prompt_choice: PromptChoice = field(default_factory=PromptChoice)
    dimensions: int | None = None
    normalize: Normalization = "model"
    truncation: Truncation = field(default_factory=Truncation)
    priority: int = 0
    deadline: float | None = None
    field: str = "inputs"
    is_single: bool = False
    dimensions_field: str = "dimensions"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """One text to compare with many, as the caller asked for it.

    Attributes:
        query: the one text.
        documents: the many; at least one.
        model: a name of the model; None means the first one served.
        query_prompt_choice: what goes before the query, and its side if that is not the query's.
        document_prompt_choice: likewise, for each of the documents.
        truncation: what happens to texts that are too long.
        priority: smaller is sooner.
        deadline: `time.monotonic()` seconds after which nobody waits for the answer.
        query_field: how the caller spells the field of the query, for error messages.
        documents_field: likewise, the field of the documents.
    """

    query: str
    documents: Sequence[str]
    model: str | None = None
    query_prompt_choice: PromptChoice = field(default_factory=PromptChoice)
    document_prompt_choice: PromptChoice = field(default_factory=PromptChoice)
    truncation: Truncation = field(default_factory=Truncation)
    priority: int = 0
    deadline: float | None = None
    query_field: str = "query"
    documents_field: str = "documents"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What every answer tells beside its result.

    Attributes:
        card: the model that computed it.
        token_counts: tokens of each input, in the order of the request; a comparison counts its
            query first.
        truncated_count: how many inputs were cut.
        prompt: what was put before the inputs (a comparison's query).
        warnings: what the caller should know, one sentence each.
        timings: where the time went.
    """

    card: ModelCard
    token_counts: Sequence[int]
    truncated_count: int
    prompt: Prompt
    warnings: tuple[str, ...]
    timings: Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResponse(Answer):
    """One vector for each input, in the order of the request."""

    vectors: Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResponse(Answer):
    """One score for each document, in the order of the request: larger is closer."""

    scores: NDArray[np.float32]

    def ranking(self, top_n: int | None = None) -> list[tuple[int, float]]:
        """Index and score of the `top_n` best documents, best first; ties keep their order."""
        return ranking(self.scores, top_n)


class Service:
    """The models being served, and what can be asked of them.

    Attributes:
        settings: the settings in force; only the limits matter here.
    """

    def __init__(self, backends: Sequence[Backend], settings: Settings) -> None:
        self.settings = settings
        self._backends = list(backends)
        self._index_by_name = model_names(self.cards())

    def cards(self) -> list[ModelCard]:
        """The cards of all models served; the first one answers requests that name no model."""
        return [backend.card for backend in self._backends]

    def health(self) -> list[tuple[str, Health]]:
        """Each model's id and state, now."""
        return [(backend.card.id, backend.health()) for backend in self._backends]

    def backend(self, model: str | None) -> Backend:
        """The backend of a model: by id, whatever its case, or by the part after the slash.

        A router's policy suffix (`org/name:fastest`) is dropped: there is one place to run here.

        Raises:
            UnknownModel: no model of that name is served.
        """
        if model is None:
            if not self._backends:
                raise UnknownModel("no model is served here")
            return self._backends[0]
        for name in (model, model.lower(), model.rpartition(":")[0].lower()):
            if name in self._index_by_name:
                return self._backends[self._index_by_name[name]]
        served = ", ".join(card.id for card in self.cards()) or "none"
        raise UnknownModel(f"the model {quoted(model)} is not served here; served: {served}")

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """One vector for each input.

        Raises:
            UnknownModel: no model of that name is served.
            InvalidRequest: an input, the prompt or `dimensions` cannot be used, or a limit is
                passed; its subclasses say which.
            Overloaded, DeadlineExceeded, ComputeError: as `Backend.embed`.
        """
        backend = self.backend(request.model)
        card = backend.card
        prompt = self._prompt(card, request.prompt_choice, request.inputs)
        warnings = check_dimensions(card, request.dimensions, request.dimensions_field)
        result = await self._run(
            backend,
            self._job(request, request.inputs, prompt),
            request.prompt_choice,
            request.field,
            item_path(request.field, is_single=request.is_single),
        )
        return EmbedResponse(
            card=card,
            vectors=_finish(card, result, request.normalize, request.dimensions),
            token_counts=result.token_counts,
            truncated_count=sum(result.truncated),
            # Token ids never get a prompt, so a list of nothing else had none.
            prompt=prompt if any(isinstance(i, str) for i in request.inputs) else Prompt(),
            warnings=warnings,
            timings=result.timings,
        )

    async def compare(self, request: CompareRequest) -> CompareResponse:
        """One score for each document against the query, by the similarity of the model's card.

        Raises:
            UnknownModel, InvalidRequest, Overloaded, DeadlineExceeded, ComputeError: as `embed`.
        """
        backend = self.backend(request.model)
        card = backend.card
        query_prompt = self._prompt(card, request.query_prompt_choice, [request.query], "query")
        document_prompt = self._prompt(
            card, request.document_prompt_choice, request.documents, "document"
        )
        query, documents = await _both(
            self._run(
                backend,
                self._job(request, [request.query], query_prompt),
                request.query_prompt_choice,
                request.query_field,
                item_path(request.query_field, is_single=True),
            ),
            self._run(
                backend,
                self._job(request, request.documents, document_prompt),
                request.document_prompt_choice,
                request.documents_field,
                item_path(request.documents_field),
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
            timings=documents.timings,
        )

    async def aclose(self) -> None:
        """Close every backend, also when one of them fails to."""
        async with AsyncExitStack() as stack:
            for backend in self._backends:
                stack.push_async_callback(backend.aclose)

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
        self, request: EmbedRequest | CompareRequest, items: Sequence[Item], prompt: Prompt
    ) -> EmbedJob:
        return EmbedJob(
            items=items,
            prompt=prompt.text,
            truncation=request.truncation,
            side=prompt.side,
            priority=request.priority,
            deadline=request.deadline,
            max_total_tokens=self.settings.max_tokens_per_request,
        )

    async def _run(
        self, backend: Backend, job: EmbedJob, choice: PromptChoice, field_name: str, path: Path
    ) -> EmbedResult:
        """Compute each different item once, and answer for all of them in the job's order."""
        card, limit = backend.card, self.settings.max_tokens_per_request
        check_inputs(job.items, path, field_name, card, self.settings.max_inputs_per_request)
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
