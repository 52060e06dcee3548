"""How a folder's tokenizer files are read: lengths, lower case, settings baked into the file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.parity.agreement import assert_agrees
from tests.parity.checkpoints import FAMILIES, Recipe
from tests.parity.engine import Engine
from tests.parity.folders import Bundle, make_bundle, pooling
from tests.parity.reference import Reference, relative_errors
from tests.parity.texts import TEXTS

CASED = Recipe(family="bert", tokenizer={"lowercase": False})
MEAN = (pooling("mean", spelling="old"),)
BAKED_TRUNCATION = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
BAKED_PADDING = {
    "strategy": {"Fixed": 32},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "[PAD]",
}


def old_bundle(recipe: Recipe, **options: Any) -> Bundle:
    return Bundle(recipe=recipe, stages=MEAN, spelling="old", **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_max_seq_length_of_the_folder_wins_over_the_tokenizer(
    family: str, engine: Engine, forge: Path
) -> None:
    made = old_bundle(Recipe(family=family), transformer={"max_seq_length": 20})
    folder = make_bundle(made, forge)
    assert Reference(folder).model.max_seq_length == 20
    assert engine.load(folder).card.max_seq_length == 20
    assert_agrees(engine, folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_cut_to_exactly_the_limit(family: str, engine: Engine, forge: Path) -> None:
    made = old_bundle(Recipe(family=family), transformer={"max_seq_length": 12})
    texts = ["a" + " a" * count for count in range(14)]
    assert_agrees(engine, make_bundle(made, forge), texts)


def test_max_seq_length_may_be_more_than_the_tokenizer_says(engine: Engine, forge: Path) -> None:
    made = old_bundle(Recipe(family="bert"), transformer={"max_seq_length": 70})
    folder = make_bundle(made, forge)
    assert engine.load(folder).card.max_seq_length == 70
    assert_agrees(engine, folder)


def test_max_seq_length_of_null_means_the_tokenizers(engine: Engine, forge: Path) -> None:
    made = old_bundle(Recipe(family="bert"), transformer={"max_seq_length": None})
    folder = make_bundle(made, forge)
    assert engine.load(folder).card.max_seq_length == 64
    assert_agrees(engine, folder)


@pytest.mark.parametrize("transformer", [{}, None])
def test_without_any_limit_the_table_of_positions_is_the_limit(
    transformer: dict[str, Any] | None, engine: Engine, forge: Path
) -> None:
    made = old_bundle(
        Recipe(family="bert", tokenizer={"max_length": None}), transformer=transformer
    )
    folder = make_bundle(made, forge)
    assert Reference(folder).model.max_seq_length == 73
    assert engine.load(folder).card.max_seq_length == 73
    assert_agrees(engine, folder)


def test_truncation_baked_into_the_tokenizer_does_not_leak(engine: Engine, forge: Path) -> None:
    made = old_bundle(Recipe(family="bert"), tokenizer_json={"truncation": BAKED_TRUNCATION})
    assert_agrees(engine, make_bundle(made, forge))


def test_padding_baked_into_the_tokenizer_does_not_leak(engine: Engine, forge: Path) -> None:
    # Without max pooling over padding, and without padding in the count of tokens.
    made = old_bundle(Recipe(family="bert"), tokenizer_json={"padding": BAKED_PADDING})
    made = replace(made, stages=(pooling("max", "mean", "lasttoken"),))
    assert_agrees(engine, make_bundle(made, forge))


def test_both_baked_in_without_any_other_limit_do_not_leak(engine: Engine, forge: Path) -> None:
    made = old_bundle(
        Recipe(family="bert", tokenizer={"max_length": None}),
        tokenizer_json={"truncation": BAKED_TRUNCATION, "padding": BAKED_PADDING},
    )
    assert_agrees(engine, make_bundle(made, forge))


def test_a_cased_tokenizer_keeps_the_case(engine: Engine, forge: Path) -> None:
    assert_agrees(engine, make_bundle(old_bundle(CASED), forge))


def test_do_lower_case_lowers_before_a_cased_tokenizer(engine: Engine, forge: Path) -> None:
    cased = make_bundle(old_bundle(CASED), forge)
    folder = make_bundle(old_bundle(CASED, transformer={"do_lower_case": True}), forge)
    lowered = Reference(folder).embed(TEXTS)
    assert relative_errors(lowered, Reference(cased).embed(TEXTS)).max() > 0.01
    assert_agrees(engine, folder)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_do_lower_case_lowers_before_other_kinds_of_tokenizer(
    family: str, engine: Engine, forge: Path
) -> None:
    made = old_bundle(Recipe(family=family), transformer={"do_lower_case": True})
    assert_agrees(engine, make_bundle(made, forge))


def test_do_lower_case_changes_nothing_on_an_uncased_tokenizer(engine: Engine, forge: Path) -> None:
    made = old_bundle(Recipe(family="bert"), transformer={"do_lower_case": True})
    assert_agrees(engine, make_bundle(made, forge))


@pytest.mark.parametrize(
    ("saved_lowercase", "keys"),
    [
        (False, {"do_lower_case": True}),
        (True, {"do_lower_case": False}),
        (True, {"strip_accents": False}),
        (False, {"strip_accents": True}),
        (True, {"tokenize_chinese_chars": False}),
        (False, {"do_lower_case": None}),  # the class's own default is to lower
    ],
)
def test_tokenizer_config_decides_where_tokenizer_json_says_otherwise(
    saved_lowercase: bool, keys: dict[str, Any], engine: Engine, forge: Path
) -> None:
    # For the classes that it knows, transformers builds the normalizer from tokenizer_config.json.
    recipe = Recipe(family="bert", tokenizer={"lowercase": saved_lowercase})
    assert_agrees(engine, make_bundle(old_bundle(recipe, tokenizer_config=keys), forge))


def test_a_tokenizer_of_no_known_class_is_taken_as_tokenizer_json_has_it(
    engine: Engine, forge: Path
) -> None:
    keys = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}
    assert_agrees(engine, make_bundle(old_bundle(CASED, tokenizer_config=keys), forge))


@pytest.mark.parametrize("prefix", [True, False])
def test_add_prefix_space_of_a_byte_level_tokenizer_is_kept(
    prefix: bool, engine: Engine, forge: Path
) -> None:
    recipe = Recipe(family="roberta", tokenizer={"add_prefix_space": prefix})
    assert_agrees(engine, make_bundle(old_bundle(recipe), forge))


def test_a_tokenizer_that_cuts_on_the_left_does_so(engine: Engine, forge: Path) -> None:
    made = old_bundle(Recipe(family="bert"), tokenizer_config={"truncation_side": "left"})
    assert_agrees(engine, make_bundle(made, forge))
