"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions that start behind the padding token.

The padding token itself, wherever it stands in a text, sits at the padding position and does not
move the count (`create_position_ids_from_input_ids` of transformers).
"""

from fledge.engine.architectures import bert, encoder
from fledge.engine.architectures.encoder import EncoderShape
from fledge.engine.architectures.family import Family, PositionRule, RawConfig


def read_config(config: RawConfig) -> EncoderShape:
    """Positions start at `pad_token_id + 1`; that many rows of the table are never a token's."""
    pad_id = config.get("pad_token_id", 1)
    return bert.read_bert_like(config, PositionRule(offset=pad_id + 1, skip_id=pad_id))


FAMILY = Family(
    prefix="roberta.", read_config=read_config, weights=bert.weights, forward=encoder.forward
)
