"""Ids to vectors: the same however many rows are gathered at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.engine import bags
from fledge.engine.bags import Mean, TokenTable
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
