"""The operations that an architecture is written in, once for every kind of hardware.

An implementation decides what an `X` is: a graph node that is compiled later, or a tensor that is
computed at once. Shapes below speak of packed tokens: `T` is the number of tokens of a whole batch,
without padding; only `attention` and `pool` may see them laid out as `[rows, length]`, inside
themselves.

Weights are named by the architecture's own table (`fledge.engine.architectures.family`), never by
a checkpoint's spelling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

X = TypeVar("X")

Activation: TypeAlias = Literal[
    "gelu",
    "gelu_tanh",
    "relu",
    "silu",
    "tanh",
    "sigmoid",
    "identity",
    "elu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "mish",
    "relu6",
    "selu",
    "softplus",
    "softsign",
]
"""`gelu` is the exact form (erf), `gelu_tanh` the approximation that some configs call gelu_new.
Those with a constant have torch's default for it."""

LEAKY_SLOPE = 0.01
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946
"""Of torch's modules; the two of SELU are those of Klambauer et al. 2017."""

PoolingMode: TypeAlias = Literal[
    "cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"
]
"""In the order in which several modes of one model are concatenated, as sentence-transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Which tokens a token attends to, and how its scores are made.

    Attributes:
        num_kv_heads: heads of keys and values, each shared by `num_heads / num_kv_heads` heads of
            queries that stand together; None means as many as there are.
        scale: what scores are multiplied by; None means `1 / sqrt(head_dim)`.
        is_causal: only itself and the tokens before it.
        window: at most so many of those, itself included; None means all of them.
        softcap: scores `s` become `softcap * tanh(s / softcap)`.
    """

    num_heads: int
    num_kv_heads: int | None = None
    scale: float | None = None
    is_causal: bool = False
    window: int | None = None
    softcap: float | None = None


class VectorOps(Protocol[X]):
    """What is done to finished vectors, or to each token alone: `[n, size]` in and out."""

    def linear(self, x: X, name: str) -> X:
        """`x @ weight.T + bias` with `name.weight` `[out, in]` and `name.bias`, if any."""
        ...

    def layer_norm(self, x: X, name: str, *, eps: float) -> X:
        """Normalize the last axis, then scale and shift by `name.weight` and `name.bias`."""
        ...

    def activation(self, x: X, kind: Activation) -> X:
        """Apply a function to every number."""
        ...

    def add(self, a: X, b: X) -> X:
        """Add, broadcasting as NumPy does."""
        ...

    def concat(self, parts: Sequence[X]) -> X:
        """Join along the last axis."""
        ...

    def normalize(self, x: X) -> X:
        """Scale the last axis to length 1; a zero vector stays zero (torch's `eps` of 1e-12)."""
        ...


class Ops(VectorOps[X], Protocol[X]):
    """About twenty operations; a new architecture adds one only when it cannot be composed."""

    def token_ids(self) -> X:
        """The batch's token ids, `[T]` integers."""
        ...

    def position_ids(self) -> X:
        """The batch's position ids, `[T]` integers, by the architecture's own rule."""
        ...

    def embedding(self, ids: X, table: str) -> X:
        """Rows of a table: `[T]` -> `[T, width]`."""
        ...

    def table_row(self, table: str, row: int) -> X:
        """One row of a table, `[1, width]`, to be added to every token."""
        ...

    def rms_norm(self, x: X, name: str, *, eps: float, offset: float = 0.0, heads: int = 1) -> X:
        """Divide by the root of the mean square, then scale by `name.weight + offset`.

        Args:
            heads: the last axis is so many equal parts, each normalized for itself.
        """
        ...

    def rotary(self, x: X, *, heads: int) -> X:
        """Turn each head of `[T, heads * d]` by the token's position: halves, not pairs.

        Source: Su et al. 2021, in the form of transformers' `rotate_half`.
        """
        ...

    def multiply(self, a: X, b: X) -> X:
        """Multiply, broadcasting as NumPy does."""
        ...

    def scale(self, x: X, factor: float) -> X:
        """Multiply every number by one."""
        ...

    def relative_bias(self, table: str) -> X:
        """Scores to add to attention by relative position, from a `[buckets, heads]` table."""
        ...

    def attention(self, q: X, k: X, v: X, rule: Attention, *, bias: X | None = None) -> X:
        """Every token attends to tokens of its own row: `[T, heads * d]` in and out.

        Args:
            bias: added to the scores; not with a causal rule.
        """
        ...

    def weighted_mean(self, parts: Sequence[X], name: str) -> X:
        """The parts' mean, weighted by `name.weight`, `[len(parts)]`.

        Raises:
            CorruptModel: there are more or fewer weights than parts, or their sum is zero.
        """
        ...

    def pool(self, x: X, mode: PoolingMode) -> X:
        """One vector a row: `[T, hidden]` -> `[rows, hidden]`, leaving out masked prompt tokens."""
        ...
