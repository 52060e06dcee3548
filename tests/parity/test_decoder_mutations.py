"""The suite can fail on decoders too: each of these mistakes is far outside the tolerance.

As in `test_mutations.py` the mistake is made in a copy of the folder: in its config where a field
says so, else in its weights, changed such that the right arithmetic on them is the wrong one on the
original's. The engine must agree with the copy and must not agree with the original.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.parity.agreement import FP32_TOLERANCE, assert_vectors_agree
from tests.parity.checkpoints import DECODERS, WINDOW, Recipe, copy_checkpoint, make_checkpoint
from tests.parity.engine import Engine
from tests.parity.folders import Bundle, make_bundle, pooling
from tests.parity.reference import Reference, relative_errors
from tests.parity.test_mutations import Mutation, assert_caught, edit_config, rewrite_weights
from tests.parity.texts import TEXTS

Weights = dict[str, Any]
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Mistake:
    """One thing to get wrong.

    Attributes:
        mutate: does it, in a folder.
        families: where it can be made.
        config: what the original needs in its `config.json` for the mistake to be one.
    """

    mutate: Mutation
    families: tuple[str, ...] = DECODERS
    config: Mapping[str, Any] = field(default_factory=dict)


def config_of(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return read


def config_with(**keys: Any) -> Mutation:
    return lambda folder: edit_config(folder, "config.json", **keys)


def renamed(change: Callable[[str], str]) -> Mutation:
    return lambda folder: rewrite_weights(
        folder, lambda weights: {change(name): value for name, value in weights.items()}
    )


def each_weight(part: str, change: Callable[[Any], Any]) -> Mutation:
    """Every tensor with `part` in its name, changed."""

    def mutate(folder: Path) -> None:
        def rewrite(weights: Weights) -> Weights:
            assert any(part in name for name in weights)
            return {
                name: change(value).contiguous() if part in name else value
                for name, value in weights.items()
            }

        rewrite_weights(folder, rewrite)

    return mutate


def swap_names(one: str, other: str) -> Mutation:
    swapped = {one: other, other: one}

    def change(name: str) -> str:
        here = next((part for part in swapped if part in name), None)
        return name.replace(here, swapped[here]) if here else name

    return renamed(change)


def turned_in_pairs(folder: Path) -> None:
    """Number 2i of a head comes to place i, 2i + 1 to the other half: pairs become halves."""
    config = config_of(folder)
    depth = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]

    def permute(value: Any) -> Any:
        heads = value.reshape(-1, depth // 2, 2, *value.shape[1:])
        return heads.transpose(1, 2).reshape(value.shape)

    for part in ("q_proj", "k_proj", "q_norm", "k_norm"):
        if "norm" not in part or config["model_type"] == "qwen3":
            each_weight(part, permute)(folder)


def base_of_another(folder: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 2_000.0}
    edit_config(folder, "config.json", rope_parameters=rope)


def norms_of_heads_dropped(folder: Path) -> None:
    """A Qwen3 without them is a Llama."""
    rewrite_weights(
        folder,
        lambda weights: {
            name: value
            for name, value in weights.items()
            if "q_norm" not in name and "k_norm" not in name
        },
    )
    edit_config(folder, "config.json", model_type="llama", layer_types=None)


def no_end_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    for part in ("single", "pair"):
        content["post_processor"][part].pop()
    file.write_text(json.dumps(content, ensure_ascii=False), "utf-8")


def wrong_heads_of_groups(folder: Path) -> None:
    """The two heads of keys and values exchanged: queries share the other group's."""

    def exchange(value: Any) -> Any:
        return value.reshape(2, -1, *value.shape[1:]).flip(0).reshape(value.shape)

    for part in ("k_proj", "v_proj"):
        each_weight(part, exchange)(folder)


