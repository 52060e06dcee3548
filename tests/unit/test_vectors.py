"""Vectors after the model: lengths, cuts, scores, base64."""

from base64 import b64decode

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fledge.types import Similarity, Vectors
from fledge.vectors import cut_dimensions, lengths, normalize, ranking, similarity, to_base64

finite = st.floats(-(2.0**100), 2.0**100, width=32)
matrices = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=finite)


@given(matrices)
def test_normalized_rows_have_length_one_or_were_as_good_as_zero(vectors: Vectors) -> None:
    before, after = lengths(vectors), lengths(normalize(vectors))
    assert np.all((np.abs(after - 1) < 1e-6) | (before < 1e-12))


@given(matrices)
def test_normalizing_keeps_type_shape_and_directions(vectors: Vectors) -> None:
    result = normalize(vectors)
    assert result.dtype == np.float32
    assert result.shape == vectors.shape
    assert np.isfinite(result).all()
    assert np.all(result * vectors >= 0)


def test_a_row_of_zeros_stays_zero() -> None:
    assert np.array_equal(normalize(np.zeros((2, 3), np.float32)), np.zeros((2, 3)))


def test_a_row_whose_square_overflows_float32_is_normalized() -> None:
    assert np.allclose(normalize(np.array([[3e38, 3e38]], np.float32)), [[0.5**0.5, 0.5**0.5]])


@given(matrices, st.integers(1, 12))
def test_a_cut_keeps_the_first_numbers_in_one_piece(vectors: Vectors, dimensions: int) -> None:
    cut = cut_dimensions(vectors, dimensions)
    assert np.array_equal(cut, vectors[:, :dimensions])
    assert cut.flags.c_contiguous


@given(matrices)
def test_base64_gives_back_every_bit(vectors: Vectors) -> None:
    rows = [np.frombuffer(b64decode(text, validate=True), "<f4") for text in to_base64(vectors)]
    assert np.array_equal(np.stack(rows).view(np.uint32), vectors.view(np.uint32))


@pytest.mark.parametrize("kind", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity_agrees_with_its_definition(kind: Similarity) -> None:
    generator = np.random.default_rng(1)
    a = generator.normal(size=(70, 5)).astype(np.float32)
    b = generator.normal(size=(130, 5)).astype(np.float32)
    differences = a[:, np.newaxis].astype(np.float64) - b
    cosines = (a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    expected = {
        "cosine": cosines,
        "dot": a @ b.T,
        "euclidean": -np.linalg.norm(differences, axis=2),
        "manhattan": -np.abs(differences).sum(axis=2),
    }
    scores = similarity(a, b, kind)
    assert scores.dtype == np.float32
    assert np.allclose(scores, expected[kind], atol=1e-5)


def test_the_distance_of_close_vectors_does_not_cancel() -> None:
    a = np.array([[1000.0, 0.0]], np.float32)
    b = np.array([[1000.001, 0.0]], np.float32)
    assert similarity(a, b, "euclidean")[0, 0] == pytest.approx(-abs(a - b).max(), rel=1e-3)


def test_a_zero_vector_scores_zero_by_cosine() -> None:
    zero, one = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    assert similarity(zero, one, "cosine")[0, 0] == 0


def test_a_ranking_is_best_first_and_ties_keep_their_order() -> None:
    scores = np.array([0.5, 0.75, 0.5, -1.0], np.float32)

    assert [index for index, _ in ranking(scores)] == [1, 0, 2, 3]
    assert ranking(scores, 1) == [(1, 0.75)]
