"""The model's arithmetic once more, one text at a time, slow and obvious: what to compare with.

`RowOps` is an `Ops` over NumPy in float64 that knows neither batches nor packing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.engine.architectures.family import PositionRule, RelativeRule, Shape
from fledge.engine.ops.protocol import Activation, Attention, PoolingMode

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
        shape: Shape,
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

    def rms_norm(
        self, x: Array, name: str, *, eps: float, offset: float = 0.0, heads: int = 1
    ) -> Array:
        weight = self._weights[f"{name}.weight"] + offset
        parts = [
            part / np.sqrt((part**2).mean(axis=-1, keepdims=True) + eps) * weight
            for part in np.split(x, heads, axis=-1)
        ]
        return np.concatenate(parts, axis=-1)

    def rotary(self, x: Array, *, heads: int) -> Array:
        angles = np.outer(self.position_ids(), self._shape.frequencies)
        cos, sin = (f(angles) * self._shape.rotation_scale for f in (np.cos, np.sin))
        turned = []
        for head in np.split(x, heads, axis=-1):
            real, imaginary = np.split(head, 2, axis=-1)
            turned += [real * cos - imaginary * sin, imaginary * cos + real * sin]
        return np.concatenate(turned, axis=-1)

    def activation(self, x: Array, kind: Activation) -> Array:
        return ACTIVATIONS[kind](x)

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def multiply(self, a: Array, b: Array) -> Array:
        return a * b

    def scale(self, x: Array, factor: float) -> Array:
        return x * factor

    def concat(self, parts: Sequence[Array]) -> Array:
        return np.concatenate(parts, axis=-1)

    def relative_bias(self, table: str) -> Array:
        rule, places = self._shape.relative, range(len(self._ids))
        assert rule is not None
        buckets = [[bucket_of(query, key, rule) for key in places] for query in places]
        bias: Array = self._weights[table][buckets].transpose(2, 0, 1)
        return bias

    def attention(
        self, q: Array, k: Array, v: Array, rule: Attention, *, bias: Array | None = None
    ) -> Array:
        kv_heads = rule.num_kv_heads or rule.num_heads
        keys, values = (np.split(x, kv_heads, axis=-1) for x in (k, v))
        heads = []
        for n, query in enumerate(np.split(q, rule.num_heads, axis=-1)):
            shared = n // (rule.num_heads // kv_heads)
            scale = query.shape[-1] ** -0.5 if rule.scale is None else rule.scale
            scores = query @ keys[shared].T * scale
            if rule.softcap is not None:
                scores = rule.softcap * np.tanh(scores / rule.softcap)
            scores = scores if bias is None else scores + bias[n]
            scores = np.where(self._may_see(rule), scores, -np.inf)
            shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
            heads.append(shares / shares.sum(axis=-1, keepdims=True) @ values[shared])
        return np.concatenate(heads, axis=-1)

    def _may_see(self, rule: Attention) -> Array:
        places = np.arange(len(self._ids))
        distance = places[:, None] - places[None, :]
        seen = distance >= 0 if rule.is_causal else distance == distance
        return seen & (distance < (rule.window or len(self._ids) + 1))

    def weighted_mean(self, parts: Sequence[Array], name: str) -> Array:
        weights = self._weights[f"{name}.weight"]
        assert len(weights) == len(parts)
        total = sum(weight * part for weight, part in zip(weights, parts, strict=True))
        return np.asarray(total / weights.sum())

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
