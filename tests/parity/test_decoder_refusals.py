"""What no file covers is refused when the model is loaded, and the message names the field."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fledge.errors import CorruptModel, UnsupportedModel
from tests.parity.checkpoints import (
    DECODERS,
    Recipe,
    copy_checkpoint,
    load_weights,
    make_checkpoint,
    save_weights,
)
from tests.parity.engine import Engine
from tests.parity.test_mutations import edit_config

FULL, SLIDING = "full_attention", "sliding_attention"
ROPE = {"rope_theta": 10_000.0, "factor": 2.0}


def spoiled(family: str, forge: Path, tmp_path: Path, **keys: Any) -> Path:
    folder = copy_checkpoint(make_checkpoint(Recipe(family=family), forge), tmp_path / "spoiled")
    edit_config(folder, "config.json", **keys)
    return folder


OTHER_MODELS = ("qwen2_moe", "qwen3_moe", "mixtral", "gemma", "gemma3_text", "phi3", "gpt2", "")


@pytest.mark.parametrize("model_type", OTHER_MODELS)
def test_a_model_type_without_a_file_is_refused(
    model_type: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    folder = spoiled("qwen3", forge, tmp_path, model_type=model_type)
    with pytest.raises(UnsupportedModel, match=f"model_type.*{model_type}"):
        engine.load(folder)


FOR_ALL: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "not-causal": ("is_causal", {"is_causal": False}),
    "unknown-rope": ("spiral", {"rope_parameters": {**ROPE, "rope_type": "spiral"}}),
    "unknown-rope-of-old": ("spiral", {"rope_scaling": {"factor": 2.0, "type": "spiral"}}),
    "rope-for-images": (
        "mrope",
        {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
    ),
    "rope-by-layer": (
        "rope_parameters",
        {"rope_parameters": {FULL: {**ROPE, "rope_type": "default"}}},
    ),
    "partial-rotation": ("partial_rotary_factor", {"partial_rotary_factor": 0.5}),
    "partial-rotation-within": (
        "partial_rotary_factor",
        {"rope_parameters": {**ROPE, "rope_type": "linear", "partial_rotary_factor": 0.5}},
    ),
    "rope-without-a-factor": ("factor", {"rope_scaling": {"rope_type": "linear"}}),
    "rope-that-is-a-list": ("rope", {"rope_scaling": [1, 2]}),
}


@pytest.mark.parametrize("name", FOR_ALL)
@pytest.mark.parametrize("family", DECODERS)
def test_a_field_that_asks_for_other_arithmetic_is_refused(
    family: str, name: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    word, keys = FOR_ALL[name]
    with pytest.raises((UnsupportedModel, CorruptModel), match=word):
        engine.load(spoiled(family, forge, tmp_path, **keys))


OF_FAMILIES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "llama-activation": ("llama", "xielu", {"hidden_act": "xielu"}),
    "qwen2-activation": ("qwen2", "quick_gelu", {"hidden_act": "quick_gelu"}),
    "gemma2-activation": ("gemma2", "laplace", {"hidden_activation": "laplace"}),
    "gemma2-bidirectional": (
        *("gemma2", "use_bidirectional_attention"),
        {"use_bidirectional_attention": True},
    ),
    "qwen3-chunks": ("qwen3", "chunked_attention", {"layer_types": ["chunked_attention"] * 3}),
    "gemma2-linear": ("gemma2", "linear_attention", {"layer_types": ["linear_attention"] * 3}),
    "gemma2-two-types": ("gemma2", "layer_types", {"layer_types": [SLIDING, FULL]}),
    "qwen2-type-that-is-no-list": ("qwen2", "layer_types", {"layer_types": SLIDING}),
    "gemma2-window-of-nothing": ("gemma2", "sliding_window", {"sliding_window": 0}),
    "gemma2-no-window": ("gemma2", "sliding_window", {"sliding_window": None}),
    "mistral-window-of-less": ("mistral", "sliding_window", {"sliding_window": -4}),
    "qwen3-window-switched-off": (
        *("qwen3", "sliding_window"),
        {"layer_types": [SLIDING] * 3, "use_sliding_window": False, "sliding_window": 9},
    ),
    "llama-three-kv-heads": ("llama", "num_key_value_heads", {"num_key_value_heads": 3}),
    "llama-odd-head": ("llama", "head_dim", {"head_dim": 15}),
    "qwen3-text-for-a-size": ("qwen3", "head_dim", {"head_dim": "24"}),
    "gemma2-cap-of-nothing": (
        *("gemma2", "attn_logit_softcapping"),
        {"attn_logit_softcapping": 0.0},
    ),
    "gemma2-scale-of-less": ("gemma2", "query_pre_attn_scalar", {"query_pre_attn_scalar": -1}),
    "llama-layers-that-differ": (
        *("llama", "per_layer_config"),
        {"per_layer_config": {"0": {"num_attention_heads": 2}}},
    ),
}


@pytest.mark.parametrize("name", OF_FAMILIES)
def test_a_field_of_one_family_is_refused_by_name(
    name: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    family, word, keys = OF_FAMILIES[name]
    with pytest.raises((UnsupportedModel, CorruptModel), match=word):
        engine.load(spoiled(family, forge, tmp_path, **keys))


@pytest.mark.parametrize(
    ("family", "lost"),
    [
        ("qwen3", "layers.1.self_attn.q_norm.weight"),
        ("qwen2", "layers.0.self_attn.k_proj.bias"),
        ("gemma2", "layers.2.pre_feedforward_layernorm.weight"),
        ("mistral", "norm.weight"),
        ("llama", "embed_tokens.weight"),
    ],
)
def test_a_weight_that_is_missing_is_named(
    family: str, lost: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    folder = spoiled(family, forge, tmp_path)
    weights = load_weights(folder)
    del weights[lost]
    save_weights(weights, folder)
    with pytest.raises(CorruptModel, match=lost):
        engine.load(folder)


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("qwen3", {"head_dim": 16}),
        ("llama", {"num_key_value_heads": 1}),
        ("gemma2", {"intermediate_size": 100}),
        ("mistral", {"hidden_size": 32}),
        ("qwen2", {"num_attention_heads": 8}),
    ],
)
def test_weights_of_another_size_than_the_config_says_are_refused(
    family: str, keys: dict[str, int], engine: Engine, forge: Path, tmp_path: Path
) -> None:
    # Some of these fit together by themselves, and would be silently wrong vectors.
    with pytest.raises((CorruptModel, UnsupportedModel)):
        engine.load(spoiled(family, forge, tmp_path, **keys))


@pytest.mark.parametrize("family", DECODERS)
def test_a_size_that_a_config_leaves_out_is_not_guessed(
    family: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    folder = spoiled(family, forge, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"):
        kept = {key: value for key, value in config.items() if key != name}
        (folder / "config.json").write_text(json.dumps(kept))
        with pytest.raises((CorruptModel, UnsupportedModel)):
            engine.load(folder)
