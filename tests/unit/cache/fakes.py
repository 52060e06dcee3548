"""A model that counts what it computes, and a tier that is a dictionary."""

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np

from fledge.cache.cache import Cache, Fetched
from fledge.cache.entry import Cached, pack
from fledge.cache.flights import Compute, Terms
from fledge.cache.key import Space
from fledge.cache.tiers import Pair, TierName
from fledge.telemetry.states import TierCounts
from fledge.types import EmbedResult, Timings, Vectors

DIMENSION = 8
SPACE = Space("org/name", "abc", dimension=DIMENSION, max_tokens=512)
USUAL = Terms()


def key(text: str) -> bytes:
    return SPACE.keys([text])[0]


def vector(text: str, dimension: int = DIMENSION) -> Vectors:
    """A function of the text, `[dim]`."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return generator.normal(size=dimension).astype(np.float32)


def answer(texts: Sequence[str], dimension: int = DIMENSION) -> EmbedResult:
    """What the model answers: a token for each character, and what has a `+` was cut."""
    return EmbedResult(
        vectors=np.stack([vector(text, dimension) for text in texts]),
        token_counts=[len(text) for text in texts],
        truncated=["+" in text for text in texts],
        timings=Timings(compute_ms=float(len(texts))),
    )


def entry(text: str, dimension: int = DIMENSION) -> Cached:
    return pack([key(text)], answer([text], dimension))[0]


def pairs(*texts: str) -> list[Pair]:
    return [(key(text), entry(text)) for text in texts]


class FakeModel:
    """Answers at once, unless held or told to fail.

    Attributes:
        jobs: the texts of every job, in the order of arrival.
        error: what jobs fail with.
        cancelled: how many jobs were cancelled.
    """

    def __init__(self) -> None:
        self.jobs: list[list[str]] = []
        self.error: BaseException | None = None
        self.cancelled = 0
        self._may_go = asyncio.Event()
        self._may_go.set()

    @property
    def computed(self) -> list[str]:
        return [text for job in self.jobs for text in job]

    def hold(self) -> None:
        self._may_go.clear()

    def release(self) -> None:
        self._may_go.set()

    def compute(self, texts: Sequence[str]) -> Compute:
        async def compute(indices: Sequence[int]) -> EmbedResult:
            return await self._embed([texts[index] for index in indices])

        return compute

    async def ask(self, cache: Cache, *texts: str, terms: Terms = USUAL) -> Fetched:
        """Fetch texts; every answer is checked."""
        fetched = await cache.fetch(SPACE.keys(texts), self.compute(texts), terms)
        expected = answer(texts)
        np.testing.assert_array_equal(fetched.result.vectors, expected.vectors)
        assert fetched.result.token_counts == expected.token_counts
        assert fetched.result.truncated == expected.truncated
        assert len(fetched.origins) == len(texts)
        return fetched

    async def _embed(self, texts: list[str]) -> EmbedResult:
        error = self.error
        self.jobs.append(texts)
        try:
            await self._may_go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if error is not None:
            raise error
        return answer(texts)


class FakeTier:
    """Keeps everything at once.

    Attributes:
        entries: what it has.
        asked: the keys of every look-up.
        is_closed: whether it was closed.
    """

    def __init__(self, name: TierName = "files", *texts: str) -> None:
        self._name = name
        self._counts = TierCounts()
        self.entries = dict(pairs(*texts))
        self.asked: list[list[bytes]] = []
        self.is_closed = False
        self._may_go = asyncio.Event()
        self._may_go.set()

    @property
    def name(self) -> TierName:
        return self._name

    @property
    def counts(self) -> TierCounts:
        return self._counts

    @property
    def is_usable(self) -> bool:
        return True

    def hold(self) -> None:
        self._may_go.clear()

    def release(self) -> None:
        self._may_go.set()

    async def get(self, keys: Sequence[bytes]) -> list[Cached | None]:
        self.asked.append(list(keys))
        await self._may_go.wait()
        return [self.entries.get(key) for key in keys]

    def put(self, pairs: Sequence[Pair]) -> None:
        self.entries.update(pairs)

    async def aclose(self) -> None:
        self.is_closed = True


async def settle() -> None:
    """Let everything happen that waits for nothing."""
    for _ in range(20):
        await asyncio.sleep(0)
