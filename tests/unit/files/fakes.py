"""An embedder to read: no model, and a vector that tells which text it was made from."""

from collections.abc import Sequence

import anyio
import numpy as np

from fledge.types import Vectors

DIMENSION = 4
LONGEST = 40


def vector_of(text: str) -> list[float]:
    """Length, sum of the bytes, and the first and the last byte."""
    data = text.encode()
    return [len(data), sum(data) % 997, data[0], data[-1]]


class FakeEmbedder:
    """Counts what it computes; give it `fail_after` to fail instead of computing more texts.

    Attributes:
        computed: every text, in the order of computing.
        most_in_flight: the most calls that were open at one time.
    """

    def __init__(self, *, fail_after: int | None = None) -> None:
        self.computed: list[str] = []
        self.most_in_flight = 0
        self._fail_after = fail_after
        self._in_flight = 0

    async def __call__(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await anyio.sleep(0.002)
            if self._fail_after is not None and len(self.computed) >= self._fail_after:
                raise Interrupted
            self.computed.extend(texts)
        finally:
            self._in_flight -= 1
        truncated = sum(len(text) > LONGEST for text in texts)
        return np.array([vector_of(text) for text in texts], np.float32), truncated


class Interrupted(Exception):
    """Stands for whatever ends a run before its time."""
