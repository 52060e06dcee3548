"""A static model as a `Backend`: no graph, no compute lane, far less than a millisecond a text.

Short requests are answered on the event loop; longer ones by two threads, so that one of them does
not hold up the next. Work is done a bounded number of characters at a time, whatever a request
holds, and stops as soon as it has more tokens than it may.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from fledge.engine.bags import Ids
from fledge.engine.items import check_ids, check_total, check_unicode, no_tokens, too_long
from fledge.engine.ops.numpy import NumpyOps
from fledge.engine.sources import ModelFolder
from fledge.engine.splitters import Splitter
from fledge.engine.static_recipe import Limits, StaticRecipe
from fledge.errors import (
    BackendUnavailable,
    ComputeError,
    CorruptModel,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
)
from fledge.types import (
    EmbedJob,
    EmbedResult,
    Health,
    Item,
    ModelCard,
    Timings,
    Tokens,
    Truncation,
    Vectors,
)

INLINE_CHARS = 1_000
INLINE_NUMBERS = 2**18
"""Of a request that is answered on the event loop, within about a millisecond."""

GROUP_CHARS = 2**20
GROUP_NUMBERS = 2**24
"""Characters, and numbers of the first vectors, that are worked on at once."""

CHARS_PER_TOKEN = 4
TOKENS_PER_S = 1_000_000
"""Guesses, for refusing what would wait too long."""


@dataclass(frozen=True, slots=True)
class Split:
    """One item, ready to be computed: its ids, and whether anything was cut away."""

    ids: Ids
    is_cut: bool


class StaticTokenizer:
    """Items to ids: prompts, limits and cutting, with no special tokens to mind."""

    def __init__(self, splitter: Splitter, limits: Limits) -> None:
        self._splitter = splitter
        self._limits = limits

    def split(
        self, items: Sequence[Item], *, first: int, prompt: str | None, truncation: Truncation
    ) -> list[Split]:
        """A part of a job's items as ids.

        Args:
            first: the number of the first one in the job, for errors.
            prompt: put before each text, not before token ids.
            truncation: what happens beyond the limit.

        Raises:
            InputTooLong: an item is too long and `truncation.refuse` is set.
            InvalidRequest: a token id outside the vocabulary, half of a surrogate pair in a text,
                or a limit without room for anything.
        """
        limit, is_left = self._limit(truncation), self._is_left(truncation)
        check_unicode(items, first)
        texts = [(prompt or "") + item for item in items if isinstance(item, str)]
        heads = [self._head(text, limit, is_left=is_left) for text in texts]
        of_texts = zip(texts, heads, self._splitter.ids(heads) if heads else (), strict=True)
        found = []
        for index, item in enumerate(items, start=first):
            is_whole = True
            if isinstance(item, str):
                text, head, ids = next(of_texts)
                is_whole = len(head) == len(text)
            else:
                ids = item
            if (is_cut := len(ids) > limit or not is_whole) and truncation.refuse:
                raise too_long(index, limit, len(ids), is_whole=is_whole)
            kept = ids[-limit:] if is_left else ids[:limit]
            if not isinstance(item, str):
                check_ids(kept, index, self._splitter.vocab_size)
            array = np.asarray(kept, np.int32)
            if isinstance(item, str) and self._limits.dropped_id is not None:
                array = array[array != self._limits.dropped_id]
            found.append(Split(array, is_cut))
        return found

    def tokens(self, texts: Sequence[str], prompt: str | None) -> list[Tokens]:
        """The tokens of texts with their places, nothing cut.

        Raises:
            InvalidRequest: half of a surrogate pair in a text.
        """
        check_unicode(texts)
        dropped = self._limits.dropped_id
        found = self._splitter.tokens([(prompt or "") + text for text in texts])
        if dropped is None:
            return found
        kept = [[n for n, token in enumerate(one.ids) if token != dropped] for one in found]
        return [
            Tokens([one.ids[n] for n in places], [one.offsets[n] for n in places])
            for one, places in zip(found, kept, strict=True)
        ]

    def _limit(self, truncation: Truncation) -> int:
        if truncation.max_tokens is None:
            return self._limits.max_tokens
        if truncation.max_tokens < 1:
            raise InvalidRequest(
                f"max_tokens is {truncation.max_tokens}, which leaves no room for a text",
                field="max_tokens",
            )
        return min(truncation.max_tokens, self._limits.max_tokens)

    def _is_left(self, truncation: Truncation) -> bool:
        return (truncation.side or self._limits.side) == "left"

    def _head(self, text: str, limit: int, *, is_left: bool) -> str:
        """As many characters as the model itself looks at."""
        if self._limits.chars_per_token is None:
            return text
        chars = max(limit * self._limits.chars_per_token, 1)
        return text[-chars:] if is_left else text[:chars]


class StaticBackend:
    """One static model. Make it with `make_static_backend`."""

    def __init__(self, card: ModelCard, recipe: StaticRecipe, *, max_queued_tokens: int) -> None:
        self._card = card
        self._recipe = recipe
        self._tokenizer = StaticTokenizer(recipe.splitter, recipe.limits)
        self._ops = NumpyOps(recipe.weights)
        self._max_queued_tokens = max_queued_tokens
        self._queued_tokens = 0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="fledge-static")
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
        if chars <= INLINE_CHARS and len(job.items) * self._recipe.bag.size <= INLINE_NUMBERS:
            return self._compute(job, entered)
        tokens = chars // CHARS_PER_TOKEN + len(job.items)
        if self._queued_tokens and self._queued_tokens + tokens > self._max_queued_tokens:
            raise Overloaded(
                f"about {self._queued_tokens} tokens are waiting already, and at most "
                f"{self._max_queued_tokens} may (max_queued_tokens); this request has about "
                f"{tokens}: try again later",
                retry_after_s=max(1.0, self._queued_tokens / TOKENS_PER_S),
            )
        self._queued_tokens += tokens
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._compute, job, entered
            )
        finally:
            self._queued_tokens -= tokens

    def _compute(self, job: EmbedJob, entered: float) -> EmbedResult:
        started = time.perf_counter()
        if job.deadline is not None and job.deadline < time.monotonic():
            raise DeadlineExceeded(f"gave up after {started - entered:.1f} s in the queue")
        splits: list[tuple[int, bool]] = []
        vectors: list[Vectors] = []
        total, tokenize_s = 0, 0.0
        for first, items in _groups(job, self._recipe.bag.size):
            begun = time.perf_counter()
            found = self._tokenizer.split(
                items, first=first, prompt=job.prompt, truncation=job.truncation
            )
            tokenize_s += time.perf_counter() - begun
            splits += [(len(one.ids), one.is_cut) for one in found]
            total += sum(len(one.ids) for one in found)
            check_total(total, job.max_total_tokens)
            vectors.append(self._vectors([one.ids for one in found], first))
        compute_s = time.perf_counter() - started - tokenize_s
        return EmbedResult(
            vectors=np.concatenate(vectors),
            token_counts=[count for count, _ in splits],
            truncated=[is_cut for _, is_cut in splits],
            timings=Timings(
                tokenize_ms=tokenize_s * 1000,
                queue_ms=(started - entered) * 1000,
                compute_ms=compute_s * 1000,
            ),
        )

    def _vectors(self, texts: Sequence[Ids], first: int) -> Vectors:
        """One vector each.

        Raises:
            EmptyInput: a text without tokens, where the model has no vector for it.
            ComputeError: a vector is not finite.
        """
        if self._recipe.bag.needs_tokens:
            for index, ids in enumerate(texts, start=first):
                if not len(ids):
                    raise no_tokens(index)
        with np.errstate(over="ignore", invalid="ignore"):  # looked for below
            vectors = self._recipe.bag.vectors(texts)
            for module in self._recipe.modules:
                vectors = module.apply(self._ops, vectors)
        if not np.isfinite(vectors).all():
            raise ComputeError("the model computed a vector that is not finite")
        return vectors

    def warm_up(self) -> None:
        """Compute one token.

        Raises:
            CorruptModel: the model computes no number at all, or more or fewer than it promises.
        """
        try:
            vectors = self._vectors([np.zeros(1, np.int32)], 0)
        except ComputeError as error:
            raise CorruptModel(f"the model's warm-up failed: {error}") from error
        if vectors.shape[1] != self._recipe.dimension:
            raise CorruptModel(
                f"the model's vectors have {vectors.shape[1]} numbers, "
                f"but its configs speak of {self._recipe.dimension}"
            )

    async def tokenize(self, texts: Sequence[str], *, prompt: str | None = None) -> list[Tokens]:
        """The tokens that `embed` would compute, before any truncation."""
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._tokenizer.tokens, texts, prompt
        )

    def _check_open(self) -> None:
        if self._closed:
            raise BackendUnavailable("the model has been unloaded")

    def health(self) -> Health:
        """Warm until it is closed."""
        return Health("cold", "unloaded") if self._closed else Health("warm")

    async def aclose(self) -> None:
        """Unload without holding up the loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def close(self) -> None:
        """Finish what was accepted. Safe to call twice."""
        self._closed = True
        self._threads.shutdown()


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
        prompts=recipe.speech.prompts,
        default_prompt_name=recipe.speech.default_prompt_name,
        similarity=recipe.speech.similarity,
        normalizes=recipe.normalizes,
        origin=source.origin,
    )
    backend = StaticBackend(card, recipe, max_queued_tokens=max_queued_tokens)
    try:
        backend.warm_up()
    except BaseException:
        backend.close()
        raise
    return backend
