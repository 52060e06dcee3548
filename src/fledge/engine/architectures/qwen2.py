"""Qwen2: Llama with biases on queries, keys and values, and windows in the upper layers if asked.

Source: Qwen/Qwen2-1.5B as transformers reads it.
"""

from typing import Any

from fledge.engine.architectures import decoder
from fledge.engine.architectures.decoder import DecoderShape
from fledge.engine.architectures.family import Family, RawConfig
from fledge.engine.architectures.fields import num_layers

DEFAULTS: RawConfig = {
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "max_window_layers": 28,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
}


def read_qwen(config: RawConfig, defaults: RawConfig, **own: Any) -> DecoderShape:
    """Qwen's rule for windows: none without `use_sliding_window`, else from a layer on."""
    config = {**defaults, **config}
    layers = num_layers(config)
    window = config["sliding_window"] if config.get("use_sliding_window") else None
    first = layers if window is None else min(config["max_window_layers"], layers)
    rule = ["full_attention"] * first + ["sliding_attention"] * (layers - first)
    kinds = decoder.layer_kinds(config) or rule
    return decoder.read_decoder(config, {}, windows=decoder.windows_of(kinds, window), **own)


def read_config(config: RawConfig) -> DecoderShape:
    """Qwen2's fields."""
    return read_qwen(config, DEFAULTS, biased=frozenset({"query", "key", "value"}))


FAMILY = Family(
    prefix="model.", read_config=read_config, weights=decoder.weights, forward=decoder.forward
)
