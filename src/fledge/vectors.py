"""What is done to vectors after the model: normalize, cut, compare, encode.

Pure NumPy on float32 in and float32 out. Nothing here knows a model or a wire format.
"""

import numpy as np
from numpy.typing import NDArray
from pybase64 import b64encode_as_string

from fledge.types import Similarity, Vectors

# torch.nn.functional.normalize divides by max(length, 1e-12); the same floor keeps zero at zero.
_SMALLEST_LENGTH = 1e-12
# Rows compared at once by `_manhattan`, whose differences are as large as rows x columns x dim.
_MANHATTAN_ROWS = 64


def lengths(vectors: Vectors) -> NDArray[np.float64]:
    """The Euclidean length of each row. Summed in float64, so that no finite row overflows."""
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    return np.sqrt(squares)


def normalize(vectors: Vectors) -> Vectors:
    """Each row at length 1; a row of zeros stays as it is."""
    scale = np.maximum(lengths(vectors), _SMALLEST_LENGTH)
    return np.divide(vectors, scale[:, np.newaxis], dtype=np.float64).astype(np.float32)


def cut_dimensions(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` numbers of each row, as one C-contiguous array."""
    return np.ascontiguousarray(vectors[:, :dimensions])


def similarity(a: Vectors, b: Vectors, kind: Similarity) -> NDArray[np.float32]:
    """How alike each row of `a` is to each row of `b`, `[len(a), len(b)]`: larger is closer.

    Distances are negated, as sentence-transformers does, so that one order fits every kind.
    """
    if kind == "cosine":
        return normalize(a) @ normalize(b).T
    if kind == "dot":
        return a @ b.T
    if kind == "euclidean":
        return -_euclidean(a, b)
    return -_manhattan(a, b)


def ranking(scores: NDArray[np.float32], top_n: int | None = None) -> list[tuple[int, float]]:
    """Index and score of the `top_n` largest scores, best first; ties keep their order."""
    best_first = np.argsort(-scores, kind="stable")[:top_n]
    return [(int(index), float(scores[index])) for index in best_first]


def to_base64(vectors: Vectors) -> list[str]:
    """Each row as base64 of its little-endian float32 bytes, padded, in the standard alphabet."""
    rows = memoryview(vectors.astype("<f4", copy=False).tobytes())
    size = 4 * vectors.shape[1]
    return [b64encode_as_string(rows[at : at + size]) for at in range(0, len(rows), size)]


def _euclidean(a: Vectors, b: Vectors) -> NDArray[np.float32]:
    """By the expanded square, in float64: in float32 it would cancel for close vectors."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    squares = (
        np.einsum("ij,ij->i", wide_a, wide_a)[:, np.newaxis]
        + np.einsum("ij,ij->i", wide_b, wide_b)
        - 2.0 * (wide_a @ wide_b.T)
    )
    distances: NDArray[np.float32] = np.sqrt(np.maximum(squares, 0.0)).astype(np.float32)
    return distances


def _manhattan(a: Vectors, b: Vectors) -> NDArray[np.float32]:
    """In slices of both sides, since the table of differences would not fit for long lists."""
    distances = np.empty((len(a), len(b)), dtype=np.float32)
    for top in range(0, len(a), _MANHATTAN_ROWS):
        rows = a[top : top + _MANHATTAN_ROWS, np.newaxis]
        for left in range(0, len(b), _MANHATTAN_ROWS):
            columns = b[left : left + _MANHATTAN_ROWS]
            distances[top : top + len(rows), left : left + len(columns)] = np.abs(
                rows - columns
            ).sum(axis=2)
    return distances
