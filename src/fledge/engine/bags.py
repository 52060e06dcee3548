"""Ids of tokens to one vector a text, in NumPy: what the static models do in place of a network.

Three kinds: the mean of rows of a table (StaticEmbedding, Model2Vec), counted words (BoW), and rows
pooled in other ways (WordEmbeddings). Tables stay in memory as they are stored; rows become float32
when they are gathered, a bounded number at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fledge.engine.ops.protocol import PoolingMode
from fledge.engine.tensorfile import Array
from fledge.types import Vectors

Ids: TypeAlias = NDArray[np.int32]
"""The ids of one text, `[t]`; it may be empty."""

SLAB_BYTES = 4 * 2**20
"""Rows gathered at once, in float32: about what a core's cache holds."""

SMALLEST_SUM = 1e-9
"""Of weights, where sentence-transformers divides by it."""


class Bag(Protocol):
    """From ids to vectors."""

    @property
    def size(self) -> int:
        """Length of one vector."""
        ...

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        ...

    @property
    def needs_tokens(self) -> bool:
        """Whether a text without tokens has no vector at all."""
        ...

    def vectors(self, texts: Sequence[Ids]) -> Vectors:
        """`[len(texts), size]` float32; zeros for a text without tokens."""
        ...


@dataclass(frozen=True, slots=True)
class TokenTable:
    """A table's rows by token id.

    Attributes:
        rows: `[n, size]`, any type of number.
        mapping: `[vocab]`, each token's row; None where they are the same.
        factors: `[vocab]` float32 that a token's row is multiplied by; None for none.
    """

    rows: Array
    mapping: NDArray[np.int64] | None = None
    factors: NDArray[np.float32] | None = None

    @property
    def size(self) -> int:
        """Length of a row."""
        size: int = self.rows.shape[1]
        return size

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        lengths = [len(one) for one in (self.mapping, self.factors) if one is not None]
        return min(lengths) if self.mapping is not None else min([len(self.rows), *lengths])

    def gather(self, ids: Ids) -> NDArray[np.float32]:
        """`[t, size]` float32, a copy."""
        places: Any = ids if self.mapping is None else self.mapping[ids]
        rows: NDArray[np.float32] = self.rows[places].astype(np.float32, copy=False)
        if self.factors is not None:
            rows *= self.factors[ids][:, np.newaxis]
        return rows


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of the tokens' rows."""

    table: TokenTable
    needs_tokens: bool = False

    @property
    def size(self) -> int:
        """See `Bag.size`."""
        return self.table.size

    @property
    def vocab_size(self) -> int:
        """See `Bag.vocab_size`."""
        return self.table.vocab_size

    def vectors(self, texts: Sequence[Ids]) -> Vectors:
        """See `Bag.vectors`. Summed in float64, so that a long text loses nothing."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        sums = np.zeros((len(texts), self.size), np.float64)
        ids = np.concatenate(texts) if texts else np.empty(0, np.int32)
        owners = np.repeat(np.arange(len(texts)), lengths)
        for slab in _slabs(len(ids), self.size):
            own = owners[slab]
            starts = np.flatnonzero(np.diff(own, prepend=-1))
            rows = self.table.gather(ids[slab])
            sums[own[starts]] += np.add.reduceat(rows, starts, axis=0, dtype=np.float64)
        sums /= np.maximum(lengths, 1)[:, np.newaxis]
        return sums.astype(np.float32)


def _slabs(count: int, size: int) -> Iterator[slice]:
    step = max(1, SLAB_BYTES // (4 * size))
    return (slice(start, start + step) for start in range(0, count, step))


@dataclass(frozen=True, slots=True)
class Counts:
    """One number a word of the vocabulary: its weight, once or as often as it occurs.

    Attributes:
        weights: `[vocab]` float32.
        is_cumulative: as often as it occurs.
    """

    weights: NDArray[np.float32]
    is_cumulative: bool
    needs_tokens: bool = False

    @property
    def size(self) -> int:
        """See `Bag.size`."""
        return len(self.weights)

    @property
    def vocab_size(self) -> int:
        """See `Bag.vocab_size`."""
        return len(self.weights)

    def vectors(self, texts: Sequence[Ids]) -> Vectors:
        """See `Bag.vectors`."""
        vectors = np.zeros((len(texts), self.size), np.float32)
        for vector, ids in zip(vectors, texts, strict=True):
            if self.is_cumulative:
                np.add.at(vector, ids, self.weights[ids])
            else:
                vector[ids] = self.weights[ids]
        return vectors


@dataclass(frozen=True, slots=True)
class Pooled:
    """The tokens' rows, perhaps weighted by word, pooled as a transformer's states would be.

    Attributes:
        modes: in the order in which their vectors are concatenated; `cls` is none of them.
        word_weights: `[vocab]` float32; None for none.
    """

    table: TokenTable
    modes: tuple[PoolingMode, ...]
    word_weights: NDArray[np.float32] | None = None

    @property
    def size(self) -> int:
        """See `Bag.size`."""
        return self.table.size * len(self.modes)

    @property
    def vocab_size(self) -> int:
        """See `Bag.vocab_size`."""
        weights = [] if self.word_weights is None else [len(self.word_weights)]
        return min([self.table.vocab_size, *weights])

    @property
    def needs_tokens(self) -> bool:
        """See `Bag.needs_tokens`: nothing has no maximum."""
        return "max" in self.modes

    def vectors(self, texts: Sequence[Ids]) -> Vectors:
        """See `Bag.vectors`. One text at a time: few are longer than a slab."""
        vectors = np.zeros((len(texts), len(self.modes), self.table.size), np.float32)
        for vector, ids in zip(vectors, texts, strict=True):
            if len(ids):
                vector[:] = self._pool(ids)
        return vectors.reshape(len(texts), self.size)

    def _pool(self, ids: Ids) -> NDArray[np.float64]:
        """`[modes, size]` of one text of at least one token."""
        found = np.zeros((len(self.modes), self.table.size), np.float64)
        total = 0.0
        for slab in _slabs(len(ids), self.table.size):
            rows = self.table.gather(ids[slab]).astype(np.float64)
            if self.word_weights is not None:
                weights = self.word_weights[ids[slab]].astype(np.float64)
                rows *= weights[:, np.newaxis]
                total += float(weights.sum())
            for place, mode in enumerate(self.modes):
                found[place] = _joined(found[place], rows, slab.start, mode)
        for place, mode in enumerate(self.modes):
            found[place] /= _divisor(len(ids), None if self.word_weights is None else total, mode)
        return found


def _joined(
    found: NDArray[np.float64], rows: NDArray[np.float64], start: int, mode: PoolingMode
) -> Any:
    """What was found of a text's first `start` rows, and `[n, size]` more of them."""
    if mode == "max":
        largest = rows.max(axis=0)
        return np.maximum(found, largest) if start else largest
    if mode == "lasttoken":
        return rows[-1]
    if mode == "weightedmean":
        return found + np.arange(start + 1, start + 1 + len(rows), dtype=np.float64) @ rows
    return found + rows.sum(axis=0)


def _divisor(count: int, total: float | None, mode: PoolingMode) -> float:
    """Of what was found of all rows; `total` is the sum of the words' weights, if any."""
    if mode in ("max", "lasttoken"):
        return 1.0
    shares = count * (count + 1) / 2 if mode == "weightedmean" else float(count)
    divisor = max(shares if total is None else total, SMALLEST_SUM)
    return divisor**0.5 if mode == "mean_sqrt_len_tokens" else divisor
