"""What differs between decoders of one family: heads, windows, rotation, biases, and spellings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fledge.errors import UnsupportedModel
from tests.parity.agreement import BF16_ALLOWANCE, assert_agrees, assert_vectors_agree
from tests.parity.checkpoints import (
    DECODERS,
    WINDOW,
    Recipe,
    copy_checkpoint,
    load_weights,
    make_checkpoint,
    save_weights,
    torch,
)
from tests.parity.engine import Engine, needs_bf16
from tests.parity.reference import Reference, relative_error, relative_errors
from tests.parity.test_mutations import edit_config
from tests.parity.texts import TEXTS

LARGE_EPS = 0.3  # of the size of the variances, so that leaving it out shows
FULL, SLIDING = "full_attention", "sliding_attention"


def recipe(family: str, **config: Any) -> Recipe:
    return Recipe(family=family, config=config)


HEADS = {
    **{f"{name}-one-kv-head": recipe(name, num_key_value_heads=1) for name in DECODERS},
    **{f"{name}-no-groups": recipe(name, num_key_value_heads=4) for name in DECODERS},
    **{f"{name}-eps": recipe(name, rms_norm_eps=LARGE_EPS) for name in DECODERS},
    **{f"{name}-tied": recipe(name, tie_word_embeddings=True) for name in DECODERS},
    **{f"{name}-one-layer": recipe(name, num_hidden_layers=1) for name in DECODERS},
    "qwen2-groups-of-four": recipe("qwen2", num_attention_heads=8),
    "qwen2-head-dim": recipe("qwen2", head_dim=24),
    "qwen3-groups-of-three": recipe("qwen3", num_attention_heads=6, hidden_size=96),
    "qwen3-head-dim-of-hidden": recipe("qwen3", head_dim=16),
    "qwen3-head-dim-128": recipe("qwen3", head_dim=128),
    "llama-head-dim": recipe("llama", head_dim=40),
    "llama-no-kv-heads-said": recipe("llama", num_key_value_heads=None),
    "mistral-head-dim-of-hidden": recipe("mistral", head_dim=None),
    "mistral-head-dim-4": recipe("mistral", head_dim=4),
    "gemma2-head-dim-8": recipe("gemma2", head_dim=8),
}

QWEN_WINDOWS: Mapping[str, Mapping[str, Any]] = {
    "switched-off": {"max_window_layers": 0},
    "from-layer-1": {"use_sliding_window": True, "max_window_layers": 1},
    "everywhere": {"use_sliding_window": True, "max_window_layers": 0},
    "behind-the-last-layer": {"use_sliding_window": True, "max_window_layers": 3},
    "by-layer-types": {"use_sliding_window": True, "layer_types": [SLIDING, FULL, SLIDING]},
}
WINDOWS = {
    "mistral-none": recipe("mistral", sliding_window=None),
    "mistral-itself-alone": recipe("mistral", sliding_window=1),
    "mistral-five": recipe("mistral", sliding_window=5),
    "mistral-wider-than-any-text": recipe("mistral", sliding_window=4096),
    "mistral-as-long-as-the-longest": recipe("mistral", sliding_window=4 * WINDOW),
    "gemma2-seven": recipe("gemma2", sliding_window=7),
    "gemma2-six-layers": recipe("gemma2", num_hidden_layers=6),
    "gemma2-the-other-layers": recipe("gemma2", layer_types=[FULL, SLIDING, FULL]),
    "gemma2-no-window-at-all": recipe("gemma2", layer_types=[FULL] * 3),
    "gemma2-windows-alone": recipe("gemma2", layer_types=[SLIDING] * 3),
    **{
        f"{name}-window-{key}": recipe(name, sliding_window=9, **config)
        for name in ("qwen2", "qwen3")
        for key, config in QWEN_WINDOWS.items()
    },
}

OTHERS = {
    "llama-biases": recipe("llama", attention_bias=True, mlp_bias=True),
    "llama-attention-bias": recipe("llama", attention_bias=True),
    "llama-mlp-bias": recipe("llama", mlp_bias=True),
    "qwen3-attention-bias": recipe("qwen3", attention_bias=True),
    "gemma2-attention-bias": recipe("gemma2", attention_bias=True),
    "llama-gelu": recipe("llama", hidden_act="gelu"),
    "qwen2-gelu_new": recipe("qwen2", hidden_act="gelu_new"),
    "mistral-relu": recipe("mistral", hidden_act="relu"),
    "gemma2-gelu": recipe("gemma2", hidden_activation="gelu"),
    "gemma2-another-hidden_act-that-nothing-reads": recipe("gemma2", hidden_act="relu"),
    "gemma2-no-soft-cap": recipe("gemma2", attn_logit_softcapping=None),
    "gemma2-small-soft-cap": recipe("gemma2", attn_logit_softcapping=0.3),
    "gemma2-usual-soft-cap": recipe("gemma2", attn_logit_softcapping=50.0),
    "gemma2-no-cap-of-logits": recipe("gemma2", final_logit_softcapping=None),
    "gemma2-small-cap-of-logits": recipe("gemma2", final_logit_softcapping=0.1),
    "gemma2-scale": recipe("gemma2", query_pre_attn_scalar=7),
    "gemma2-usual-scale": recipe("gemma2", query_pre_attn_scalar=256),
    "gemma2-bidirectional-said-to-be-off": recipe("gemma2", use_bidirectional_attention=False),
    "llama-a-padding-token": recipe("llama", pad_token_id=3),
}

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 40,
}
YARN = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 40}
ROTATIONS: Mapping[str, Mapping[str, Any]] = {
    "small-base": {"rope_type": "default", "rope_theta": 40.0},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn-by-hand": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.3},
    "yarn-mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2, "truncate": False},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "longrope": {
        "rope_type": "longrope",
        "factor": 2.0,
        "original_max_position_embeddings": 40,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
    },
}
COMPUTED = tuple(name for name in ROTATIONS if name != "longrope")

FILES = {
    **{f"{name}-head-beside": Recipe(family=name, layout="prefixed") for name in DECODERS},
    **{f"{name}-bf16": Recipe(family=name, dtype="bfloat16") for name in DECODERS},
    "qwen3-fp16": Recipe(family="qwen3", dtype="float16", spelling="old"),
    "gemma2-fp16": Recipe(family="gemma2", dtype="float16", layout="prefixed"),
    "qwen3-shards": Recipe(family="qwen3", shards=3),
    "mistral-head-in-shards": Recipe(family="mistral", layout="prefixed", shards=4),
    "llama-old-buffers": Recipe(family="llama", position_ids=True),
    "llama-old-buffers-prefixed": Recipe(family="llama", layout="prefixed", position_ids=True),
}


@pytest.mark.parametrize("name", [*HEADS, *WINDOWS, *OTHERS])
def test_every_variant_of_the_arithmetic_agrees(name: str, engine: Engine, forge: Path) -> None:
    assert_agrees(engine, make_checkpoint({**HEADS, **WINDOWS, **OTHERS}[name], forge))


SHORT = {
    "bert-silu": Recipe(family="bert", config={"hidden_act": "silu"}),
    **{
        name: {**HEADS, **WINDOWS, **OTHERS}[name]
        for name in (
            *("qwen2-gelu_new", "mistral-relu", "llama-gelu", "llama-biases"),
            *("qwen3-attention-bias", "qwen3-groups-of-three", "qwen2-window-by-layer-types"),
            *("gemma2-no-soft-cap", "gemma2-small-soft-cap", "gemma2-one-kv-head"),
        )
    },
}


@needs_bf16
@pytest.mark.parametrize("name", SHORT)
def test_variants_are_as_close_in_bf16_as_torchs_own(
    name: str, engine: Engine, forge: Path
) -> None:
    folder = make_checkpoint(SHORT[name], forge)
    exact = Reference(folder).embed(TEXTS)
    of_torch = relative_error(Reference(folder, "bfloat16").embed(TEXTS), exact)
    of_fledge = relative_error(engine.embed(folder, TEXTS, "bf16"), exact)
    assert of_fledge <= BF16_ALLOWANCE * of_torch


@pytest.mark.parametrize("name", FILES)
def test_every_layout_of_the_weights_agrees(name: str, engine: Engine, forge: Path) -> None:
    assert_agrees(engine, make_checkpoint(FILES[name], forge))


@pytest.mark.parametrize("name", ROTATIONS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_every_rotation_agrees_or_is_refused_by_its_name(
    family: str, name: str, engine: Engine, forge: Path
) -> None:
    parameters = {"rope_theta": 100.0, **ROTATIONS[name]}
    folder = make_checkpoint(recipe(family, rope_parameters=parameters), forge)
    if name in COMPUTED:
        assert_agrees(engine, folder)
        return
    with pytest.raises(UnsupportedModel, match=f"rope.*{ROTATIONS[name]['rope_type']}"):
        engine.load(folder)


ROPE_KEYS = ("rope_parameters", "rope_scaling", "rope_theta")


def respelled(source: Path, target: Path, **keys: Any) -> Path:
    """A copy whose config has these keys of rotation and no others."""
    folder = copy_checkpoint(source, target)
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in ROPE_KEYS}
    (folder / "config.json").write_text(json.dumps({**kept, **keys}))
    return folder


SCALED = {key: value for key, value in LLAMA3.items() if key != "rope_type"}
SPELLINGS: Mapping[str, Mapping[str, Any]] = {
    "new": {"rope_parameters": {**LLAMA3, "rope_theta": 700.0}},
    "new-with-the-base-outside": {"rope_parameters": LLAMA3, "rope_theta": 700.0},
    "old": {"rope_scaling": LLAMA3, "rope_theta": 700.0},
    "older": {"rope_scaling": {"type": "llama3", **SCALED}, "rope_theta": 700.0},
    "both-types": {"rope_scaling": {**LLAMA3, "type": "llama3"}, "rope_theta": 700.0},
    "base-inside-wins": {"rope_scaling": {**LLAMA3, "rope_theta": 700.0}, "rope_theta": 9.0},
    "old-wins-over-new": {
        "rope_scaling": {**LLAMA3, "rope_theta": 700.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 9.0},
    },
    "an-empty-old-one-does-not-count": {
        "rope_scaling": {},
        "rope_parameters": {**LLAMA3, "rope_theta": 700.0},
    },
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_rotation_is_the_same_in_every_spelling(
    name: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    source = make_checkpoint(recipe("llama", **SPELLINGS["new"]), forge)
    twin = respelled(source, tmp_path / "twin", **SPELLINGS["new"])
    folder = respelled(source, tmp_path / "folder", **SPELLINGS[name])
    wanted = Reference(twin).embed(TEXTS)
    assert relative_errors(Reference(folder).embed(TEXTS), wanted).max() == 0
    assert_vectors_agree(engine.embed(folder, TEXTS), wanted, TEXTS)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"rope_theta": 10_000},  # an integer, as many files have it
        {"rope_theta": 10_000.0, "rope_scaling": None},
        {"rope_parameters": None},
        {"rope_parameters": {"rope_type": "default"}},
        {"rope_scaling": {"type": "default"}},
    ],
)
@pytest.mark.parametrize("family", DECODERS)
def test_a_base_of_ten_thousand_is_meant_where_none_is_said(
    family: str, keys: dict[str, Any], engine: Engine, forge: Path, tmp_path: Path
) -> None:
    source = make_checkpoint(Recipe(family=family), forge)
    assert_agrees(engine, respelled(source, tmp_path / "folder", **keys), TEXTS[:12])


LEFT_OUT = {
    *("rms_norm_eps", "hidden_act", "hidden_activation", "attention_bias", "mlp_bias"),
    *("attn_logit_softcapping", "query_pre_attn_scalar", "sliding_window", "layer_types"),
    *("use_sliding_window", "max_window_layers", "tie_word_embeddings"),
}


@pytest.mark.parametrize("family", DECODERS)
def test_fields_that_a_config_leaves_out_have_their_classs_defaults(
    family: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    source = make_checkpoint(Recipe(family=family), forge)
    folder = copy_checkpoint(source, tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in LEFT_OUT}
    (folder / "config.json").write_text(json.dumps(kept))
    assert_agrees(engine, folder, TEXTS[:12])


def test_biases_that_the_config_knows_nothing_of_are_not_added(
    engine: Engine, forge: Path, tmp_path: Path
) -> None:
    # transformers leaves them out too, and reports them.
    source = make_checkpoint(recipe("llama", attention_bias=True), forge)
    folder = copy_checkpoint(source, tmp_path / "folder")
    edit_config(folder, "config.json", attention_bias=False)
    assert_agrees(engine, folder)


def test_qwen2_has_biases_whatever_its_config_says(
    engine: Engine, forge: Path, tmp_path: Path
) -> None:
    source = make_checkpoint(Recipe(family="qwen2"), forge)
    folder = copy_checkpoint(source, tmp_path / "folder")
    edit_config(folder, "config.json", attention_bias=False)
    assert_agrees(engine, folder)


def test_a_head_of_another_size_than_the_embeddings_is_left_alone(
    engine: Engine, forge: Path, tmp_path: Path
) -> None:
    source = make_checkpoint(Recipe(family="qwen3", layout="prefixed"), forge)
    folder = copy_checkpoint(source, tmp_path / "folder")
    weights = load_weights(folder)
    weights |= {"lm_head.weight": torch.ones(3, 5), "score.weight": torch.ones(1, 64)}
    save_weights(weights, folder)
    assert_agrees(engine, folder)
