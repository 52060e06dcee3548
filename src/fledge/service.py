"""The use cases: embed, compare, rerank, list. Every dialect, the CLI and the Python API end here.

A request names a model, a prompt and limits as its caller thinks of them; here they are resolved
against the catalogue and the model's card, checked, and become one `EmbedJob`. What comes back is
put in the order of the request, cut and normalized. Nothing here knows HTTP, a file format or an
engine.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

from fledge.accounts.accounts import Accounts
from fledge.accounts.callers import NOBODY, Caller
from fledge.accounts.charges import Charge, count_failure, estimate_tokens
from fledge.answering import Answered, Answering, Part
from fledge.cache.cache import Cache
from fledge.catalog.catalog import Catalog
from fledge.catalog.listed import Listed, ListedProvider
from fledge.catalog.traffic import Traffic
from fledge.errors import (
    BackendUnavailable,
    FledgeError,
    ModelLoadError,
    ModelLoading,
    UnknownModel,
)
from fledge.finishing import finished, provider_warnings
from fledge.fixed import FixedDeployments, catalog_of
from fledge.inputs import check_dimensions, check_inputs, item_path
from fledge.names import is_loopback
from fledge.prompts import Prompt, PromptChoice, check_prompt_length, choose_prompt
from fledge.requests import (
    Answer,
    CompareRequest,
    CompareResponse,
    EmbedRequest,
    EmbedResponse,
)
from fledge.routing.switchboard import Switchboard
from fledge.routing.wishes import wished
from fledge.settings import Settings
from fledge.telemetry.metrics import Metrics
from fledge.telemetry.states import ModelState
from fledge.types import (
    LOCAL,
    Backend,
    Deployments,
    Item,
    ModelCard,
    ModelEntry,
    Side,
    Standing,
)
from fledge.vectors import similarity


class Service:
    """The models of a catalogue, and what can be asked of them.

    Args:
        catalog: which models there are, and their names.
        deployments: where they run.
        settings: the settings in force; only limits matter here.
        metrics: what is counted on the way.
        cache: answers that were computed before; None: nothing is kept.
        accounts: keys, limits and usage; None: neither is there.

    Attributes:
        settings: likewise.
        metrics: likewise.
        accounts: likewise.
        providers_of: how a model stands at providers, for listings; by itself at none.
    """

    def __init__(
        self,
        catalog: Catalog,
        deployments: Deployments,
        settings: Settings,
        *,
        metrics: Metrics | None = None,
        cache: Cache | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.accounts = accounts or Accounts()
        self._catalog = catalog
        self._deployments = deployments
        self._answering = Answering(catalog, deployments, settings, cache)
        self.providers_of: Callable[[ModelEntry], Sequence[ListedProvider]] = lambda _: ()
        self._traffic = Traffic()
        self._is_private = is_loopback(settings.host) and not settings.no_auth
        self.metrics.models.show(self._model_states)
        self.metrics.show_cache(self._answering.cache_state)
        self.metrics.show_accounts(self.accounts.state)

    def switch_through(self, switchboard: Switchboard) -> None:
        """Have requests answered wherever it has them answered best, from now on."""
        self._answering.switchboard = switchboard

    @property
    def switchboard(self) -> Switchboard | None:
        """What finds the deployment of each request; None: all are computed here."""
        return self._answering.switchboard

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

    async def load(self, name: str, caller: Caller = NOBODY) -> Listed:
        """Load a model and wait until it is warm.

        Raises:
            UnknownModel: no model of that name is served.
            ModelLoadError: it cannot be loaded.
        """
        entry = self._catalog.find(name, may_join=self._may_join(caller))
        if not entry.runs_locally:
            raise UnknownModel(f"{entry.id} runs at providers alone: there is nothing to load here")
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
            self.providers_of(entry),
        )

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """One vector for each input.

        Raises:
            UnknownModel: no model of that name is served.
            InvalidRequest: an input, the prompt or `dimensions` cannot be used, or a limit is
                passed; its subclasses say which.
            Forbidden, LimitExceeded, LimitsUnavailable: the caller may not.
            ModelLoading, ModelLoadError: as `Deployments.use`.
            Overloaded, DeadlineExceeded, ComputeError: as `Backend.embed`.
        """
        path = item_path(request.field, is_single=request.is_single)
        check_inputs(request.inputs, path, request.field, self.settings.max_inputs_per_request)

        def parts_of(card: ModelCard) -> list[Part]:
            check_dimensions(card, request.dimensions, request.dimensions_field)
            prompt = self._prompt(card, request.prompt_choice, request.inputs)
            return [
                Part(
                    items=request.inputs,
                    prompt=prompt,
                    choice=request.prompt_choice,
                    field=request.field,
                    path=path,
                )
            ]

        answered, standing = await self._answer(request, parts_of)
        card, result, prompt = answered.card, answered.results[0], answered.parts[0].prompt
        if not card.dimension:  # a provider's, which is known now
            card = replace(card, dimension=result.vectors.shape[1])
        return EmbedResponse(
            card=card,
            vectors=finished(card, result, request.normalize, request.dimensions),
            token_counts=result.token_counts,
            truncated_count=sum(result.truncated),
            hit_count=answered.hit_count,
            standing=standing,
            # Token ids never get a prompt, so a list of nothing else had none.
            prompt=prompt if any(isinstance(i, str) for i in request.inputs) else Prompt(),
            warnings=(
                *check_dimensions(card, request.dimensions, request.dimensions_field),
                *provider_warnings(card, result, request.normalize),
            ),
            cost_nanos=answered.cost_nanos,
            timings=replace(result.timings, load_ms=answered.load_ms, cache_ms=answered.cache_ms),
        )

    async def compare(self, request: CompareRequest) -> CompareResponse:
        """One score for each document against the query, by the similarity of the model's card.

        Raises:
            UnknownModel, InvalidRequest, Forbidden, LimitExceeded, LimitsUnavailable, ModelLoading,
            ModelLoadError, Overloaded, DeadlineExceeded, ComputeError: as `embed`.
        """
        query_path = item_path(request.query_field, is_single=True)
        documents_path = item_path(request.documents_field)
        limit = self.settings.max_inputs_per_request
        check_inputs([request.query], query_path, request.query_field, limit)
        check_inputs(request.documents, documents_path, request.documents_field, limit)

        def parts_of(card: ModelCard) -> list[Part]:
            query, documents = [request.query], request.documents
            query_choice, document_choice = (
                request.query_prompt_choice,
                request.document_prompt_choice,
            )
            return [
                Part(
                    items=query,
                    prompt=self._prompt(card, query_choice, query, "query"),
                    choice=query_choice,
                    field=request.query_field,
                    path=query_path,
                ),
                Part(
                    items=documents,
                    prompt=self._prompt(card, document_choice, documents, "document"),
                    choice=document_choice,
                    field=request.documents_field,
                    path=documents_path,
                ),
            ]

        answered, standing = await self._answer(request, parts_of)
        card, (query, documents) = answered.card, answered.results
        query_vectors = finished(card, query, "model", None)
        document_vectors = finished(card, documents, "model", None)
        return CompareResponse(
            card=card,
            scores=similarity(query_vectors, document_vectors, card.similarity)[0],
            token_counts=[*query.token_counts, *documents.token_counts],
            truncated_count=sum(query.truncated) + sum(documents.truncated),
            hit_count=answered.hit_count,
            standing=standing,
            prompt=answered.parts[0].prompt,
            warnings=provider_warnings(card, documents, "model"),
            cost_nanos=answered.cost_nanos,
            timings=replace(
                documents.timings, load_ms=answered.load_ms, cache_ms=answered.cache_ms
            ),
        )

    async def _answer(
        self,
        request: EmbedRequest | CompareRequest,
        parts_of: Callable[[ModelCard], Sequence[Part]],
    ) -> tuple[Answered, Standing]:
        """Answer on the caller's account; how that stands afterwards."""
        caller = request.caller
        try:
            request, entry = self._routed(request)
        except FledgeError:
            count_failure(self.accounts, caller, "")
            raise
        self._check_model(caller, entry)
        tokens = 0 if caller.key is None else estimate_tokens(request.items)
        async with Charge(self.accounts, caller, self._counted_as(entry), tokens) as charge:
            answered = await self._answering.answer(entry, request, parts_of)
            charge.model = entry.id
            charge.settle(
                deployment=answered.card.deployment,
                texts=len(request.items),
                tokens=sum(sum(one.token_counts) for one in answered.results),
                cache_hits=answered.hit_count,
                compute_s=sum(one.timings.busy_ms for one in answered.results) / 1000,
                cost_nanos=answered.cost_nanos or 0,
            )
        self._traffic.count(entry.id)
        return answered, charge.standing

    def _routed(
        self, request: EmbedRequest | CompareRequest
    ) -> tuple[EmbedRequest | CompareRequest, ModelEntry]:
        """The request with the route that it names, and its model."""
        deployments = self.switchboard.deployments if self.switchboard else frozenset((LOCAL,))
        name, route = wished(request.model, request.route, deployments)
        provider, may_join = next(iter(route.names), None), self._may_join(request.caller)
        entry = self._catalog.find(name, provider=provider, may_join=may_join)
        return request if route is request.route else replace(request, route=route), entry

    def _may_join(self, caller: Caller) -> bool:
        """Whether a caller may name any model of the hub, where the settings leave that open."""
        if self.settings.allow_any_model is not None:
            return self.settings.allow_any_model
        return self._is_private if caller.key is None else caller.is_admin

    async def repeat(self, model: str | None, answer: Answer, caller: Caller) -> Standing | None:
        """Let an answer be given once more, on a caller's account; how that stands afterwards.

        None: the model that runs is not the one that answered, and has to be asked.

        Raises:
            Forbidden, LimitExceeded, LimitsUnavailable: the caller may not.
        """
        entry = self._catalog.find(model)
        self._check_model(caller, entry)
        texts, tokens = len(answer.token_counts), sum(answer.token_counts)
        try:
            # Held for a moment, since a model that answers is in use.
            async with self._deployments.use(entry, patience_s=0) as backend:
                if backend.card is not answer.card:
                    return None
                async with Charge(self.accounts, caller, entry.id, tokens) as charge:
                    charge.settle(texts=texts, tokens=tokens, cache_hits=texts)
        except (BackendUnavailable, ModelLoading, ModelLoadError):
            return None  # which is found out, told and counted in the usual way
        self._answering.count_repeat(texts)
        self._traffic.count(entry.id)
        return charge.standing

    def _check_model(self, caller: Caller, entry: ModelEntry) -> None:
        try:
            caller.check_model(entry.id)
        except FledgeError:
            count_failure(self.accounts, caller, self._counted_as(entry))
            raise

    def _counted_as(self, entry: ModelEntry) -> str:
        """The model of a request that may fail; empty for one that was only named as yet: where
        any model of the hub may be, callers would make rows without end."""
        return entry.id if entry in self._catalog else ""

    async def aclose(self) -> None:
        """Let requests end, write what was counted, and give back every model's memory."""
        try:
            # Beside each other: a cache whose disk hangs must not take the time of the usage.
            closed = await asyncio.gather(
                self._answering.aclose(), self.accounts.aclose(), return_exceptions=True
            )
        finally:
            await self._deployments.aclose()
        for error in closed:
            if error is not None:
                raise error

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
