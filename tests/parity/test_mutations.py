"""The suite can fail: each of these mistakes, made on purpose, is far outside the tolerance.

The mistake is made in a copy of the folder, and the engine is given the copy. Its vectors must
agree with the copy, or it would have failed for another reason, and must not agree with the
original.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.parity.agreement import FP32_TOLERANCE, assert_vectors_agree
from tests.parity.checkpoints import (
    ENCODERS,
    Recipe,
    copy_checkpoint,
    load_weights,
    make_checkpoint,
    save_weights,
)
from tests.parity.engine import Engine
from tests.parity.folders import Bundle, make_bundle, normalize, pooling
from tests.parity.reference import Reference, relative_errors
from tests.parity.texts import TEXTS

Mutation = Callable[[Path], None]


@dataclass(frozen=True)
class Mistake:
    """One thing to get wrong.

    Attributes:
        mutate: does it, in a folder.
        families: where it can be made.
        config: what the original needs in its `config.json` for the mistake to be one.
        factor: tolerances between mistaken and right vectors, at least, on the worst text.
    """

    mutate: Mutation
    families: tuple[str, ...] = ENCODERS
    config: Mapping[str, Any] = field(default_factory=dict)
    factor: float = 10


_QUERY_AND_KEY = {"distilbert": ("q_lin", "k_lin"), "mpnet": ("attn.q", "attn.k")}


def edit_config(folder: Path, file: str, **keys: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def rewrite_weights(folder: Path, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    save_weights(change(load_weights(folder)), folder)


def gelu_by_tanh(folder: Path) -> None:
    key = "activation" if "distilbert" in folder.name else "hidden_act"
    edit_config(folder, "config.json", **{key: "gelu_new"})


def eps_of(value: float) -> Mutation:
    return lambda folder: edit_config(folder, "config.json", layer_norm_eps=value)


def swapped_query_and_key(folder: Path) -> None:
    family = folder.name.split("_")[0]
    query, key = (f".{name}." for name in _QUERY_AND_KEY.get(family, ("query", "key")))

    def swap(weights: dict[str, Any]) -> dict[str, Any]:
        other = {query: key, key: query}
        swapped = {}
        for name, value in weights.items():
            here = next((part for part in other if part in name), None)
            swapped[name.replace(here, other[here]) if here else name] = value
        return swapped

    rewrite_weights(folder, swap)


def rolled(*suffixes: str) -> Mutation:
    """The rows of some tables, each one row further."""

    def mutate(folder: Path) -> None:
        def roll(weights: dict[str, Any]) -> dict[str, Any]:
            found = {name for name in weights if name.endswith(suffixes)}
            assert found
            return {
                name: value.roll(1, dims=0).contiguous() if name in found else value
                for name, value in weights.items()
            }

        rewrite_weights(folder, roll)

    return mutate


def one_token_fewer(folder: Path) -> None:
    length = json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"]
    edit_config(folder, "tokenizer_config.json", model_max_length=length - 1)


TYPED = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
WITH_EPS = (*TYPED, "mpnet")  # DistilBERT's is fixed

MISTAKES = {
    "gelu-by-tanh": Mistake(gelu_by_tanh),
    "eps-of-the-config-ignored": Mistake(eps_of(1e-12), WITH_EPS, {"layer_norm_eps": 1e-3}),
    # The hardest to see: what it adds is a hundred-thousandth of the variance.
    "eps-of-another-family": Mistake(eps_of(1e-5), WITH_EPS, factor=2),
    "swapped-query-and-key": Mistake(swapped_query_and_key),
    "positions-off-by-one": Mistake(rolled("position_embeddings.weight")),
    "wrong-token-type-row": Mistake(rolled("token_type_embeddings.weight"), TYPED),
    "buckets-off-by-one": Mistake(rolled("relative_attention_bias.weight"), ("mpnet",)),
    "one-token-fewer": Mistake(one_token_fewer),
}
CASES = [
    pytest.param(mistake, family, id=f"{name}-{family}")
    for name, mistake in MISTAKES.items()
    for family in mistake.families
]


def assert_caught(
    engine: Engine, original: Path, mutant: Path, factor: float = 10, **options: Any
) -> None:
    wanted = Reference(original).embed(TEXTS, **options)
    mistaken = Reference(mutant).embed(TEXTS, **options)
    assert relative_errors(mistaken, wanted).max() > factor * FP32_TOLERANCE
    got = engine.embed(mutant, TEXTS, **options)
    assert_vectors_agree(got, mistaken, TEXTS)
    with pytest.raises(AssertionError, match="relative error"):
        assert_vectors_agree(got, wanted, TEXTS)


@pytest.mark.parametrize(("mistake", "family"), CASES)
def test_the_mistake_is_caught(
    mistake: Mistake, family: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    original = make_checkpoint(Recipe(family=family, config=mistake.config), forge)
    mutant = copy_checkpoint(original, tmp_path / f"{family}_mutant")
    mistake.mutate(mutant)
    assert_caught(engine, original, mutant, mistake.factor)


def test_positions_counted_from_another_padding_id_are_caught(
    engine: Engine, forge: Path, tmp_path: Path
) -> None:
    original = make_checkpoint(Recipe(family="roberta"), forge)
    mutant = copy_checkpoint(original, tmp_path / "mutant")
    edit_config(mutant, "config.json", pad_token_id=0)
    assert_caught(engine, original, mutant)


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "weightedmean"])
def test_a_missing_prompt_mask_is_caught(
    mode: str, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    made = Bundle(
        recipe=Recipe(family="bert"),
        stages=(pooling(mode, include_prompt=False), normalize()),
        sentence={"prompts": {"query": "query: "}},
    )
    original = make_bundle(made, forge)
    mutant = copy_checkpoint(original, tmp_path / "mutant")
    edit_config(mutant / "1_Pooling", "config.json", include_prompt=True)
    assert_caught(engine, original, mutant, prompt_name="query")
