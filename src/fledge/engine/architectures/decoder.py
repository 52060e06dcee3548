"""The decoder that Llama's descendants share: norm, attention, add; norm, gated feed-forward, add.

The families differ in which projections have biases, whether heads are normalized, how far a layer
looks back, and what their configs leave out, so each has a file of its own with its defaults, and
this arithmetic stands once. Source: Touvron et al. 2023, and the models' reference implementations
for everything that papers leave out. Tokens attend to the past only; nothing is generated, so there
is neither a cache nor a head.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fledge.engine.architectures.family import RawConfig, Shape, Weight
from fledge.engine.architectures.fields import (
    hidden_activation,
    num_layers,
    refuse_unless,
    whole_number,
)
from fledge.engine.architectures.rope import read_rope
from fledge.engine.ops.protocol import Attention, Ops, X
from fledge.errors import UnsupportedModel

NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
HEAD_NORMS = {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape(Shape):
    """The numbers of a Llama-like decoder, in one spelling for all families.

    Attributes:
        windows: how many tokens each layer looks back, itself included; None is all of them.
        biased: the projections that have a bias, by their names here.
        norms: the norms of a layer, by their names here and in a checkpoint.
        norm_offset: added to the weights of every norm.
    """

    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    windows: tuple[int | None, ...]
    biased: frozenset[str] = frozenset()
    norms: tuple[tuple[str, str], ...] = tuple(NORMS.items())
    norm_offset: float = 0.0
    has_head_norms: bool = False
    attention_scale: float | None = None
    softcap: float | None = None
    is_causal: bool = True

    @property
    def attention_size(self) -> int:
        """Width of all heads of queries together."""
        return self.num_heads * self.head_dim

    @property
    def weights_per_token(self) -> int:
        """Multiply-adds of the matmuls for one token, attention scores apart."""
        heads = 2 * self.num_heads + 2 * self.num_kv_heads
        return (
            self.num_layers
            * self.hidden_size
            * (heads * self.head_dim + 3 * self.intermediate_size)
        )


def read_decoder(config: RawConfig, defaults: RawConfig, **own: Any) -> DecoderShape:
    """The shape of any config that spells its fields as Llama does.

    Args:
        defaults: what a field means that the config leaves out.
        own: fields of the shape that the family decides.

    Raises:
        UnsupportedModel: a field asks for other arithmetic.
        KeyError: a size is missing.
    """
    config = {**defaults, **config}
    refuse_unless(config, "is_causal", True, None)  # noqa: FBT003 - the field's value
    refuse_unless(config, "use_bidirectional_attention", None, False)  # noqa: FBT003 - likewise
    refuse_unless(config, "per_layer_config", None)
    layers, num_heads = num_layers(config), whole_number(config, "num_attention_heads")
    kv_heads = _size(config, "num_key_value_heads", num_heads)
    if num_heads % kv_heads:
        raise UnsupportedModel(
            f"config.json: {num_heads} num_attention_heads cannot share {kv_heads} "
            "num_key_value_heads"
        )
    head_dim = _size(config, "head_dim", whole_number(config, "hidden_size") // num_heads)
    if head_dim % 2:
        raise UnsupportedModel(f"config.json: head_dim is {head_dim}, which rope cannot halve")
    hidden_activation(config["hidden_act"])  # before anything is converted for it
    rope = read_rope(config, head_dim)
    fields: dict[str, Any] = {
        "num_layers": layers,
        "num_heads": num_heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "max_length": config["max_position_embeddings"],
        "rms_norm_eps": config["rms_norm_eps"],
        "activation": config["hidden_act"],
        "windows": (None,) * layers,
        "frequencies": rope.frequencies,
        "rotation_scale": rope.scale,
    }
    return DecoderShape(**fields | own)


def _size(config: RawConfig, field: str, default: int) -> int:
    """A size that may be left out, or null."""
    return default if config.get(field) is None else whole_number(config, field)


def attention_biases(config: RawConfig) -> set[str]:
    """What `attention_bias` switches on."""
    names = {"query", "key", "value", "attention_out"}
    return names if config.get("attention_bias") else set()


def windows_of(kinds: list[str], window: object) -> tuple[int | None, ...]:
    """How far each layer looks back, from `layer_types` and `sliding_window`.

    Raises:
        UnsupportedModel: another kind of layer, or a window that is none.
    """
    for kind in kinds:
        if kind not in ("full_attention", "attention", "sliding_attention"):
            raise UnsupportedModel(
                f"config.json: layer_types has {kind!r}; Fledge computes full_attention and "
                "sliding_attention"
            )
    if "sliding_attention" not in kinds:
        return (None,) * len(kinds)
    if type(window) is not int or window < 1:
        raise UnsupportedModel(
            f"config.json: layers are sliding_attention, but sliding_window is {window!r}"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def layer_kinds(config: RawConfig) -> list[str] | None:
    """`layer_types`, one for each layer; None where the config has none.

    Raises:
        UnsupportedModel: there are more or fewer of them than layers.
    """
    kinds = config.get("layer_types")
    if kinds is None:
        return None
    layers = num_layers(config)
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise UnsupportedModel(
            f"config.json: layer_types is {kinds!r}, and there are {layers} layers"
        )
    return kinds


def refuse_other_kinds(config: RawConfig, kind: str) -> None:
    """For a family whose layers are all of one kind, and whose code reads past `layer_types`.

    Raises:
        UnsupportedModel: they say something else.
    """
    if set(layer_kinds(config) or [kind]) != {kind}:
        raise UnsupportedModel(
            f"config.json: layer_types is {config['layer_types']!r}, where all layers are {kind}"
        )


def weights(shape: DecoderShape) -> Iterator[Weight]:
    """The table of a checkpoint, without the head, which embedding does not need."""
    hidden, keys = shape.hidden_size, shape.num_kv_heads * shape.head_dim
    rows = {"query": shape.attention_size, "key": keys, "value": keys}
    rows |= {"gate": shape.intermediate_size, "up": shape.intermediate_size}
    head_norms: Mapping[str, str] = HEAD_NORMS if shape.has_head_norms else {}
    yield Weight("word.weight", "embed_tokens.weight", "table")
    for n in range(shape.num_layers):
        for part, suffix in NAMES.items():
            name, source, count = (
                f"layer.{n}.{part}",
                f"layers.{n}.{suffix}",
                rows.get(part, hidden),
            )
            yield Weight(f"{name}.weight", f"{source}.weight", "matrix", rows=count)
            if part in shape.biased:
                yield Weight(f"{name}.bias", f"{source}.bias", "vector", rows=count)
        for part, suffix in (*head_norms.items(), *shape.norms):
            yield Weight(f"layer.{n}.{part}.weight", f"layers.{n}.{suffix}.weight", "vector")
    yield Weight("norm.weight", "norm.weight", "vector")


def norm(ops: Ops[X], shape: DecoderShape, x: X, name: str) -> X:
    """A norm over the hidden size."""
    return ops.rms_norm(x, name, eps=shape.rms_norm_eps, offset=shape.norm_offset)


def attend(ops: Ops[X], shape: DecoderShape, x: X, n: int) -> X:
    """Layer `n`'s attention over `x` `[T, hidden]`, which is normalized already."""
    name = f"layer.{n}"
    q, k = ops.linear(x, f"{name}.query"), ops.linear(x, f"{name}.key")
    if shape.has_head_norms:
        eps = shape.rms_norm_eps
        q = ops.rms_norm(q, f"{name}.query_norm", eps=eps, heads=shape.num_heads)
        k = ops.rms_norm(k, f"{name}.key_norm", eps=eps, heads=shape.num_kv_heads)
    rule = Attention(
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        scale=shape.attention_scale,
        is_causal=shape.is_causal,
        window=shape.windows[n],
        softcap=shape.softcap,
    )
    attended = ops.attention(
        ops.rotary(q, heads=shape.num_heads),
        ops.rotary(k, heads=shape.num_kv_heads),
        ops.linear(x, f"{name}.value"),
        rule,
    )
    return ops.linear(attended, f"{name}.attention_out")


def feed_forward(ops: Ops[X], shape: DecoderShape, x: X, n: int) -> X:
    """Layer `n`'s gated feed-forward network over `x` `[T, hidden]`."""
    name = f"layer.{n}"
    gate = ops.activation(ops.linear(x, f"{name}.gate"), hidden_activation(shape.activation))
    return ops.linear(ops.multiply(gate, ops.linear(x, f"{name}.up")), f"{name}.down")


def forward(ops: Ops[X], shape: DecoderShape) -> list[X]:
    """Embeddings, layers, and the final norm over the last one: `[T, hidden]` each."""
    x = ops.embedding(ops.token_ids(), "word.weight")
    states = [x]
    for n in range(shape.num_layers):
        inner = norm(ops, shape, x, f"layer.{n}.attention_norm")
        x = ops.add(x, attend(ops, shape, inner, n))
        inner = norm(ops, shape, x, f"layer.{n}.mlp_norm")
        x = ops.add(x, feed_forward(ops, shape, inner, n))
        states.append(x)
    states[-1] = norm(ops, shape, x, "norm")
    return states
