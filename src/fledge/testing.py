"""Fakes to test against, for Fledge's own tests and for yours.

`FakeBackend` stands in for a model: it needs no weights, answers at once, and its vectors are
a function of the input alone. Serve it as a real one is served:

    backend = FakeBackend()
    app = create_app(Service.over([backend], Settings()), Settings())

`FakeDeployments` stands in for models that come and go:

    deployments = FakeDeployments()
    catalog = Catalog([ModelEntry(id="org/cold"), ModelEntry(id="org/warm")])
    deployments.set("org/warm", state="warm")
    app = create_app(Service(catalog, deployments, Settings()), Settings())
"""

import asyncio
import hashlib
import re
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from fledge.engine.lifecycle.failures import classify
from fledge.errors import (
    DeadlineExceeded,
    InputTooLong,
    InvalidRequest,
    ModelLoadError,
    ModelLoading,
    TooManyInputs,
)
from fledge.types import (
    Backend,
    EmbedJob,
    EmbedResult,
    Health,
    Item,
    ModelCard,
    ModelEntry,
    State,
    Status,
    Timings,
    Tokens,
    Vectors,
)

_WORD = re.compile(r"\S+")
_FIRST_ID, _LAST_ID = 1, 2
_SPECIAL_IDS = 3


def fake_card(
    *,
    id: str = "fledge/fake",
    dimension: int = 8,
    max_seq_length: int = 16,
    **facts: object,
) -> ModelCard:
    """A card for a `FakeBackend`; any other field of `ModelCard` may be given too."""
    defaults: dict[str, object] = {
        "revision": "0123abc",
        "family": "fake",
        "precision": "fp32",
        "vocab_size": 1000,
        "pooling": ("mean",),
        "prompts": {"query": "query: ", "document": "document: "},
        "normalizes": True,
    }
    return ModelCard(
        id=id,
        dimension=dimension,
        max_seq_length=max_seq_length,
        **{**defaults, **facts},  # type: ignore[arg-type] # checked by the one who calls
    )


