"""A static model as a `Backend`: no graph, no compute lane, far less than a millisecond a text.

Short requests are answered on the event loop; longer ones by two threads, so that one of them does
not hold up the next. Work is done a bounded number of characters at a time, whatever a request
holds, and stops as soon as it has more tokens than it may.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fledge.engine.admission import Admission, Tally, check_deadline
from fledge.engine.bags import Ids
from fledge.engine.items import check_total, no_tokens
from fledge.engine.ops.numpy import NumpyOps
from fledge.engine.sources import ModelFolder
from fledge.engine.static_recipe import StaticRecipe
from fledge.engine.static_tokenizer import CHARS_PER_TOKEN, Split, StaticTokenizer
from fledge.engine.workers import UNLOADED, Workers
from fledge.errors import (
    BackendUnavailable,
    ComputeError,
    CorruptModel,
)
from fledge.types import EmbedJob, EmbedResult, Health, Item, ModelCard, Timings, Tokens, Vectors

INLINE_CHARS = 1_000
INLINE_NUMBERS = 2**18
"""Of a request that is answered on the event loop, within about a millisecond: characters, and
numbers of its vectors and of the weights that each of them is multiplied by."""

GROUP_CHARS = 2**20
GROUP_NUMBERS = 2**24
"""Characters, and numbers of the first vectors, that are worked on at once."""

TOKENS_PER_S = 1_000_000
"""A guess, for refusing what would wait too long."""

ARITHMETIC = "static-1"
"""Raised when the numbers change, so that vectors kept of older ones are never found again."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """All that is let go when the model is unloaded."""

    recipe: StaticRecipe
    tokenizer: StaticTokenizer
    ops: NumpyOps

    def vectors(self, texts: Sequence[Ids], first: int) -> Vectors:
        """One vector each.

        Args:
            first: the number of the first text in its job, for errors.

        Raises:
            EmptyInput: a text without tokens, where the model has no vector for it.
            ComputeError: a vector is not finite.
        """
        if self.recipe.bag.needs_tokens:
            for index, ids in enumerate(texts, start=first):
                if not len(ids):
                    raise no_tokens(index)
        with np.errstate(over="ignore", invalid="ignore"):  # looked for below
            vectors = self.recipe.bag.vectors(texts)
            for module in self.recipe.modules:
                vectors = module.apply(self.ops, vectors)
        if not np.isfinite(vectors).all():
            raise ComputeError("the model computed a vector that is not finite")
        return vectors


class StaticBackend:
    """One static model. Make it with `make_static_backend`."""

    def __init__(self, card: ModelCard, recipe: StaticRecipe, *, max_queued_tokens: int) -> None:
        self._card = card
        tokenizer = StaticTokenizer(recipe.splitter, recipe.limits)
        self._loaded: _Loaded | None = _Loaded(recipe, tokenizer, NumpyOps(recipe.weights))
        self._numbers = recipe.bag.size + sum(one.size for one in recipe.weights.values())
        self._admission = Admission(max_queued_tokens)
        self._waiting = Tally()
        self._workers = Workers("fledge-static")
        self._closed = False

    @property
    def card(self) -> ModelCard:
        """What this deployment serves."""
        return self._card

    async def embed(self, job: EmbedJob) -> EmbedResult:
        """Compute the job. See `Backend.embed` for what is raised."""
        self._check_open()
        entered = time.perf_counter()
        chars = _chars(job.items) + len(job.prompt or "") * len(job.items)
        if chars <= INLINE_CHARS and len(job.items) * self._numbers <= INLINE_NUMBERS:
            return self._compute(job, entered)
        tokens = self._about_tokens(job)
        self._admission.check(
            tokens,
            job.tenant,
            waiting=self._waiting.total,
            by_tenant=self._waiting.by_tenant,
            tokens_per_s=TOKENS_PER_S,
        )
        with self._waiting.holding(job.tenant, tokens):
            return await self._workers.run(self._compute, job, entered)

    def _about_tokens(self, job: EmbedJob) -> int:
        """A guess, from lengths alone: no item gives more than the model takes."""
        limit, prompt_chars = self._card.max_seq_length, len(job.prompt or "")
        about = sum(
            min((len(item) + prompt_chars) // CHARS_PER_TOKEN + 1, limit) for item in job.items
        )
        return about if job.max_total_tokens is None else min(about, job.max_total_tokens)

    def _compute(self, job: EmbedJob, entered: float) -> EmbedResult:
        loaded = self._open()
        started = time.perf_counter()
        splits: list[Split] = []
        groups: list[tuple[int, int]] = []
        total = 0
        for first, items in _groups(job, loaded.recipe.bag.size):
            check_deadline(job.deadline, entered)
            found = loaded.tokenizer.split(job, items, first=first, taken=total)
            total += sum(len(one.ids) for one in found)
            splits += found
            groups.append((first, len(splits)))
            check_total(total, job.max_total_tokens, is_all=len(splits) == len(job.items))
        tokenized = time.perf_counter()
        vectors: list[Vectors] = []
        for first, end in groups:
            check_deadline(job.deadline, entered)
            vectors.append(loaded.vectors([one.ids for one in splits[first:end]], first))
        compute_ms = (time.perf_counter() - tokenized) * 1000
        return EmbedResult(
            vectors=np.concatenate(vectors),
            token_counts=[len(one.ids) for one in splits],
            truncated=[one.is_cut for one in splits],
            timings=Timings(
                tokenize_ms=(tokenized - started) * 1000,
                queue_ms=(started - entered) * 1000,
                compute_ms=compute_ms,
                busy_ms=compute_ms,
            ),
        )

    def warm_up(self) -> None:
        """Compute one token.

        Raises:
            CorruptModel: the model computes no number at all, or more or fewer than it promises.
        """
        loaded = self._open()
        try:
            vectors = loaded.vectors([np.zeros(1, np.int32)], 0)
        except ComputeError as error:
            raise CorruptModel(f"the model's warm-up failed: {error}") from error
        if vectors.shape[1] != loaded.recipe.dimension:
            raise CorruptModel(
                f"the model's vectors have {vectors.shape[1]} numbers, "
                f"but its configs speak of {loaded.recipe.dimension}"
            )

    async def tokenize(self, texts: Sequence[str], *, prompt: str | None = None) -> list[Tokens]:
        """The tokens that `embed` would compute, before any truncation."""
        self._check_open()
        return await self._workers.run(self._open().tokenizer.tokens, texts, prompt)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendUnavailable(UNLOADED)

    def _open(self) -> _Loaded:
        """What to compute with; accepted work keeps it while the model is being unloaded."""
        if (loaded := self._loaded) is None:
            raise BackendUnavailable(UNLOADED)
        return loaded

    def health(self) -> Health:
        """Warm until it is closed."""
        return Health("cold", "unloaded") if self._closed else Health("warm")

    async def aclose(self) -> None:
        """Unload without holding up the loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def close(self) -> None:
        """Finish what was accepted, and give the memory back. Safe to call twice."""
        self._closed = True
        self._workers.close()
        self._loaded = None


