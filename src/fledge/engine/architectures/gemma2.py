"""Gemma 2: capped attention scores, every other layer windowed, norms before and after each part.

Source: google/gemma-2-9b as transformers reads it (Gemma Team 2024). The weights of its norms are
stored less one.
"""

from fledge.engine.architectures import decoder
from fledge.engine.architectures.decoder import DecoderShape
from fledge.engine.architectures.family import Family, RawConfig
from fledge.engine.architectures.fields import num_layers
from fledge.engine.ops.protocol import Ops, X
from fledge.errors import UnsupportedModel

DEFAULTS: RawConfig = {
    "attn_logit_softcapping": 50.0,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
}

NORMS = (
    ("attention_norm", "input_layernorm"),
    ("attention_out_norm", "post_attention_layernorm"),
    ("mlp_norm", "pre_feedforward_layernorm"),
    ("mlp_out_norm", "post_feedforward_layernorm"),
)


def read_config(config: RawConfig) -> DecoderShape:
    """Gemma's fields; `hidden_act` is in its configs too, and means nothing."""
    config = {**DEFAULTS, **config}
    config["hidden_act"] = config["hidden_activation"]
    layers = range(num_layers(config))
    kinds = decoder.layer_kinds(config) or [
        "full_attention" if n % 2 else "sliding_attention" for n in layers
    ]
    cap, scalar = (config[name] for name in ("attn_logit_softcapping", "query_pre_attn_scalar"))
    for name, value in (("attn_logit_softcapping", cap), ("query_pre_attn_scalar", scalar)):
        if value is not None and not value > 0:
            raise UnsupportedModel(f"config.json: {name} is {value!r}, which nothing divides by")
    return decoder.read_decoder(
        config,
        {},
        windows=decoder.windows_of(kinds, config["sliding_window"]),
        biased=frozenset(decoder.attention_biases(config)),
        norms=NORMS,
        norm_offset=1.0,
        attention_scale=float(scalar) ** -0.5,
        softcap=None if cap is None else float(cap),
    )


def forward(ops: Ops[X], shape: DecoderShape) -> list[X]:
    """Scaled embeddings, layers, and the final norm over the last one: `[T, hidden]` each."""
    x = ops.scale(ops.embedding(ops.token_ids(), "word.weight"), shape.hidden_size**0.5)
    states = [x]
    for n in range(shape.num_layers):
        name = f"layer.{n}"
        inner = decoder.norm(ops, shape, x, f"{name}.attention_norm")
        inner = decoder.attend(ops, shape, inner, n)
        x = ops.add(x, decoder.norm(ops, shape, inner, f"{name}.attention_out_norm"))
        inner = decoder.norm(ops, shape, x, f"{name}.mlp_norm")
        inner = decoder.feed_forward(ops, shape, inner, n)
        x = ops.add(x, decoder.norm(ops, shape, inner, f"{name}.mlp_out_norm"))
        states.append(x)
    states[-1] = decoder.norm(ops, shape, x, "norm")
    return states


FAMILY = Family(prefix="model.", read_config=read_config, weights=decoder.weights, forward=forward)
