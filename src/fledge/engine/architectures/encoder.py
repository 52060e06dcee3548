"""The encoder that all BERT-like families share: attention, add, norm; feed-forward, add, norm.

The families differ in names, position rules and what is added to the embeddings, so each has a
file of its own with a table, and this arithmetic stands once. Source: Devlin et al. 2018, and the
models' reference implementations for everything that papers leave out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fledge.engine.architectures.family import Shape, Weight
from fledge.engine.architectures.fields import hidden_activation
from fledge.engine.ops.protocol import Attention, Ops, X


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape(Shape):
    """The numbers of a BERT-like encoder, in one spelling for all families."""

    embedding_size: int
    layer_norm_eps: float
    has_token_types: bool = False


LAYER_PARTS = ("query", "key", "value", "attention_out", "intermediate", "output")
LAYER_NORMS = ("attention_norm", "output_norm")


def layer_weights(shape: EncoderShape, names: Mapping[str, str]) -> Iterator[Weight]:
    """The table of every layer, from one family's names with `{n}` for the layer's number."""
    for n in range(shape.num_layers):
        for part in LAYER_PARTS:
            name, source = f"layer.{n}.{part}", names[part].format(n=n)
            rows = shape.intermediate_size if part == "intermediate" else shape.hidden_size
            yield Weight(f"{name}.weight", f"{source}.weight", "matrix", rows=rows)
            yield Weight(f"{name}.bias", f"{source}.bias", "vector", rows=rows)
        for part in LAYER_NORMS:
            yield from norm_weights(f"layer.{n}.{part}", names[part].format(n=n))


def norm_weights(name: str, source: str) -> Iterator[Weight]:
    """The two vectors of a layer norm."""
    yield Weight(f"{name}.weight", f"{source}.weight", "vector")
    yield Weight(f"{name}.bias", f"{source}.bias", "vector")


def embedding_weights(shape: EncoderShape) -> Iterator[Weight]:
    """The embeddings' tables, which all families spell alike."""
    yield Weight("word.weight", "embeddings.word_embeddings.weight", "table")
    yield Weight("position.weight", "embeddings.position_embeddings.weight", "table")
    if shape.has_token_types:
        yield Weight("token_type.weight", "embeddings.token_type_embeddings.weight", "table")
    yield from norm_weights("embedding_norm", "embeddings.LayerNorm")


def embed(ops: Ops[X], shape: EncoderShape) -> X:
    """Token, position and type embeddings, summed and normalized: `[T, embedding_size]`."""
    x = ops.embedding(ops.token_ids(), "word.weight")
    if shape.has_token_types:  # a single text is all of type 0
        x = ops.add(x, ops.table_row("token_type.weight", 0))
    x = ops.add(x, ops.embedding(ops.position_ids(), "position.weight"))
    return ops.layer_norm(x, "embedding_norm", eps=shape.layer_norm_eps)


def layers(ops: Ops[X], shape: EncoderShape, x: X) -> list[X]:
    """What each layer gives, from `x` `[T, hidden]`, which comes first."""
    activation = hidden_activation(shape.activation)
    attention = Attention(num_heads=shape.num_heads)
    bias = ops.relative_bias("relative.weight") if shape.relative else None
    states = [x]
    for n in range(shape.num_layers):
        name = f"layer.{n}"
        attended = ops.attention(
            ops.linear(x, f"{name}.query"),
            ops.linear(x, f"{name}.key"),
            ops.linear(x, f"{name}.value"),
            attention,
            bias=bias,
        )
        attended = ops.linear(attended, f"{name}.attention_out")
        x = ops.layer_norm(ops.add(x, attended), f"{name}.attention_norm", eps=shape.layer_norm_eps)
        inner = ops.activation(ops.linear(x, f"{name}.intermediate"), activation)
        inner = ops.linear(inner, f"{name}.output")
        x = ops.layer_norm(ops.add(x, inner), f"{name}.output_norm", eps=shape.layer_norm_eps)
        states.append(x)
    return states


def forward(ops: Ops[X], shape: EncoderShape) -> list[X]:
    """Embeddings, then layers: `[T, hidden]` each."""
    return layers(ops, shape, embed(ops, shape))
