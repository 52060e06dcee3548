"""`sentence_bert_config.json`: what is read, what is harmless, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from fledge.engine.transformer_config import TransformerConfig, read_transformer_config
from fledge.errors import CorruptModel, UnsupportedModel

PLAIN = TransformerConfig(max_seq_length=None, do_lower_case=False, output_hidden_states=None)


def read(folder: Path, config: Any) -> TransformerConfig:
    (folder / "sentence_bert_config.json").write_text(json.dumps(config))
    return read_transformer_config(folder)


def modality(**text: Any) -> dict[str, Any]:
    plain = {"method": "forward", "method_output_name": "last_hidden_state"}
    return {"modality_config": {"text": {**plain, **text}}}


HARMLESS: list[dict[str, Any]] = [
    {},
    {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"},
    modality(),
    modality(method_output_name=["last_hidden_state"]),
    {"modality_config": {**modality()["modality_config"], "message": {"format": "flat"}}},
    {"unpad_inputs": False},
    {"processing_kwargs": {}},
    {"processing_kwargs": {"chat_template": {"add_generation_prompt": True}, "text": {}}},
    {"query_length": None, "document_length": None, "query_expansion": None},
    {"model_args": {"torch_dtype": "bfloat16", "attn_implementation": "sdpa"}},
    {"model_kwargs": {"dtype": "auto", "add_pooling_layer": False}},
    {"tokenizer_args": {"use_fast": True, "padding_side": "left"}},
    {"config_args": {"trust_remote_code": True, "use_cache": False}, "model_args": None},
]


@pytest.mark.parametrize("config", HARMLESS, ids=str)
def test_what_leaves_the_vectors_alone_is_accepted(config: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, config) == PLAIN


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"new_field": 1}, "new_field"),
    ({"transformer_task": "fill-mask"}, "'fill-mask'"),
    ({"module_output_name": "scores"}, "module_output_name is 'scores'"),
    (modality(method="get_text_features"), "get_text_features"),
    (modality(method_output_name=["hidden_states", -2]), "hidden_states"),
    (modality(method_output_name="pooler_output"), "pooler_output"),
    ({"modality_config": {"message": {}}}, "has no text"),
    ({"processing_kwargs": {"text": {"truncation": False}}}, "processing_kwargs has text"),
    ({"processing_kwargs": {"common": {"max_length": 5}}}, "processing_kwargs has common"),
    ({"query_length": 32}, "query_length is 32"),
    ({"document_length": 180}, "document_length is 180"),
    ({"query_expansion": {"length": 32}}, "query_expansion"),
    ({"tokenizer_name_or_path": "other/model"}, "tokenizer_name_or_path"),
    ({"model_args": {"rope_scaling": {"factor": 2}}}, r"model_kwargs\.rope_scaling"),
    ({"model_kwargs": {"default_task": "query"}}, r"model_kwargs\.default_task"),
    ({"tokenizer_args": {"truncation_side": "left"}}, r"processor_kwargs\.truncation_side"),
    ({"config_args": {"num_hidden_layers": 3}}, r"config_kwargs\.num_hidden_layers"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED, ids=[one for _, one in REFUSED])
def test_what_may_change_the_vectors_is_refused_by_name(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read(tmp_path, config)


@pytest.mark.parametrize(
    "config",
    [
        {"modality_config": 7},
        {"modality_config": {"text": 7}},
        {"processing_kwargs": 7},
        {"model_args": 7},
        {"model_args": ["dtype"]},
    ],
    ids=str,
)
def test_a_field_of_another_type_is_a_corrupt_model(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="malformed"):
        read(tmp_path, config)


def test_the_limit_of_the_tokenizers_arguments_goes_before_the_older_field(tmp_path: Path) -> None:
    assert read(tmp_path, {"max_seq_length": 9}).max_seq_length == 9
    config = {"max_seq_length": 9, "processor_kwargs": {"model_max_length": 7}}
    assert read(tmp_path, config).max_seq_length == 7


@pytest.mark.parametrize("name", ["config_args", "config_kwargs"])
def test_the_states_of_all_layers_may_be_asked_for(name: str, tmp_path: Path) -> None:
    assert read(tmp_path, {name: {"output_hidden_states": True}}).output_hidden_states is True
    assert read(tmp_path, {name: {"output_hidden_states": False}}).output_hidden_states is False


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    assert read_transformer_config(tmp_path) == PLAIN
