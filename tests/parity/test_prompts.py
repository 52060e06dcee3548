"""Prompts: which one applies, and whether pooling sees it."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.parity.agreement import assert_agrees, assert_vectors_agree
from tests.parity.checkpoints import FAMILIES, Recipe
from tests.parity.engine import Engine
from tests.parity.folders import Bundle, make_bundle, normalize, pooling
from tests.parity.reference import Reference, relative_errors
from tests.parity.texts import TEXTS

PROMPTS = {
    "query": "query: ",
    "passage": "passage:",
    "instruct": "search documents for the question, and give one vector: ",
    "none": "",
}
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def prompted(family: str, *modes: str, include_prompt: bool, default: str | None = None) -> Bundle:
    return Bundle(
        recipe=Recipe(family=family),
        stages=(pooling(*modes, include_prompt=include_prompt), normalize()),
        sentence={"prompts": PROMPTS, "default_prompt_name": default},
    )


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_a_named_prompt_comes_before_the_text(
    family: str, name: str, engine: Engine, forge: Path
) -> None:
    folder = make_bundle(prompted(family, "mean", include_prompt=True), forge)
    assert_agrees(engine, folder, prompt_name=name)


def test_without_a_name_no_prompt_is_put_before_the_text(engine: Engine, forge: Path) -> None:
    assert_agrees(engine, make_bundle(prompted("bert", "mean", include_prompt=True), forge))


def test_the_default_prompt_applies_when_none_is_named(engine: Engine, forge: Path) -> None:
    folder = make_bundle(prompted("bert", "mean", include_prompt=True, default="query"), forge)
    assert_agrees(engine, folder)
    assert_agrees(engine, folder, prompt_name="passage")


def test_an_empty_prompt_name_switches_the_default_off(engine: Engine, forge: Path) -> None:
    folder = make_bundle(prompted("bert", "mean", include_prompt=True, default="query"), forge)
    reference = Reference(folder)
    plain = reference.embed(TEXTS, prompt="")
    assert relative_errors(plain, reference.embed(TEXTS)).max() > 0.01
    assert_vectors_agree(engine.embed(folder, TEXTS, prompt_name=""), plain, TEXTS)


@pytest.mark.parametrize("name", [None, *PROMPTS])
@pytest.mark.parametrize("mode", MODES)
def test_pooling_leaves_the_prompt_out_when_the_folder_says_so(
    mode: str, name: str | None, engine: Engine, forge: Path
) -> None:
    folder = make_bundle(prompted("bert", mode, include_prompt=False), forge)
    assert_agrees(engine, folder, prompt_name=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_length_of_a_prompt_is_counted_as_each_tokenizer_cuts_it(
    family: str, engine: Engine, forge: Path
) -> None:
    # Byte-level BPE makes a token of the blank that ends a prompt, but only where no word follows.
    # What is left out is counted on the prompt alone, so it reaches one token into the text.
    folder = make_bundle(prompted(family, *MODES, include_prompt=False), forge)
    assert_agrees(engine, folder, prompt_name="query")
    assert_agrees(engine, folder, prompt_name="instruct")


def test_a_default_prompt_is_left_out_of_the_pooling_too(engine: Engine, forge: Path) -> None:
    folder = make_bundle(prompted("bert", "mean", include_prompt=False, default="query"), forge)
    assert_agrees(engine, folder)


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_that_fills_the_whole_window_leaves_the_end_token(
    mode: str, engine: Engine, forge: Path
) -> None:
    made = replace(prompted("bert", mode, include_prompt=False), transformer={"max_seq_length": 8})
    folder = make_bundle(replace(made, spelling="old"), forge)
    assert Reference(folder).model.max_seq_length == 8
    assert_agrees(engine, folder, prompt_name="instruct")
