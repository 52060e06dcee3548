"""The local engine as a `Backend`: one model on this machine.

`load_transformer` is where a recipe becomes a running model; everything it needs is handed in.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from fledge.engine import cpu
from fledge.engine.admission import check_deadline
from fledge.engine.channel import Channel
from fledge.engine.items import check_total
from fledge.engine.lane import Lane
from fledge.engine.ops.openvino import CompileError
from fledge.engine.pipeline import Compilation, Pipeline, load_pipeline
from fledge.engine.recipe import Recipe
from fledge.engine.sources import ModelFolder
from fledge.engine.tokenizer import SHORT_CHARS, Encoded
from fledge.engine.workers import UNLOADED, Workers
from fledge.engine.yielding import call_yielding
from fledge.errors import BackendUnavailable, ModelLoadError
from fledge.types import EmbedJob, EmbedResult, Health, Item, ModelCard, Precision, Timings, Tokens

log = logging.getLogger(__name__)

ARITHMETIC = "packed-1"
"""Raised when the numbers change, so that vectors kept of older ones are never found again."""


CHARS_PER_TOKEN = 4
"""Of ordinary English, for guesses."""

PRECISIONS: tuple[Literal["int8", "bf16", "fp32"], ...] = ("int8", "bf16", "fp32")


class LocalBackend:
    """One loaded model, sharing the lane with others. Load it with `load_transformer`."""

    def __init__(self, card: ModelCard, pipeline: Pipeline, lane: Lane) -> None:
        self._card = card
        self._pipeline = pipeline
        self._lane = lane
        self._channel = Channel(
            pipeline.compute, pipeline.cost, rate=pipeline.rate, model_id=card.id
        )
        self._workers = Workers("fledge-tokenize")
        self._closed = False
        lane.attach(self._channel)

    @property
    def card(self) -> ModelCard:
        """What this deployment serves."""
        return self._card

    async def embed(self, job: EmbedJob) -> EmbedResult:
        """Tokenize, wait for the lane, answer. See `Backend.embed` for what is raised."""
        self._check_open()
        start = time.perf_counter()
        check_deadline(job.deadline, start)
        with self._lane.arriving(self._channel, self._about_tokens(job), tenant=job.tenant):
            encoded = await self._encode(job)
        check_total(sum(len(one.row.ids) for one in encoded), job.max_total_tokens)
        check_deadline(job.deadline, start)
        tokenized = time.perf_counter()
        future = self._lane.submit(
            self._channel,
            [one.row for one in encoded],
            priority=job.priority,
            deadline=job.deadline,
            tenant=job.tenant,
        )
        computed = await asyncio.wrap_future(future)  # cancelling the one cancels the other
        return EmbedResult(
            vectors=computed.vectors,
            token_counts=[len(one.row.ids) for one in encoded],
            truncated=[one.truncated for one in encoded],
            timings=Timings(
                tokenize_ms=(tokenized - start) * 1000,
                queue_ms=computed.queue_ms,
                compute_ms=computed.compute_ms,
                busy_ms=computed.busy_ms,
            ),
        )

    def _about_tokens(self, job: EmbedJob) -> int:
        """A guess, from lengths alone: no item gives more than the model takes."""
        limit, prompt_chars = self._card.max_seq_length, len(job.prompt or "")
        return sum(min(_about_tokens(item, prompt_chars), limit) for item in job.items)

    async def _encode(self, job: EmbedJob) -> list[Encoded]:
        chars = sum(len(item) for item in job.items)
        if chars + len(job.prompt or "") * len(job.items) <= SHORT_CHARS:
            return self._pipeline.encode(job)
        return await self._workers.run(self._pipeline.encode, job)

    async def tokenize(self, texts: Sequence[str], *, prompt: str | None = None) -> list[Tokens]:
        """The tokens that `embed` would compute, before any truncation."""
        self._check_open()
        return await self._workers.run(self._pipeline.tokenize, texts, prompt)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendUnavailable(UNLOADED)

    def health(self) -> Health:
        """Warm as long as the lane computes."""
        if self._closed:
            return Health("cold", "unloaded")
        if problem := self._lane.problem():
            return Health("failed", problem, may_recover=self._lane.alive)
        return Health("warm")

    async def aclose(self) -> None:
        """Unload without holding up the loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def close(self) -> None:
        """Leave the lane and give the memory back. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._lane.detach(self._channel)
            self._workers.close()
            self._pipeline.close()


def _about_tokens(item: Item, prompt_chars: int) -> int:
    if not isinstance(item, str):
        return len(item)
    return (prompt_chars + len(item)) // CHARS_PER_TOKEN + 1


def load_transformer(
    source: ModelFolder,
    recipe: Recipe,
    *,
    lane: Lane,
    precision: Precision,
    threads: int,
    cache_dir: Path,
) -> LocalBackend:
    """Load a model from its recipe and attach it to the lane. Blocks for a second or so.

    When the machine cannot run the precision that was chosen, the next plainer one is tried and
    the log says so; only fp32 has nothing to fall back to.

    Raises:
        ModelLoadError: the files are damaged, or ask for what Fledge does not compute.
    """
    features = cpu.detect()
    decision = cpu.choose_precision(precision, features)
    if decision.is_fallback:
        log.warning("%s: %s", source.id, decision.reason)
    candidates = [
        one
        for one in PRECISIONS[PRECISIONS.index(decision.chosen) :]
        # without native bf16 that one is 20 times slower than fp32, which comes next
        if one != "bf16" or decision.chosen == one or features.has_native_bf16
    ]
    for candidate in candidates:
        compilation = Compilation(
            identity=f"{source.id}@{source.revision}" + (recipe.route and f"#{recipe.route}"),
            precision=candidate,
            inference_hint=cpu.inference_hint(candidate, features),
            whole_row_groups=features.needs_whole_rows,
            threads=threads or features.usable_cores,
            cache_dir=cache_dir,
        )
        try:
            pipeline = _load(recipe, compilation, lane)
        except CompileError as error:
            # only the runtime's refusal: a damaged model is damaged in every precision
            if candidate == candidates[-1]:
                raise
            log.warning("%s does not run in %s here: %s", source.id, candidate, error)
            continue
        try:
            return LocalBackend(_card(source, recipe, pipeline, candidate), pipeline, lane)
        except BaseException:
            pipeline.close()
            raise
    raise ModelLoadError(f"{source.id}: no precision runs on this machine")


def _load(recipe: Recipe, compilation: Compilation, lane: Lane) -> Pipeline:
    """Load it at a low priority where others may be computing.

    Where nobody is, there is nobody to yield to; and the runtime's own threads, which all models
    share, must come from a thread of the usual priority: those of the first model.
    """
    load = partial(load_pipeline, recipe, compilation)
    return call_yielding("fledge-load", load) if lane.alive else load()


def _card(
    source: ModelFolder,
    recipe: Recipe,
    pipeline: Pipeline,
    precision: Literal["fp32", "bf16", "int8"],
) -> ModelCard:
    return ModelCard(
        id=source.id,
        revision=source.revision,
        family=recipe.model_type,
        precision=precision,
        dimension=recipe.dimension,
        max_seq_length=recipe.max_seq_length,
        vocab_size=pipeline.vocab_size,
        pooling=recipe.pooling.modes,
        prompts={**source.prompts, **recipe.speech.prompts},
        default_prompt_name=recipe.speech.default_prompt_name,
        similarity=recipe.speech.similarity,
        normalizes=recipe.normalizes,
        matryoshka_dimensions=source.matryoshka_dimensions,
        arithmetic=ARITHMETIC,
        origin=source.origin,
    )
