"""How sentence-transformers was told to run a Transformer: `sentence_bert_config.json`.

Every field is either read, known to leave the vectors of texts alone, or refused by name. Source:
`Transformer.load` and `get_config_dict` of sentence-transformers 6, and what older releases saved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.engine.modules import read_json, refuse_unknown
from fledge.errors import CorruptModel, UnsupportedModel

TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
"""The file is named after the class that saved it; the first one found counts."""

LOADING = (
    "cache_dir",
    "code_revision",
    "local_files_only",
    "revision",
    "token",
    "trust_remote_code",
)
"""Arguments that say where files come from."""

ARGUMENTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "model_kwargs": (
        "model_args",
        (
            "add_pooling_layer",
            "attn_implementation",
            "device_map",
            "dtype",
            "low_cpu_mem_usage",
            "safe_serialization",
            "torch_dtype",
            "use_safetensors",
            "weights_only",
            *LOADING,
        ),
    ),
    "processor_kwargs": (
        "tokenizer_args",
        (
            "clean_up_tokenization_spaces",
            "model_max_length",
            "padding_side",
            "use_fast",
            *LOADING,
        ),
    ),
    "config_kwargs": (
        "config_args",
        ("attn_implementation", "output_hidden_states", "use_cache", *LOADING),
    ),
}
"""Arguments of the model, the tokenizer and the config: their older name, and those that are read
here or leave the vectors alone. (Types of numbers are Fledge's own choice: `precision`.)"""

ABSENT = ("query_length", "document_length", "query_expansion", "tokenizer_name_or_path")
"""Fields that change vectors unless they are null."""

OTHER_MODALITIES = ("audio", "chat_template", "image", "video")
FIELDS = (
    "transformer_task",
    "modality_config",
    "module_output_name",
    "processing_kwargs",
    "unpad_inputs",
    "max_seq_length",
    "do_lower_case",
    *ABSENT,
    *ARGUMENTS,
    *(old for old, _ in ARGUMENTS.values()),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """What is left of the file once everything else was found harmless.

    Attributes:
        max_seq_length: as saved, of any type; None where nothing is said.
        output_hidden_states: whether the states of all layers are handed on; None: as config.json.
    """

    max_seq_length: Any
    do_lower_case: bool
    output_hidden_states: bool | None


def read_transformer_config(folder: Path) -> TransformerConfig:
    """Read the file; without one, everything has its default.

    Raises:
        UnsupportedModel: a field asks for what Fledge does not do.
        CorruptModel: the file is damaged.
    """
    path, config = next(
        (
            (folder / name, found)
            for name in TRANSFORMER_CONFIGS
            if (found := read_json(folder / name))
        ),
        (folder / TRANSFORMER_CONFIGS[0], dict[str, Any]()),
    )
    refuse_unknown(path, config, *FIELDS)
    for name in ABSENT:
        if config.get(name) is not None:
            raise UnsupportedModel(
                f"{path}: {name} is {config[name]!r}; Fledge knows no such thing"
            )
    try:
        _check_task(path, config)
        arguments = {name: _arguments(path, config, name) for name in ARGUMENTS}
    except (TypeError, AttributeError, ValueError) as error:
        raise CorruptModel(f"{path}: malformed: {error!r}") from error
    states = arguments["config_kwargs"].get("output_hidden_states")
    return TransformerConfig(
        max_seq_length=arguments["processor_kwargs"].get(
            "model_max_length", config.get("max_seq_length")
        ),
        do_lower_case=bool(config.get("do_lower_case", False)),
        output_hidden_states=None if states is None else bool(states),
    )


def _check_task(path: Path, config: Mapping[str, Any]) -> None:
    """Texts must go through the plain network, and its last state must come out."""
    task = config.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise UnsupportedModel(f"{path}: transformer_task {task!r} does not give embeddings")
    name = config.get("module_output_name")
    if name not in (None, "token_embeddings"):
        raise UnsupportedModel(f"{path}: module_output_name is {name!r}, not 'token_embeddings'")
    if "modality_config" in config:
        text = dict(config["modality_config"]).get("text")
        if not text:
            raise UnsupportedModel(f"{path}: modality_config has no text")
        output = text.get("method_output_name")
        if text.get("method") != "forward" or output not in (
            "last_hidden_state",
            ["last_hidden_state"],
        ):
            raise UnsupportedModel(
                f"{path}: modality_config computes texts by {text!r}; Fledge computes "
                "'last_hidden_state' of 'forward'"
            )
    for kind, options in dict(config.get("processing_kwargs") or {}).items():
        if options and kind not in OTHER_MODALITIES:
            raise UnsupportedModel(f"{path}: processing_kwargs has {kind}: {options!r}")


def _arguments(path: Path, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    old, known = ARGUMENTS[name]
    arguments = dict(config.get(old, config.get(name)) or {})
    refuse_unknown(path, arguments, *known, within=f"{name}.")
    return arguments
