"""The model's arithmetic once more, one text at a time, slow and obvious: what to compare with.

`RowOps` is an `Ops` over NumPy in float64 that knows neither batches nor packing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.engine.architectures.family import EncoderShape, PositionRule, RelativeRule
from fledge.engine.ops.protocol import Activation, PoolingMode

Array = NDArray[Any]

erf = np.vectorize(math.erf)
ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = {
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "identity": lambda x: x,
}


def positions_of(ids: Sequence[int], rule: PositionRule) -> list[int]:
    """The position ids of one text, counted token by token."""
    positions, count = [], 0
    for token in ids:
        if token == rule.skip_id:
            positions.append(rule.offset - 1)
        else:
            positions.append(rule.offset + count)
            count += 1
    return positions


def bucket_of(query: int, key: int, rule: RelativeRule) -> int:
    """T5's rule, one pair at a time."""
    half = rule.num_buckets // 2
    bucket = half if key > query else 0
    distance, exact = abs(query - key), half // 2
    if distance < exact:
        return bucket + distance
    share = math.log(distance / exact) / math.log(rule.max_distance / exact)
    return bucket + min(exact + int(np.float32(share * (half - exact))), half - 1)


class RowOps:
    """The operations on one text `[tokens, width]`."""

    def __init__(
        self,
        weights: Mapping[str, Array],
        shape: EncoderShape,
        ids: Sequence[int],
        masked_tokens: int = 0,
    ) -> None:
        self._weights = {name: array.astype(np.float64) for name, array in weights.items()}
        self._shape = shape
        self._ids = ids
        self._seen = np.arange(len(ids)) >= masked_tokens

    def token_ids(self) -> Array:
        return np.array(self._ids)

    def position_ids(self) -> Array:
        return np.array(positions_of(self._ids, self._shape.positions))

    def embedding(self, ids: Array, table: str) -> Array:
        return self._weights[table][ids]

    def table_row(self, table: str, row: int) -> Array:
        return self._weights[table][[row]]

    def linear(self, x: Array, name: str) -> Array:
        return x @ self._weights[f"{name}.weight"].T + self._weights.get(f"{name}.bias", 0)

    def layer_norm(self, x: Array, name: str, *, eps: float) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled: Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    def activation(self, x: Array, kind: Activation) -> Array:
        return ACTIVATIONS[kind](x)

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def concat(self, parts: Sequence[Array]) -> Array:
        return np.concatenate(parts, axis=-1)

    def relative_bias(self, table: str) -> Array:
        rule, places = self._shape.relative, range(len(self._ids))
        assert rule is not None
        buckets = [[bucket_of(query, key, rule) for key in places] for query in places]
        bias: Array = self._weights[table][buckets].transpose(2, 0, 1)
        return bias

    def attention(
        self, q: Array, k: Array, v: Array, *, num_heads: int, bias: Array | None = None
    ) -> Array:
        heads = []
        for n, (query, key, value) in enumerate(
            zip(*(np.split(x, num_heads, axis=-1) for x in (q, k, v)), strict=True)
        ):
            scores = query @ key.T / math.sqrt(query.shape[-1])
            scores = scores if bias is None else scores + bias[n]
            shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
            heads.append(shares / shares.sum(axis=-1, keepdims=True) @ value)
        return np.concatenate(heads, axis=-1)

    def pool(self, x: Array, mode: PoolingMode) -> Array:
        seen = x[self._seen]
        places = np.flatnonzero(self._seen)[:, None] + 1
        pooled: Array = {
            "cls": lambda: seen[0],
            "lasttoken": lambda: seen[-1],
            "max": lambda: seen.max(axis=0),
            "mean": lambda: seen.mean(axis=0),
            "mean_sqrt_len_tokens": lambda: seen.sum(axis=0) / math.sqrt(len(seen)),
            "weightedmean": lambda: (seen * places).sum(axis=0) / places.sum(),
        }[mode]()
        return pooled[None, :]

    def normalize(self, x: Array) -> Array:
        return x / max(float(np.linalg.norm(x)), 1e-12)
