"""`VectorOps` in NumPy, computed at once: the modules behind a model that has no network."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fledge.engine.ops.protocol import LEAKY_SLOPE, SELU_ALPHA, SELU_SCALE, Activation
from fledge.errors import CorruptModel
from fledge.types import Vectors

SMALLEST_LENGTH = 1e-12

ERF_NUMBERS = 2**13
"""Numbers whose error function is computed at once: less than a millisecond, in which no other
thread runs."""

_erf_of_each = np.frompyfunc(math.erf, 1, 1)
_Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = x.reshape(-1)
    found = np.empty_like(flat)
    for start in range(0, len(flat), ERF_NUMBERS):
        piece = slice(start, start + ERF_NUMBERS)
        found[piece] = _erf_of_each(flat[piece])
    return found.reshape(x.shape)


def _gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _gelu_tanh(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(x / 2))


def _softplus(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.logaddexp(0, x)


def _elu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


ACTIVATIONS: Mapping[Activation, _Function] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "identity": lambda x: x,
    "elu": _elu,
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "leaky_relu": lambda x: np.where(x > 0, x, LEAKY_SLOPE * x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "relu6": lambda x: np.clip(x, 0, 6),
    "selu": lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0))),
    "softplus": _softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
}
"""By their definitions, in float64."""


class NumpyOps:
    """Computes on `[n, size]` float32.

    Args:
        weights: float32 arrays by the modules' names.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self._weights = weights

    def linear(self, x: Vectors, name: str) -> Vectors:
        """See `VectorOps.linear`."""
        weight = self._weights[f"{name}.weight"]
        if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
            raise CorruptModel(
                f"{name}.weight has shape {list(weight.shape)} for vectors of {x.shape[1]}"
            )
        y = x @ weight.T
        return y + self._row(f"{name}.bias", len(weight)) if f"{name}.bias" in self._weights else y

    def _row(self, name: str, size: int) -> NDArray[np.float32]:
        """A vector of this size; one of 1 would be spread over all in silence."""
        vector = self._weights[name]
        if vector.shape != (size,):
            raise CorruptModel(f"{name} has shape {list(vector.shape)} where [{size}] is expected")
        return vector

    def layer_norm(self, x: Vectors, name: str, *, eps: float) -> Vectors:
        """See `VectorOps.layer_norm`: biased variance, `eps` inside the root."""
        wide = x.astype(np.float64)
        wide -= wide.mean(axis=1, keepdims=True)
        wide /= np.sqrt((wide * wide).mean(axis=1, keepdims=True) + eps)
        size = x.shape[1]
        scaled = wide * self._row(f"{name}.weight", size) + self._row(f"{name}.bias", size)
        return scaled.astype(np.float32)

    def activation(self, x: Vectors, kind: Activation) -> Vectors:
        """One of `ACTIVATIONS`."""
        return ACTIVATIONS[kind](x.astype(np.float64)).astype(np.float32)

    def add(self, a: Vectors, b: Vectors) -> Vectors:
        """See `VectorOps.add`."""
        return a + b

    def concat(self, parts: Sequence[Vectors]) -> Vectors:
        """See `VectorOps.concat`."""
        return np.concatenate(parts, axis=-1)

    def normalize(self, x: Vectors) -> Vectors:
        """See `VectorOps.normalize`."""
        lengths = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
        divisors = np.maximum(lengths, SMALLEST_LENGTH)[:, np.newaxis]
        normalized: Vectors = (x / divisors).astype(np.float32)
        return normalized
