"""DistilBERT: BERT without token types, and with names of its own.

Source: distilbert/distilbert-base-uncased as transformers reads it.
"""

from collections.abc import Iterator

from fledge.engine.architectures import encoder
from fledge.engine.architectures.encoder import EncoderShape
from fledge.engine.architectures.family import Family, PositionRule, RawConfig, Weight
from fledge.engine.architectures.fields import MOST_LAYERS, whole_number

LAYER_NORM_EPS = 1e-12  # written into the reference code; no config field changes it

LAYER_NAMES = {
    "query": "transformer.layer.{n}.attention.q_lin",
    "key": "transformer.layer.{n}.attention.k_lin",
    "value": "transformer.layer.{n}.attention.v_lin",
    "attention_out": "transformer.layer.{n}.attention.out_lin",
    "attention_norm": "transformer.layer.{n}.sa_layer_norm",
    "intermediate": "transformer.layer.{n}.ffn.lin1",
    "output": "transformer.layer.{n}.ffn.lin2",
    "output_norm": "transformer.layer.{n}.output_layer_norm",
}


def read_config(config: RawConfig) -> EncoderShape:
    """DistilBERT's spellings; sinusoidal position tables are stored like learned ones."""
    return EncoderShape(
        num_layers=whole_number(config, "n_layers", most=MOST_LAYERS),
        num_heads=config["n_heads"],
        hidden_size=config["dim"],
        intermediate_size=config["hidden_dim"],
        embedding_size=config["dim"],
        vocab_size=config["vocab_size"],
        max_length=config["max_position_embeddings"],
        layer_norm_eps=LAYER_NORM_EPS,
        activation=config.get("activation", "gelu"),
        positions=PositionRule(),
    )


def weights(shape: EncoderShape) -> Iterator[Weight]:
    """The table of a DistilBERT checkpoint."""
    yield from encoder.embedding_weights(shape)
    yield from encoder.layer_weights(shape, LAYER_NAMES)


FAMILY = Family(
    prefix="distilbert.", read_config=read_config, weights=weights, forward=encoder.forward
)
