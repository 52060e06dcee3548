"""Llama: every layer sees all of the past; biases only where the config asks for them.

Source: meta-llama/Llama-3.2-1B as transformers reads it.
"""

from fledge.engine.architectures import decoder
from fledge.engine.architectures.decoder import DecoderShape
from fledge.engine.architectures.family import Family, RawConfig

DEFAULTS: RawConfig = {
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}


def read_config(config: RawConfig) -> DecoderShape:
    """Llama's fields."""
    decoder.refuse_other_kinds(config, "full_attention")
    biased = decoder.attention_biases(config)
    if config.get("mlp_bias"):
        biased |= {"gate", "up", "down"}
    return decoder.read_decoder(config, DEFAULTS, biased=frozenset(biased))


FAMILY = Family(
    prefix="model.", read_config=read_config, weights=decoder.weights, forward=decoder.forward
)