def _chars(items: Sequence[Item]) -> int:
    """Characters and token ids alike."""
    return sum(map(len, items))


def _groups(job: EmbedJob, size: int) -> Iterator[tuple[int, Sequence[Item]]]:
    """The job's items a few at a time, each time with the number of the first one."""
    most, prompt_chars = max(1, GROUP_NUMBERS // size), len(job.prompt or "")
    first, chars = 0, 0
    for index, item in enumerate(job.items):
        if index > first and (chars + len(item) > GROUP_CHARS or index - first >= most):
            yield first, job.items[first:index]
            first, chars = index, 0
        chars += len(item) + prompt_chars
    yield first, job.items[first:]


def make_static_backend(
    source: ModelFolder, recipe: StaticRecipe, *, max_queued_tokens: int
) -> StaticBackend:
    """A static model, ready to answer.

    Raises:
        CorruptModel: its modules do not fit each other.
    """
    card = ModelCard(
        id=source.id,
        revision=source.revision,
        family=recipe.kind,
        precision="fp32",  # computed in, whatever the table is stored in
        dimension=recipe.dimension,
        max_seq_length=recipe.limits.max_tokens,
        vocab_size=recipe.splitter.vocab_size,
        pooling=recipe.pooling,
        prompts={**source.prompts, **recipe.speech.prompts},
        default_prompt_name=recipe.speech.default_prompt_name,
        similarity=recipe.speech.similarity,
        normalizes=recipe.normalizes,
        matryoshka_dimensions=source.matryoshka_dimensions,
        arithmetic=ARITHMETIC,
        origin=source.origin,
    )
    backend = StaticBackend(card, recipe, max_queued_tokens=max_queued_tokens)
    try:
        backend.warm_up()
    except BaseException:
        backend.close()
        raise
    return backend
