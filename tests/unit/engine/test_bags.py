"""Ids to vectors: the same however many rows are gathered at once."""

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fledge.engine import bags
from fledge.engine.bags import Ids, Mean, Pooled, TokenTable
from fledge.engine.ops.protocol import PoolingMode
from tests.static_folders import draw

TABLE = draw(12, 5)
TEXTS = st.lists(st.lists(st.integers(0, 11), max_size=9), min_size=1, max_size=9)


@given(texts=TEXTS, rows=st.integers(1, 12))
def test_a_mean_does_not_depend_on_where_the_slabs_end(texts: list[list[int]], rows: int) -> None:
    arrays = [np.array(text, np.int32) for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bags, "SLAB_BYTES", rows * 4 * TABLE.shape[1])
        found = Mean(TokenTable(TABLE)).vectors(arrays)
    expected = [TABLE[text].mean(axis=0) if text else np.zeros(5) for text in texts]
    assert np.abs(found - expected).max() <= 1e-6


def test_a_long_text_loses_nothing_by_summing() -> None:
    ids = np.arange(1_000_000, dtype=np.int32) % 12
    found = Mean(TokenTable(TABLE)).vectors([ids])
    expected = TABLE.astype(np.float64)[ids].mean(axis=0)
    assert np.abs(found - expected).max() <= 1e-7


def test_no_texts_are_no_vectors() -> None:
    assert Mean(TokenTable(TABLE)).vectors([]).shape == (0, 5)


MODES: tuple[PoolingMode, ...] = (
    "mean",
    "max",
    "mean_sqrt_len_tokens",
    "weightedmean",
    "lasttoken",
)


def pooled(rows: NDArray[np.float64], weights: NDArray[np.float64] | None) -> list[Any]:
    """By the definitions of `MODES`, over all rows at once."""
    places = np.arange(1, len(rows) + 1)
    if weights is not None:
        rows = rows * weights[:, np.newaxis]
    count = len(rows) if weights is None else weights.sum()
    shares = places.sum() if weights is None else weights.sum()
    total = rows.sum(axis=0)
    return [
        total / count,
        rows.max(axis=0),
        total / np.sqrt(count),
        places @ rows / shares,
        rows[-1],
    ]


@pytest.mark.parametrize("is_weighted", [False, True])
@given(texts=TEXTS, slab=st.integers(1, 12))
def test_pooled_words_do_not_depend_on_where_the_slabs_end(
    is_weighted: bool, texts: list[list[int]], slab: int
) -> None:
    weights = np.abs(draw(12, seed=1)) + np.float32(0.1) if is_weighted else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bags, "SLAB_BYTES", slab * 4 * TABLE.shape[1])
        bag = Pooled(TokenTable(TABLE), MODES, weights)
        found = bag.vectors([np.array(text, np.int32) for text in texts])
    for vector, text in zip(found.reshape(len(texts), len(MODES), -1), texts, strict=True):
        if not text:
            assert not vector.any()
            continue
        own = None if weights is None else weights.astype(np.float64)[text]
        assert np.abs(vector - pooled(TABLE.astype(np.float64)[text], own)).max() <= 1e-5


class WatchedTable(TokenTable):
    """Remembers how many rows were gathered at once."""

    gathered: ClassVar[list[int]] = []

    def gather(self, ids: Ids) -> NDArray[np.float32]:
        self.gathered.append(len(ids))
        return TokenTable.gather(self, ids)


def test_words_of_a_long_text_are_gathered_a_slab_at_a_time() -> None:
    ids = np.zeros(500_000, np.int32)
    found = Pooled(WatchedTable(TABLE), MODES).vectors([ids])
    assert sum(WatchedTable.gathered) == len(ids)
    assert max(WatchedTable.gathered) * 4 * TABLE.shape[1] <= bags.SLAB_BYTES
    assert np.allclose(found[0, : TABLE.shape[1]], TABLE[0])
