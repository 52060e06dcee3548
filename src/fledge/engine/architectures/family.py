"""What a family of models must say of itself to be run: a table of weight names and a function.

A family is one file that ends in a `FAMILY`; `registry.py` lists them by the `model_type` of
`config.json`. It knows `Ops` and its own config, and neither files nor hardware.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from fledge.engine.ops.protocol import Ops, X

WeightKind: TypeAlias = Literal["matrix", "table", "vector"]
"""How a weight is used, which decides how it is stored: factor of a matmul, looked up, or added."""

RawConfig: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Weight:
    """One row of a weight-name table: the architecture's name, and the checkpoint's.

    Attributes:
        rows: how many the config says it has; None where it says nothing.
    """

    name: str
    source: str
    kind: WeightKind
    rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionRule:
    """How a token's position id follows from its place in the row.

    Attributes:
        offset: the id of a row's first token.
        skip_id: a token of this id takes the id `offset - 1` and does not count, which is what
            RoBERTa-like models do to their padding token, also where a text spells it out.
    """

    offset: int = 0
    skip_id: int | None = None


FROM_ZERO = PositionRule()


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeRule:
    """Bucketed relative positions, symmetric: T5's rule as MPNet uses it."""

    num_buckets: int
    max_distance: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the engine must know of a network, of whatever family.

    Attributes:
        max_length: most tokens of one row that the network has positions for.
        frequencies: angles per position of rotary embeddings, `head_dim / 2` of them; empty where
            a family has none.
        rotation_scale: what the cosines and sines of those angles are multiplied by.
        is_causal: tokens attend only to those before them.
    """

    num_layers: int
    num_heads: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_length: int
    activation: str
    positions: PositionRule = FROM_ZERO
    relative: RelativeRule | None = None
    frequencies: tuple[float, ...] = ()
    rotation_scale: float = 1.0
    is_causal: bool = False

    @property
    def attention_size(self) -> int:
        """Width of all heads together."""
        return self.hidden_size

    @property
    def weights_per_token(self) -> int:
        """Multiply-adds of the matmuls for one token, attention scores apart: the unit of cost."""
        square = self.hidden_size * self.hidden_size
        return self.num_layers * (4 * square + 2 * self.hidden_size * self.intermediate_size)


S = TypeVar("S", bound=Shape)
S_contra = TypeVar("S_contra", bound=Shape, contravariant=True)


class Forward(Protocol[S_contra]):
    """From token ids to hidden states: the arithmetic of a family."""

    def __call__(self, ops: Ops[X], shape: S_contra) -> list[X]:
        """Build or compute the network with `ops`.

        Returns:
            `[T, hidden]` each: the embeddings, then what each layer gives. The last is the
            network's output, with a final norm where the family has one.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family(Generic[S]):
    """One file of this folder, as data.

    Attributes:
        prefix: the base model's name inside a checkpoint of a larger model (`bert.`), tried after
            the bare names.
        read_config: `config.json` in old and new spellings -> shape. Raises `UnsupportedModel`
            naming a field that asks for other arithmetic.
        weights: the weight-name table of a shape.
        forward: the arithmetic.
    """

    prefix: str
    read_config: Callable[[RawConfig], S]
    weights: Callable[[S], Iterable[Weight]]
    forward: Forward[S]
