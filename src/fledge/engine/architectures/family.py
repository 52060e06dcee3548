"""What a family of models must say of itself to be run: a table of weight names and a function.

A family is one file that ends in a `FAMILY`; `registry.py` lists them by the `model_type` of
`config.json`. It knows `Ops` and its own config, and neither files nor hardware.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from fledge.engine.ops.protocol import Ops, X
from fledge.errors import UnsupportedModel

WeightKind: TypeAlias = Literal["matrix", "table", "vector"]
"""How a weight is used, which decides how it is stored: factor of a matmul, looked up, or added."""

RawConfig: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Weight:
    """One row of a weight-name table: the architecture's name, and the checkpoint's."""

    name: str
    source: str
    kind: WeightKind
    optional: bool = False


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeRule:
    """Bucketed relative positions, symmetric: T5's rule as MPNet uses it."""

    num_buckets: int
    max_distance: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """The numbers of a BERT-like encoder, in one spelling for all families.

    Attributes:
        max_length: most tokens of one row that the position table has rows for.
        weights_per_token: multiply-adds of all matmuls for one token; the batcher's unit of cost.
    """

    num_layers: int
    num_heads: int
    hidden_size: int
    intermediate_size: int
    embedding_size: int
    vocab_size: int
    max_length: int
    layer_norm_eps: float
    activation: str
    positions: PositionRule
    relative: RelativeRule | None = None
    has_token_types: bool = False

    @property
    def weights_per_token(self) -> int:
        """Multiply-adds of the matmuls for one token, attention scores apart."""
        square = self.hidden_size * self.hidden_size
        return self.num_layers * (4 * square + 2 * self.hidden_size * self.intermediate_size)


class Forward(Protocol):
    """From token ids to hidden states `[T, hidden]`: the arithmetic of a family."""

    def __call__(self, ops: Ops[X], shape: EncoderShape) -> X:
        """Build or compute the network with `ops`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
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
    read_config: Callable[[RawConfig], EncoderShape]
    weights: Callable[[EncoderShape], Iterable[Weight]]
    forward: Forward


def refuse_unless(config: RawConfig, field: str, *allowed: object) -> None:
    """Raise `UnsupportedModel` when a config field asks for arithmetic that is not written here."""
    value = config.get(field, allowed[0])
    if value not in allowed:
        raise UnsupportedModel(
            f"config.json: {field} is {value!r}; Fledge computes only "
            f"{' or '.join(repr(one) for one in allowed)} for this family"
        )