MISTAKES = {
    "swapped-query-and-key": Mistake(
        swap_names("q_proj", "k_proj"),
        ("qwen2", "mistral", "llama", "gemma2"),
        {"num_key_value_heads": 4},
    ),
    "swapped-norms-of-query-and-key": Mistake(swap_names("q_norm", "k_norm"), ("qwen3",)),
    "swapped-gate-and-up": Mistake(swap_names("gate_proj", "up_proj")),
    "swapped-norms-of-a-layer": Mistake(swap_names("input_layernorm", "post_attention_layernorm")),
    "swapped-norms-after-attention": Mistake(
        swap_names("post_attention_layernorm", "pre_feedforward_layernorm"), ("gemma2",)
    ),
    "wrong-heads-of-groups": Mistake(wrong_heads_of_groups),
    "window-one-wider": Mistake(config_with(sliding_window=WINDOW + 1), ("mistral", "gemma2")),
    "window-one-narrower": Mistake(config_with(sliding_window=WINDOW - 1), ("mistral", "gemma2")),
    "window-dropped": Mistake(config_with(sliding_window=4096), ("mistral", "gemma2")),
    "windows-of-the-other-layers": Mistake(
        config_with(layer_types=[FULL, SLIDING, FULL]), ("gemma2",)
    ),
    "windows-from-another-layer": Mistake(
        config_with(max_window_layers=2, layer_types=None),
        ("qwen2", "qwen3"),
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "base-of-rotation": Mistake(base_of_another),
    "turned-in-pairs": Mistake(turned_in_pairs),
    "soft-cap-dropped": Mistake(config_with(attn_logit_softcapping=None), ("gemma2",)),
    "soft-cap-of-another": Mistake(config_with(attn_logit_softcapping=50.0), ("gemma2",)),
    "scale-of-the-head": Mistake(config_with(query_pre_attn_scalar=24), ("gemma2",)),
    "eps-of-the-config-ignored": Mistake(
        config_with(rms_norm_eps=1e-6), config={"rms_norm_eps": 1e-3}
    ),
    "one-not-added-to-norms": Mistake(
        each_weight("norm.weight", lambda value: value - 1), ("gemma2",)
    ),
    "embeddings-not-scaled": Mistake(
        each_weight("embed_tokens", lambda value: value / 8), ("gemma2",)
    ),
    "norms-of-heads-dropped": Mistake(norms_of_heads_dropped, ("qwen3",)),
    "bias-dropped": Mistake(each_weight("_proj.bias", lambda value: value * 0), ("qwen2",)),
    "gelu-exact": Mistake(config_with(hidden_activation="gelu"), ("gemma2",)),
    "pooled-by-the-mean": Mistake(
        config_with(architectures=["SomeForCausalLM"]), ("qwen3", "gemma2")
    ),
    "no-end-token": Mistake(no_end_token),
}
CASES = [
    pytest.param(mistake, family, id=f"{name}-{family}")
    for name, mistake in MISTAKES.items()
    for family in mistake.families
]


@pytest.mark.parametrize(("mistake", "family"), CASES)
def test_the_mistake_is_caught(
    mistake: Mistake, family: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    original = make_checkpoint(Recipe(family=family, config=mistake.config), forge)
    mutant = copy_checkpoint(original, tmp_path / f"{family}_mutant")
    mistake.mutate(mutant)
    assert_caught(engine, original, mutant)


@pytest.mark.parametrize("family", DECODERS)
def test_a_missing_causal_mask_is_caught(
    family: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    # No config that the engine takes says so, so the reference alone makes the mistake.
    original = make_checkpoint(Recipe(family=family), forge)
    mutant = copy_checkpoint(original, tmp_path / "mutant")
    edit_config(mutant, "config.json", is_causal=False)
    mistaken = Reference(mutant).embed(TEXTS)
    got = engine.embed(original, TEXTS)
    assert_vectors_agree(got, Reference(original).embed(TEXTS), TEXTS)
    assert relative_errors(got, mistaken).max() > 1_000 * FP32_TOLERANCE


@pytest.mark.parametrize("family", DECODERS)
def test_a_prompt_that_is_not_masked_is_caught(
    family: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    made = Bundle(
        recipe=Recipe(family=family),
        stages=(pooling("mean", include_prompt=False),),
        sentence={"prompts": {"query": "query: "}},
    )
    original = make_bundle(made, forge)
    mutant = copy_checkpoint(original, tmp_path / "mutant")
    edit_config(mutant / "1_Pooling", "config.json", include_prompt=True)
    assert_caught(engine, original, mutant, prompt_name="query")
