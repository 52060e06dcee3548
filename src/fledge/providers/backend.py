"""A provider's model as a `Backend`: what its wire shape cannot carry is done here, or refused.

Prompts are put before the texts, big jobs go out as several requests, vectors are checked, and what
became of texts that are too long is found out, since few providers tell. `dimensions` are never
sent: vectors come whole, and are cut where those of every other deployment are.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from fledge.errors import BackendUnavailable, CannotCarry, DeadlineExceeded
from fledge.providers import lengths
from fledge.providers.asking import Errand, answer, most_inputs
from fledge.providers.checks import check_kinds, check_lengths, check_total, prompt_to_put
from fledge.providers.client import ProviderClient
from fledge.providers.lengths import Sized
from fledge.providers.parts import Part, PartAnswer, join, split
from fledge.providers.provider import Provider
from fledge.types import (
    EmbedJob,
    EmbedResult,
    Health,
    ModelCard,
    ModelEntry,
    Timings,
    Tokens,
    Vectors,
)
from fledge.vectors import lengths as lengths_of

CountTokens: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[int]]]
"""Tokens of each text, special ones included, by the model's own tokenizer; nothing is cut."""

_UNIT_TOLERANCE = 1e-3
"""Vectors of half precision, or of few digits, are this near to length 1 when they are meant to."""


class ProviderBackend:
    """One model at one provider.

    Args:
        entry: what the catalogue knows of the model.
        client: the provider; shared with its other models, and closed by whoever made it.
        provider_id: the provider's own name for the model.
        count_tokens: where the model's tokenizer is at hand. With it, counts are exact, and texts
            that are too long are known before they are sent.
    """

    def __init__(
        self,
        entry: ModelEntry,
        client: ProviderClient,
        *,
        provider_id: str,
        count_tokens: CountTokens | None = None,
    ) -> None:
        self._client = client
        self._shape = client.provider.shape
        self._card = card_of(entry, client.provider, provider_id)
        self._count_tokens = count_tokens
        self._closed = False

    @property
    def card(self) -> ModelCard:
        """What this deployment serves; its dimension is known after the first answer at last."""
        return self._card

    async def embed(self, job: EmbedJob) -> EmbedResult:
        """Ask the provider. See `Backend.embed` for what else is raised.

        Raises:
            ProviderUnavailable: no answer, or a wrong one; another deployment may be asked.
            ProviderRefused: the provider refused the request, or this server (`ProviderDenied`).
            CannotCarry: the provider cannot be asked for this; another deployment may be.
        """
        self._check_open()
        entered = time.perf_counter()
        errand = Errand(job, lengths.token_limit(self._card, job.truncation), self._card)
        try:
            async with asyncio.timeout(_left_s(job)):
                inputs = await self._measure(job)
                check_lengths(inputs, job.truncation, errand.limit, self._shape, self._card)
                check_total(inputs, errand.limit, job.max_total_tokens)
                whole = await self._ask_all(inputs, errand)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self._card.deployment} had not answered when the time was over"
            ) from None
        self._learn_dimension(whole.vectors)
        ended = time.perf_counter()
        began = errand.began or ended
        return EmbedResult(
            vectors=whole.vectors,
            token_counts=whole.token_counts,
            truncated=whole.truncated,
            normalized=are_normalized(whole.vectors),
            counts_estimated=whole.counts_estimated,
            timings=Timings(queue_ms=(began - entered) * 1000, compute_ms=(ended - began) * 1000),
        )

    async def tokenize(self, texts: Sequence[str], *, prompt: str | None = None) -> list[Tokens]:  # noqa: ARG002 - refused
        """Not here.

        Raises:
            CannotCarry: always.
        """
        raise CannotCarry(f"{self._card.deployment} does not show the tokens of a text")

    def health(self) -> Health:
        """Warm until it is closed: how a provider does is known by those who ask it."""
        return Health("cold", "closed") if self._closed else Health("warm")

    async def aclose(self) -> None:
        """Take no more work; the client stays open for other models. Safe to call twice."""
        self._closed = True

    async def _measure(self, job: EmbedJob) -> list[Sized]:
        """The job's inputs as they are sent."""
        check_kinds(job.items, self._shape, self._card)
        prompt = prompt_to_put(job.prompt, self._shape, self._card)
        inputs = lengths.measure(job.items, prompt)
        texts = [one.item for one in inputs if isinstance(one.item, str)]
        if self._count_tokens is None or not texts:
            return inputs
        counts = iter(await self._count_tokens(texts))
        return [
            replace(one, token_count=next(counts)) if isinstance(one.item, str) else one
            for one in inputs
        ]

    async def _ask_all(self, inputs: Sequence[Sized], errand: Errand) -> PartAnswer:
        """All parts, as many at once as there are places; when one fails, the others are given up.

        A job is never in line for more places than there are, so that one that comes later waits
        for a round of it and not for all.
        """
        limits = self._client.provider.limits
        most = min(limits.max_inputs, most_inputs(self._card.dimension))
        parts = split(inputs, replace(limits, max_inputs=most))
        if len(parts) == 1:
            return await answer(self._client, parts[0], errand)
        answers: dict[int, PartAnswer] = {}
        left = iter(parts)

        async def work(left: Iterator[Part]) -> None:
            for part in left:
                answers[part.first] = await answer(self._client, part, errand)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(parts), self._client.places.total)):
                    group.create_task(work(left))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return join([answers[part.first] for part in parts], self._card.deployment)

    def _learn_dimension(self, vectors: Vectors) -> None:
        if not self._card.dimension:
            self._card = replace(self._card, dimension=vectors.shape[1])

    def _check_open(self) -> None:
        if self._closed:
            raise BackendUnavailable(f"{self._card.deployment} is not asked any more")


def card_of(entry: ModelEntry, provider: Provider, provider_id: str) -> ModelCard:
    """The card of a model at a provider: what the catalogue knows, and 0 for what nobody does.

    Its revision is the provider's address and shape: under a name that leads elsewhere by now,
    neither kept vectors nor what was found out of their space hold any more.
    """
    where = f"{type(provider.shape).__name__} {provider.base_url}"
    return ModelCard(
        id=entry.id,
        revision=hashlib.sha256(where.encode()).hexdigest()[:16],
        family=entry.family or "",
        precision="fp32",
        dimension=entry.dimension or 0,
        max_seq_length=entry.max_seq_length or 0,
        vocab_size=0,
        pooling=entry.pooling,
        prompts=entry.prompts,
        default_prompt_name=entry.default_prompt_name,
        similarity=entry.similarity or "cosine",
        normalizes=bool(entry.normalizes),
        matryoshka_dimensions=entry.matryoshka_dimensions,
        origin=f"{provider_id} at {provider.name}",
        deployment=provider.name,
        provider_id=provider_id,
    )


def are_normalized(vectors: Vectors) -> bool:
    """Whether all of them came with length 1; few providers say so."""
    return bool(np.all(np.abs(lengths_of(vectors) - 1.0) <= _UNIT_TOLERANCE))


def _left_s(job: EmbedJob) -> float | None:
    return None if job.deadline is None else job.deadline - time.monotonic()
