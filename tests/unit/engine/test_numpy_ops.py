"""The operations on finished vectors in NumPy, against their definitions one number at a time."""

import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from fledge.engine.ops import numpy as numpy_ops
from fledge.engine.ops.numpy import ACTIVATIONS, NumpyOps
from fledge.engine.ops.protocol import Activation
from fledge.errors import CorruptModel
from tests.static_folders import draw

X = draw(5, 4) * 3
WEIGHTS = {
    "a.weight": draw(3, 4, seed=1),
    "a.bias": draw(3, seed=2),
    "b.weight": draw(2, 4, seed=3),
    "norm.weight": draw(4, seed=4),
    "norm.bias": draw(4, seed=5),
}
OPS = NumpyOps(WEIGHTS)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


DEFINITIONS: Mapping[str, Callable[[float], float]] = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "relu": lambda x: max(x, 0),
    "silu": lambda x: x * sigmoid(x),
    "tanh": math.tanh,
    "sigmoid": sigmoid,
    "identity": lambda x: x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "hardsigmoid": lambda x: min(max(x + 3, 0), 6) / 6,
    "hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "hardtanh": lambda x: min(max(x, -1), 1),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "mish": lambda x: x * math.tanh(softplus(x)),
    "relu6": lambda x: min(max(x, 0), 6),
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "softplus": softplus,
    "softsign": lambda x: x / (1 + abs(x)),
}
NUMBERS = np.array([[-30, -6, -3, -1, -0.5, 0, 0.5, 1, 2.5, 3, 5, 6, 7, 30]], np.float32)


@pytest.mark.parametrize("kind", get_args(Activation))
def test_every_activation_is_its_definition(kind: Activation) -> None:
    expected = [DEFINITIONS[kind](float(x)) for x in NUMBERS[0]]
    found = OPS.activation(NUMBERS, kind)
    assert found.dtype == np.float32
    assert np.allclose(found[0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_of_large_numbers_are_finite(kind: Activation) -> None:
    assert np.isfinite(OPS.activation(np.array([[-1e30, 1e30]], np.float32), kind)).all() or (
        kind == "gelu_tanh"
    )


def test_the_error_function_lets_other_threads_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    erf: Any = numpy_ops._erf_of_each

    def watched(x: NDArray[np.float64]) -> Any:
        pieces.append(x.size)
        return erf(x)

    monkeypatch.setattr(numpy_ops, "_erf_of_each", watched)
    x = draw(7, 5000)
    found = OPS.activation(x, "gelu")
    assert sum(pieces) == x.size
    assert max(pieces) <= numpy_ops.ERF_NUMBERS < x.size
    for place in ((0, 0), (1, 3192), (6, 4999)):
        assert found[place] == pytest.approx(DEFINITIONS["gelu"](float(x[place])), rel=1e-5)


def test_linear_has_a_bias_only_where_there_is_one() -> None:
    assert np.allclose(OPS.linear(X, "a"), X @ WEIGHTS["a.weight"].T + WEIGHTS["a.bias"])
    assert np.allclose(OPS.linear(X, "b"), X @ WEIGHTS["b.weight"].T)


def test_a_layer_norm_divides_by_the_biased_deviation() -> None:
    centred = X - X.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 0.5)
    expected = scaled * WEIGHTS["norm.weight"] + WEIGHTS["norm.bias"]
    assert np.allclose(OPS.layer_norm(X, "norm", eps=0.5), expected, atol=1e-6)


def test_normalize_gives_length_1_and_keeps_zeros() -> None:
    found = OPS.normalize(np.stack([X[0], X[0] * 0]))
    assert np.linalg.norm(found[0]) == pytest.approx(1)
    assert not found[1].any()


def test_add_and_concat() -> None:
    assert np.array_equal(OPS.add(X, X), 2 * X)
    assert OPS.concat([X, X]).shape == (5, 8)


def test_weights_of_another_size_are_a_corrupt_model() -> None:
    narrow = NumpyOps({"a.weight": draw(3, 4), "a.bias": draw(1), "norm.weight": draw(1)})
    with pytest.raises(CorruptModel, match=r"a\.bias has shape \[1\] where \[3\]"):
        narrow.linear(X, "a")
    with pytest.raises(CorruptModel, match=r"a\.weight has shape \[3, 4\] for vectors of 3"):
        narrow.linear(X[:, :3], "a")
    with pytest.raises(CorruptModel, match=r"norm\.weight has shape \[1\] where \[4\]"):
        narrow.layer_norm(X, "norm", eps=0)
