"""ELECTRA's discriminator: BERT, with embeddings that may be narrower than the layers.

Source: google/electra-small-discriminator as transformers reads it.
"""

from collections.abc import Iterator

from fledge.engine.architectures import bert, encoder
from fledge.engine.architectures.encoder import EncoderShape
from fledge.engine.architectures.family import Family, RawConfig, Weight
from fledge.engine.ops.protocol import Ops, X


def read_config(config: RawConfig) -> EncoderShape:
    """BERT's fields; an absent `embedding_size` means 128, the default of ELECTRA's config."""
    return bert.read_config({"embedding_size": 128, **config})


def weights(shape: EncoderShape) -> Iterator[Weight]:
    """BERT's table, and the projection where the widths differ."""
    yield from bert.weights(shape)
    if shape.embedding_size != shape.hidden_size:
        yield Weight("project.weight", "embeddings_project.weight", "matrix")
        yield Weight("project.bias", "embeddings_project.bias", "vector")


def forward(ops: Ops[X], shape: EncoderShape) -> list[X]:
    """Embeddings, projection, layers."""
    x = encoder.embed(ops, shape)
    if shape.embedding_size != shape.hidden_size:
        x = ops.linear(x, "project")
    return encoder.layers(ops, shape, x)


FAMILY = Family(prefix="electra.", read_config=read_config, weights=weights, forward=forward)
