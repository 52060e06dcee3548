"""The yardstick itself: twins are equal, texts differ, and torch's own error is far below."""

from pathlib import Path

import numpy as np
import pytest

from tests.parity.agreement import ALONE_TOLERANCE, FP32_TOLERANCE, assert_vectors_agree
from tests.parity.checkpoints import FAMILIES, Recipe, make_checkpoint
from tests.parity.reference import Reference, relative_error, relative_errors, unit
from tests.parity.texts import SPECIAL_TOKENS_IN_TEXT, TEXTS


@pytest.mark.parametrize("family", FAMILIES)
def test_torch_in_fp32_is_a_fifth_of_the_tolerance_from_float64(family: str, forge: Path) -> None:
    folder = make_checkpoint(Recipe(family=family), forge)
    texts = [*TEXTS, *SPECIAL_TOKENS_IN_TEXT]
    # One by one: Gemma's rows of padding are NaN in float64, and spoil the mean.
    exact = Reference(folder, "float64").model.encode(texts, batch_size=1, show_progress_bar=False)
    assert relative_errors(Reference(folder).embed(texts), exact).max() < FP32_TOLERANCE / 5


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_texts_have_nearly_the_same_vector(family: str, forge: Path) -> None:
    # A model that gave every text one vector would agree with anything.
    folder = make_checkpoint(Recipe(family=family), forge)
    vectors = unit(Reference(folder).embed(TEXTS[:16]))
    similarities = vectors @ vectors.T - 2 * np.eye(len(vectors))
    assert similarities.max() < 0.999


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_text_is_cut_and_the_shortest_has_one_token_of_its_own(
    family: str, forge: Path
) -> None:
    recipe = Recipe(family=family)
    model = Reference(make_checkpoint(recipe, forge)).model
    counts = [int(model.preprocess([text])["attention_mask"].sum()) for text in TEXTS]
    assert counts[0] == (2 if family in ("qwen2", "qwen3") else 3)  # no beginning, but an end
    assert max(counts) == recipe.max_tokens == model.max_seq_length
    assert len(set(counts)) > 8


def test_the_error_is_relative_to_the_wanted_vector() -> None:
    wanted = np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    got = np.array([[3.0, 4.5], [0.0, 1.0]], np.float32)
    assert relative_errors(got, wanted) == pytest.approx([0.1, 0.0])
    assert relative_error(got, wanted) == pytest.approx(0.5 / np.sqrt(26))


def test_a_value_that_is_no_number_never_agrees() -> None:
    wanted = np.ones((1, 2), np.float32)
    got = np.array([[1.0, np.nan]], np.float32)
    with pytest.raises(AssertionError):
        assert_vectors_agree(got, wanted, ["a"])


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_hardly_changes_what_torch_computes(family: str, forge: Path) -> None:
    reference = Reference(make_checkpoint(Recipe(family=family), forge))
    together = unit(reference.embed(TEXTS))
    alone = unit(np.concatenate([reference.embed([text]) for text in TEXTS]))
    assert np.abs(together - alone).max() <= ALONE_TOLERANCE["fp32"]
