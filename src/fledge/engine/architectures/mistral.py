"""Mistral: Llama without any bias, all of whose layers look back through one window, if any.

Source: intfloat/e5-mistral-7b-instruct as transformers reads it.
"""

from fledge.engine.architectures import decoder
from fledge.engine.architectures.decoder import DecoderShape
from fledge.engine.architectures.family import Family, RawConfig
from fledge.engine.architectures.fields import num_layers

DEFAULTS: RawConfig = {
    "hidden_act": "silu",
    "max_position_embeddings": 131_072,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
}


def read_config(config: RawConfig) -> DecoderShape:
    """A `sliding_window` that is left out means 4,096; null means none."""
    config = {**DEFAULTS, **config}
    kind = "full_attention" if config["sliding_window"] is None else "sliding_attention"
    decoder.refuse_other_kinds(config, kind)
    kinds = [kind] * num_layers(config)
    windows = decoder.windows_of(kinds, config["sliding_window"])
    return decoder.read_decoder(config, DEFAULTS, windows=windows)


FAMILY = Family(
    prefix="model.", read_config=read_config, weights=decoder.weights, forward=decoder.forward
)
