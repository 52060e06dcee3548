"""The operations that an architecture is written in, once for every kind of hardware.

An implementation decides what an `X` is: a graph node that is compiled later, or a tensor that is
computed at once. Shapes below speak of packed tokens: `T` is the number of tokens of a whole batch,
without padding; only `attention` may see them laid out as `[rows, length]`, inside itself.

Weights are named by the architecture's own table (`fledge.engine.architectures.family`), never by
a checkpoint's spelling.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias, TypeVar

X = TypeVar("X")

Activation: TypeAlias = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid", "identity"]
"""`gelu` is the exact form (erf), `gelu_tanh` the approximation that some configs call gelu_new."""

PoolingMode: TypeAlias = Literal[
    "cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"
]
"""In the order in which several modes of one model are concatenated, as sentence-transformers."""


class Ops(Protocol[X]):
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

    def relative_bias(self, table: str) -> X:
        """Scores to add to attention by relative position, from a `[buckets, heads]` table."""
        ...

    def attention(self, q: X, k: X, v: X, *, num_heads: int, bias: X | None = None) -> X:
        """Every token attends to all tokens of its own row: `[T, hidden]` in, `[T, hidden]` out."""
        ...

    def pool(self, x: X, mode: PoolingMode) -> X:
        """One vector a row: `[T, hidden]` -> `[rows, hidden]`, leaving out masked prompt tokens."""
        ...

    def normalize(self, x: X) -> X:
        """Scale the last axis to length 1; a zero vector stays zero (torch's `eps` of 1e-12)."""
        ...
