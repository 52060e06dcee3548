"""Static models of words: embeddings that are pooled, and bags of words."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fledge.engine import static as static_module
from fledge.errors import EmptyInput, TooManyInputs
from tests.static_folders import save_module, save_modules, write
from tests.unit.engine.test_static import SIZE, TABLE, embed, load


def save_words_model(
    folder: Path, modes: list[str], *, weights: bool = False, max_seq_length: int = 1000
) -> Path:
    """WordEmbeddings of five words, the first of which pads."""
    package = "sentence_transformers.models.tokenizer.WhitespaceTokenizer.WhitespaceTokenizer"
    save_module(folder, {}, {"emb_layer.weight": TABLE[:5]})
    write(
        folder / "wordembedding_config.json",
        {
            "tokenizer_class": package,
            "update_embeddings": False,
            "max_seq_length": max_seq_length,
        },
    )
    words = ["PADDING_TOKEN", "apple", "pear", "Plum", "the"]
    write(
        folder / "whitespacetokenizer_config.json",
        {"vocab": words, "stop_words": ["the"], "do_lower_case": False},
    )
    kinds = ["WordEmbeddings", *["WordWeights"] * weights, "Pooling"]
    save_modules(folder, *kinds)
    save_module(folder / f"{len(kinds) - 1}_Pooling", {"pooling_mode": modes})
    if weights:
        save_module(
            folder / "1_WordWeights",
            {"vocab": words, "word_weights": {"apple": 2.0, "plum": 0.5}, "unknown_word_weight": 3},
        )
    return folder


def test_words_are_pooled_in_every_way_that_words_can_be(tmp_path: Path) -> None:
    modes = ["mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
    backend = load(save_words_model(tmp_path, modes))
    assert (backend.card.family, backend.card.dimension) == ("words", 5 * SIZE)
    assert backend.card.pooling == tuple(modes)
    result = embed(backend, "apple, the pear! PLUM plum unheard-of Plum")
    rows = TABLE[[1, 2, 3]]
    expected = [
        rows.mean(axis=0),
        rows.max(axis=0),
        rows.sum(axis=0) / 3**0.5,
        (rows[0] + 2 * rows[1] + 3 * rows[2]) / 6,
        rows[2],
    ]
    assert np.allclose(result.vectors[0], np.concatenate(expected), atol=1e-6)
    assert list(result.token_counts) == [3]
    backend.close()


def test_words_weigh_what_they_say_or_what_their_lower_case_does(tmp_path: Path) -> None:
    modes = ["mean", "mean_sqrt_len_tokens", "weightedmean"]
    backend = load(save_words_model(tmp_path, modes, weights=True))
    vectors = embed(backend, "apple pear Plum").vectors[0].reshape(3, SIZE)
    weights = np.array([2, 3, 0.5])
    rows = TABLE[[1, 2, 3]] * weights[:, None]
    assert np.allclose(vectors[0], rows.sum(axis=0) / weights.sum(), atol=1e-6)
    assert np.allclose(vectors[1], rows.sum(axis=0) / weights.sum() ** 0.5, atol=1e-6)
    assert np.allclose(vectors[2], [1, 2, 3] @ rows / weights.sum(), atol=1e-6)
    backend.close()


def test_words_beyond_the_limit_of_their_config_are_cut(tmp_path: Path) -> None:
    backend = load(save_words_model(tmp_path, ["mean"], max_seq_length=2))
    result = embed(backend, "apple apple pear")
    assert np.allclose(result.vectors[0], TABLE[1], atol=1e-6)
    assert (result.token_counts, result.truncated) == ([2], [True])
    backend.close()


def test_no_known_word_is_zeros_but_nothing_has_a_maximum(tmp_path: Path) -> None:
    mean = load(save_words_model(tmp_path / "mean", ["mean", "lasttoken"]))
    assert not embed(mean, "unheard-of").vectors.any()
    largest = load(save_words_model(tmp_path / "max", ["max"]))
    with pytest.raises(EmptyInput, match=r"items\[1\]"):
        embed(largest, "apple", "unheard-of")
    mean.close()
    largest.close()


@pytest.mark.parametrize(("cumulative", "expected"), [(True, [0, 4, 7, 0]), (False, [0, 2, 7, 0])])
def test_a_bag_of_words_counts_them(
    cumulative: bool, expected: list[float], tmp_path: Path
) -> None:
    save_modules(tmp_path, "BoW")
    config = {
        "vocab": ["zero", "apple", "Pear", "zero", "plum"],
        "word_weights": {"apple": 2, "pear": 7},
        "unknown_word_weight": 5,
        "cumulative_term_frequency": cumulative,
    }
    save_module(tmp_path, config)
    backend = load(tmp_path)
    result = embed(backend, "apple Pear apple. nothing", "plum", "nothing")
    assert result.vectors.tolist() == [expected, [0, 0, 0, 5], [0, 0, 0, 0]]
    assert list(result.token_counts) == [3, 1, 0]
    assert (backend.card.family, backend.card.dimension, backend.card.vocab_size) == ("bow", 4, 4)
    backend.close()


def test_tokens_are_counted_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_module, "GROUP_NUMBERS", 1)
    backend = load(save_words_model(tmp_path, ["max"]))
    with pytest.raises(EmptyInput):
        embed(backend, "unheard-of", "apple pear", max_total_tokens=2)
    with pytest.raises(TooManyInputs):
        embed(backend, "unheard-of", "apple pear", max_total_tokens=1)
    backend.close()


def test_a_model_that_is_closed_gives_its_table_back(tmp_path: Path) -> None:
    backend = load(save_words_model(tmp_path, ["mean"]))
    assert backend._loaded is not None
    bag: Any = backend._loaded.recipe.bag
    rows = weakref.ref(bag.table.rows)
    del bag
    backend.close()
    gc.collect()
    assert rows() is None
