"""MPNet: RoBERTa's positions, no token types, and one relative-position bias for all layers.

Source: microsoft/mpnet-base as transformers reads it. Its padding position is 1 in the code,
whatever the config says.
"""

from collections.abc import Iterator
from dataclasses import replace

from fledge.engine.architectures import bert, encoder
from fledge.engine.architectures.encoder import EncoderShape
from fledge.engine.architectures.family import Family, PositionRule, RawConfig, RelativeRule, Weight
from fledge.errors import UnsupportedModel

PADDING_POSITION = 1
MIN_BUCKETS = 4  # two directions, each with exact and with logarithmic distances

LAYER_NAMES = {
    "query": "encoder.layer.{n}.attention.attn.q",
    "key": "encoder.layer.{n}.attention.attn.k",
    "value": "encoder.layer.{n}.attention.attn.v",
    "attention_out": "encoder.layer.{n}.attention.attn.o",
    "attention_norm": "encoder.layer.{n}.attention.LayerNorm",
    "intermediate": "encoder.layer.{n}.intermediate.dense",
    "output": "encoder.layer.{n}.output.dense",
    "output_norm": "encoder.layer.{n}.output.LayerNorm",
}


def read_config(config: RawConfig) -> EncoderShape:
    """BERT's fields, and the number of relative-position buckets."""
    positions = PositionRule(offset=PADDING_POSITION + 1, skip_id=PADDING_POSITION)
    buckets = config.get("relative_attention_num_buckets", 32)
    if buckets < MIN_BUCKETS:
        raise UnsupportedModel(f"config.json: relative_attention_num_buckets is {buckets}")
    return replace(
        bert.read_bert_like(config, positions),
        has_token_types=False,
        relative=RelativeRule(num_buckets=buckets),
    )


def weights(shape: EncoderShape) -> Iterator[Weight]:
    """The table of an MPNet checkpoint."""
    yield from encoder.embedding_weights(shape)
    yield Weight("relative.weight", "encoder.relative_attention_bias.weight", "vector")
    yield from encoder.layer_weights(shape, LAYER_NAMES)


FAMILY = Family(prefix="mpnet.", read_config=read_config, weights=weights, forward=encoder.forward)
