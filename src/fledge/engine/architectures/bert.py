"""BERT. Also the names of every family that kept them.

Source of names and arithmetic: google-bert/bert-base-uncased as transformers reads it.
"""

from collections.abc import Iterator

from fledge.engine.architectures import encoder
from fledge.engine.architectures.encoder import EncoderShape
from fledge.engine.architectures.family import Family, PositionRule, RawConfig, Weight
from fledge.engine.architectures.fields import num_layers, refuse_unless

SWITCHED_OFF = (False,)

LAYER_NAMES = {
    "query": "encoder.layer.{n}.attention.self.query",
    "key": "encoder.layer.{n}.attention.self.key",
    "value": "encoder.layer.{n}.attention.self.value",
    "attention_out": "encoder.layer.{n}.attention.output.dense",
    "attention_norm": "encoder.layer.{n}.attention.output.LayerNorm",
    "intermediate": "encoder.layer.{n}.intermediate.dense",
    "output": "encoder.layer.{n}.output.dense",
    "output_norm": "encoder.layer.{n}.output.LayerNorm",
}


def read_bert_like(config: RawConfig, positions: PositionRule) -> EncoderShape:
    """The shape of any config that spells its fields as BERT does."""
    refuse_unless(config, "position_embedding_type", "absolute")
    refuse_unless(config, "is_decoder", *SWITCHED_OFF)
    refuse_unless(config, "add_cross_attention", *SWITCHED_OFF)
    return EncoderShape(
        num_layers=num_layers(config),
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        embedding_size=config.get("embedding_size", config["hidden_size"]),
        vocab_size=config["vocab_size"],
        max_length=config["max_position_embeddings"] - positions.offset,
        layer_norm_eps=config.get("layer_norm_eps", 1e-12),
        activation=config.get("hidden_act", "gelu"),
        positions=positions,
        has_token_types=config.get("type_vocab_size", 2) > 0,
    )


def read_config(config: RawConfig) -> EncoderShape:
    """BERT counts positions from 0."""
    return read_bert_like(config, PositionRule())


def weights(shape: EncoderShape) -> Iterator[Weight]:
    """The table of a BERT checkpoint."""
    yield from encoder.embedding_weights(shape)
    yield from encoder.layer_weights(shape, LAYER_NAMES)


FAMILY = Family(prefix="bert.", read_config=read_config, weights=weights, forward=encoder.forward)
