"""Fakes to test against, for Fledge's own tests and for yours.

`FakeBackend` stands in for a model: it needs no weights, answers at once, and its vectors are
a function of the input alone. Serve it as a real one is served:

    backend = FakeBackend()
    app = create_app(Service([backend], Settings()), Settings())
"""

import asyncio
import hashlib
import re
import time
import zlib
from collections.abc import Sequence

import numpy as np

from fledge.errors import DeadlineExceeded, InputTooLong, InvalidRequest, TooManyInputs
from fledge.types import (
    EmbedJob,
    EmbedResult,
    Health,
    Item,
    ModelCard,
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
            timings=Timings(tokenize_ms=0.25, queue_ms=0.5, compute_ms=1.0),
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
