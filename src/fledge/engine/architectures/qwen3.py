"""Qwen3: Qwen2 with a norm over each head of queries and keys instead of their biases.

Source: Qwen/Qwen3-Embedding-0.6B as transformers reads it.
"""

from fledge.engine.architectures import decoder, qwen2
from fledge.engine.architectures.decoder import DecoderShape
from fledge.engine.architectures.family import Family, RawConfig

DEFAULTS: RawConfig = {**qwen2.DEFAULTS, "head_dim": 128}


def read_config(config: RawConfig) -> DecoderShape:
    """Qwen3's fields; `head_dim` does not follow from the hidden size."""
    biased = frozenset(decoder.attention_biases(config))
    return qwen2.read_qwen(config, DEFAULTS, biased=biased, has_head_norms=True)


FAMILY = Family(
    prefix="model.", read_config=read_config, weights=decoder.weights, forward=decoder.forward
)
