"""The families by the `model_type` of `config.json`. A new family is one file and one line here."""

from collections.abc import Mapping
from typing import Any

from fledge.engine.architectures import (
    bert,
    distilbert,
    electra,
    gemma2,
    llama,
    mistral,
    mpnet,
    qwen2,
    qwen3,
    roberta,
)
from fledge.engine.architectures.family import Family
from fledge.errors import UnsupportedModel

FAMILIES: Mapping[str, Family[Any]] = {
    "bert": bert.FAMILY,
    "camembert": roberta.FAMILY,
    "distilbert": distilbert.FAMILY,
    "electra": electra.FAMILY,
    "gemma2": gemma2.FAMILY,
    "llama": llama.FAMILY,
    "mistral": mistral.FAMILY,
    "mpnet": mpnet.FAMILY,
    "qwen2": qwen2.FAMILY,
    "qwen3": qwen3.FAMILY,
    "roberta": roberta.FAMILY,
    "xlm-roberta": roberta.FAMILY,
}


def find_family(model_type: str) -> Family[Any]:
    """The family of a model type.

    Raises:
        UnsupportedModel: none; the message lists those that exist.
    """
    if model_type not in FAMILIES:
        raise UnsupportedModel(
            f"config.json: model_type is {model_type!r}; Fledge runs {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]