class FakeBackend:
    """A backend whose tokens are words and whose vectors come from a digest of the tokens.

    Equal tokens give equal vectors, so a text that is cut equals its shorter self. Vectors are
    not normalized: the card's `normalizes` says whether `Service` does it.

    How to use it:
        - Read `jobs` to see what arrived, in order; `cancelled` counts those given up.
        - Set `error` to make every later job fail with it, None to make them work again.
        - Call `hold()` to keep jobs waiting, and `release()` to let them go; both may be called
          from another thread than the server's.
        - Set `state` to what `health()` shall say.

    Attributes:
        jobs: every job that arrived.
        cancelled: how many jobs were cancelled while they waited.
        error: raised by every job while it is set.
        delay_s: seconds that every job takes.
        state: the answer of `health()`.
        is_closed: whether `aclose()` was called.
    """

    def __init__(self, card: ModelCard | None = None, *, delay_s: float = 0.0) -> None:
        self._card = card or fake_card()
        self._is_held = False
        self.jobs: list[EmbedJob] = []
        self.cancelled = 0
        self.error: BaseException | None = None
        self.delay_s = delay_s
        self.state = Health("warm")
        self.is_closed = False

    @property
    def card(self) -> ModelCard:
        """The card it was made with."""
        return self._card

    def hold(self) -> None:
        """Keep jobs waiting from now on."""
        self._is_held = True

    def release(self) -> None:
        """Let the waiting jobs go."""
        self._is_held = False

    async def embed(self, job: EmbedJob) -> EmbedResult:
        """Answer at once, unless held, delayed or told to fail."""
        self.jobs.append(job)
        rows = [self._cut(self._ids(item, job.prompt), i, job) for i, item in enumerate(job.items)]
        total = sum(len(ids) for ids, _ in rows)
        if job.max_total_tokens is not None and total > job.max_total_tokens:
            raise TooManyInputs(f"{total} tokens; one request takes at most {job.max_total_tokens}")
        await self._wait(job.deadline)
        if self.error is not None:
            raise self.error
        return EmbedResult(
            vectors=np.stack([self.vector(ids) for ids, _ in rows]),
            token_counts=[len(ids) for ids, _ in rows],
            truncated=[is_cut for _, is_cut in rows],
            timings=Timings(tokenize_ms=0.25, queue_ms=0.5, compute_ms=1.0, busy_ms=1.0),
        )

    async def tokenize(self, texts: Sequence[str], *, prompt: str | None = None) -> list[Tokens]:
        """Words as tokens, between a first and a last special one."""
        return [self._tokens(text, prompt) for text in texts]

    def vector(self, ids: Sequence[int]) -> Vectors:
        """The vector of some token ids, `[dim]`, of no particular length."""
        digest = hashlib.sha256(",".join(map(str, ids)).encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        return generator.normal(size=self._card.dimension).astype(np.float32)

    def health(self) -> Health:
        """Whatever `state` was set to."""
        return self.state

    async def aclose(self) -> None:
        """Note that it was closed."""
        self.is_closed = True

    async def _wait(self, deadline: float | None) -> None:
        """Polled, so that `hold` and `release` need no event loop."""
        until = time.monotonic() + self.delay_s
        try:
            while self._is_held or time.monotonic() < until:
                if deadline is not None and time.monotonic() > deadline:
                    raise DeadlineExceeded("the deadline passed while the job waited")
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def _tokens(self, text: str, prompt: str | None) -> Tokens:
        whole = (prompt or "") + text
        words = list(_WORD.finditer(whole))
        ordinary = self._card.vocab_size - _SPECIAL_IDS
        ids = [_SPECIAL_IDS + zlib.crc32(word[0].encode()) % ordinary for word in words]
        return Tokens(
            [_FIRST_ID, *ids, _LAST_ID], [(0, 0), *(word.span() for word in words), (0, 0)]
        )

    def _ids(self, item: Item, prompt: str | None) -> Sequence[int]:
        return self._tokens(item, prompt).ids if isinstance(item, str) else item

    def _cut(self, ids: Sequence[int], index: int, job: EmbedJob) -> tuple[Sequence[int], bool]:
        if not all(0 <= token < self._card.vocab_size for token in ids):
            raise InvalidRequest("a token id outside the vocabulary", field=f"items[{index}]")
        truncation = job.truncation
        limit = min(truncation.max_tokens or len(ids), self._card.max_seq_length)
        if len(ids) <= limit:
            return ids, False
        if truncation.refuse:
            raise InputTooLong(
                f"`items[{index}]` has {len(ids)} tokens; {self._card.id} takes at most {limit}",
                field=f"items[{index}]",
            )
        return (ids[:limit] if truncation.side != "left" else ids[len(ids) - limit :]), True


class FakeDeployments:
    """`Deployments` whose states a test sets: every model is cold until it is used or set.

    A model that is used or loaded becomes warm at once, unless loading is held or told to fail.
    Nothing runs in the background: a load that was begun is over when somebody looks.

    How to use it:
        - Call `set("org/name", state=..., ...)` to put a model into a state.
        - Call `hold()` to keep loads from ending, and `release()` to let them end; both may be
          called from another thread than the server's.
        - Put an error into `errors` to make a model's loads fail with it.
        - Read `uses`, `loads`, `unloads` and `pins` to see what was asked for, in order.

    Attributes:
        backends: what computes, by model; one is made for each model that becomes warm without.
        errors: what the loads of a model raise.
        estimated_time_s: what a caller is told that would not wait, and what a listing tells.
        troubles: the answer of `problems()`.
        uses: model and patience of every use.
        loads: every load that was begun, whoever asked for it; joining one begins none.
        unloads: every model that was unloaded.
        pins: model and choice of every pinning.
        is_closed: whether `aclose()` was called.
    """

    def __init__(self, *backends: FakeBackend) -> None:
        self.backends = {backend.card.id: backend for backend in backends}
        self.errors: dict[str, ModelLoadError] = {}
        self.estimated_time_s = 5.0
        self.troubles: dict[str, str] = {}
        self.uses: list[tuple[str, float]] = []
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.pins: list[tuple[str, bool]] = []
        self.is_closed = False
        self._is_held = False
        self._statuses: dict[str, Status] = {}
        self._begun: dict[str, ModelEntry] = {}
        for model in self.backends:
            self.set(model, state="warm")

    def set(self, model: str, *, state: State, **facts: Any) -> None:
        """Put a model into a state; any other field of `Status` may be given too."""
        self._begun.pop(model, None)
        if state == "warm":
            card = facts.setdefault("card", self._backend(ModelEntry(id=model)).card)
            if self.backends[model].card != card:
                self.backends[model] = FakeBackend(card)
        self._statuses[model] = Status(state=state, **facts)

    def hold(self) -> None:
        """Keep loads from ending from now on."""
        self._is_held = True

    def release(self) -> None:
        """Let them end."""
        self._is_held = False

    @asynccontextmanager
    async def use(self, entry: ModelEntry, *, patience_s: float) -> AsyncIterator[Backend]:
        """The model's backend, once it is warm."""
        self.uses.append((entry.id, patience_s))
        if self.status(entry).state == "failed":
            raise self._failure(entry)
        self._begin(entry)
        try:
            async with asyncio.timeout(patience_s):
                await self._warm(entry)
        except TimeoutError:
            raise ModelLoading(entry.id, estimated_time_s=self.estimated_time_s) from None
        yield self._backend(entry)

    def status(self, entry: ModelEntry) -> Status:
        """As it was set, or as use and loads left it."""
        if entry.id in self._begun and not self._is_held:
            self._end(self._begun.pop(entry.id))
        return self._statuses.get(entry.id, Status(state="cold"))

    async def load(self, entry: ModelEntry) -> Status:
        """Make it warm, unless held or told to fail."""
        self._begin(entry)
        await self._warm(entry)
        return self.status(entry)

    async def unload(self, entry: ModelEntry) -> Status:
        """Make it cold."""
        self.unloads.append(entry.id)
        last = self.status(entry)
        self._statuses[entry.id] = Status(state="cold", card=last.card, is_pinned=last.is_pinned)
        return self.status(entry)

    def pin(self, entry: ModelEntry, *, is_pinned: bool) -> Status:
        """Note it, and show it."""
        self.pins.append((entry.id, is_pinned))
        self._statuses[entry.id] = replace(self.status(entry), is_pinned=is_pinned)
        return self._statuses[entry.id]

    def problems(self) -> Mapping[str, str]:
        """Whatever `troubles` was set to."""
        return self.troubles

    async def aclose(self) -> None:
        """Note that it was closed, and close the backends."""
        self.is_closed = True
        for backend in self.backends.values():
            await backend.aclose()

    def _backend(self, entry: ModelEntry) -> FakeBackend:
        if entry.id not in self.backends:
            card = fake_card(id=entry.id, dimension=entry.dimension or 8)
            self.backends[entry.id] = FakeBackend(card)
        return self.backends[entry.id]

    def _begin(self, entry: ModelEntry) -> None:
        last = self.status(entry)
        if last.state in ("cold", "failed"):
            self.loads.append(entry.id)
            self._begun[entry.id] = entry
            self._statuses[entry.id] = Status(
                state="loading",
                stage="building",
                remaining_s=self.estimated_time_s,
                is_pinned=last.is_pinned,
            )

    async def _warm(self, entry: ModelEntry) -> None:
        """Polled, so that `hold` and `release` need no event loop."""
        while self.status(entry).state == "loading":  # noqa: ASYNC110 - no loop owns the release
            await asyncio.sleep(0.001)
        if self.status(entry).state == "failed":
            raise self._failure(entry)

    def _failure(self, entry: ModelEntry) -> ModelLoadError:
        reason = self.status(entry).reason or f"{entry.id} cannot be loaded"
        return self.errors.get(entry.id, ModelLoadError(reason))

    def _end(self, entry: ModelEntry) -> None:
        is_pinned = self._statuses[entry.id].is_pinned
        error = self.errors.get(entry.id)
        if error is None:
            self.set(entry.id, state="warm", card=self._backend(entry).card, is_pinned=is_pinned)
        else:
            self.set(
                entry.id,
                state="failed",
                failure=classify(error),
                reason=str(error),
                retry_in_s=error.retry_after_s or 0.0,
                is_pinned=is_pinned,
            )
