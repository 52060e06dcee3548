"""Decoders: pooling, folders without modules, prompts, ends of texts, and lengths of every kind.

What holds for every family is in the other files; here is what an encoder does not have.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from fledge.types import Precision
from tests.parity.agreement import ALONE_TOLERANCE, assert_agrees, assert_vectors_agree
from tests.parity.checkpoints import (
    DECODERS,
    WINDOW,
    Recipe,
    copy_checkpoint,
    make_checkpoint,
    with_config,
)
from tests.parity.engine import PRECISIONS, Engine
from tests.parity.folders import Bundle, Spelling, make_bundle, normalize, pooling
from tests.parity.reference import Reference, relative_errors, unit
from tests.parity.test_mutations import edit_config
from tests.parity.texts import TEXTS

PROMPTS = {
    "query": "Instruct: Given a question, search documents\nQuery: ",
    "passage": "passage:",
    "none": "",
}
LINE = TEXTS[16]
LONG = 2_400

each_decoder = pytest.mark.parametrize("family", DECODERS)
each_pooling = pytest.mark.parametrize("mode", ["lasttoken", "mean"])


def bundle(family: str, *modes: str, spelling: Spelling = "new", **config: bool) -> Bundle:
    stages = (pooling(*modes, spelling=spelling, **config), normalize())
    return Bundle(
        recipe=Recipe(family=family),
        stages=stages,
        spelling=spelling,
        sentence={"prompts": PROMPTS},
    )


@pytest.mark.parametrize("spelling", ["old", "new"])
@each_pooling
@each_decoder
def test_a_sentence_transformers_folder_agrees(
    family: str, mode: str, spelling: Spelling, engine: Engine, forge: Path
) -> None:
    assert_agrees(engine, make_bundle(bundle(family, mode, spelling=spelling), forge))


@pytest.mark.parametrize("mode", ["cls", "max", "weightedmean"])
@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_the_other_poolings_agree_too(family: str, mode: str, engine: Engine, forge: Path) -> None:
    assert_agrees(engine, make_bundle(bundle(family, mode, "lasttoken"), forge))


@each_decoder
def test_a_bare_folder_of_a_model_for_next_words_is_pooled_by_its_last_token(
    family: str, engine: Engine, forge: Path
) -> None:
    for_next_words = Recipe(family=family, layout="prefixed", architecture="SomeForCausalLM")
    folder = make_checkpoint(for_next_words, forge)
    assert engine.load(folder).card.pooling == ("lasttoken",)
    assert_agrees(engine, folder)


@pytest.mark.parametrize("architectures", [None, [], ["Qwen3Model", "Qwen3ForCausalLM"]])
def test_any_other_bare_folder_is_pooled_by_the_mean(
    architectures: list[str] | None, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    source = make_checkpoint(Recipe(family="qwen3"), forge)
    folder = copy_checkpoint(source, tmp_path / "bare")
    edit_config(folder, "config.json", architectures=architectures)
    assert engine.load(folder).card.pooling == ("mean",)
    assert_agrees(engine, folder)


@pytest.mark.parametrize("name", [None, *PROMPTS])
@each_pooling
@each_decoder
def test_pooling_leaves_the_prompt_out_when_the_folder_says_so(
    family: str, mode: str, name: str | None, engine: Engine, forge: Path
) -> None:
    folder = make_bundle(bundle(family, mode, include_prompt=False), forge)
    assert_agrees(engine, folder, prompt_name=name)


@each_pooling
def test_a_prompt_counts_in_the_pooling_otherwise(mode: str, engine: Engine, forge: Path) -> None:
    folder = make_bundle(bundle("qwen3", mode), forge)
    reference = Reference(folder)
    plain, prompted = reference.embed(TEXTS), reference.embed(TEXTS, prompt_name="query")
    assert relative_errors(prompted, plain).min() > 0.001
    assert_agrees(engine, folder, prompt_name="query")


@each_pooling
@each_decoder
def test_a_text_of_one_token_agrees(family: str, mode: str, engine: Engine, forge: Path) -> None:
    recipe = Recipe(family=family, tokenizer={"ends": False})
    folder = make_bundle(Bundle(recipe=recipe, stages=(pooling(mode),)), forge)
    texts = ["a", "ab", "a b", "The weather is lovely today."]
    ids = Reference(folder).model.tokenizer(texts)["input_ids"]
    assert len(ids[0]) == 1
    assert_agrees(engine, folder, texts)
    # The first token sees itself alone, whatever follows.
    assert_agrees(engine, folder, ["a"])


@each_decoder
def test_the_end_token_is_the_one_that_is_pooled(family: str, engine: Engine, forge: Path) -> None:
    stages = (pooling("lasttoken"),)
    ended = make_bundle(Bundle(recipe=Recipe(family=family), stages=stages), forge)
    open_recipe = Recipe(family=family, tokenizer={"ends": False})
    unended = make_bundle(Bundle(recipe=open_recipe, stages=stages), forge)
    difference = relative_errors(Reference(ended).embed(TEXTS), Reference(unended).embed(TEXTS))
    assert difference.min() > 0.01
    assert_agrees(engine, ended)
    assert_agrees(engine, unended)


@each_pooling
def test_padding_on_the_left_changes_nothing(mode: str, engine: Engine, forge: Path) -> None:
    # It is what these models' cards ask for. The reference moves every text to the right then,
    # where float32 angles are coarser: that difference is its own.
    recipe = Recipe(family="qwen3", tokenizer={"padding_side": "left"})
    folder = make_bundle(Bundle(recipe=recipe, stages=(pooling(mode),)), forge)
    assert Reference(folder).model.tokenizer.padding_side == "left"
    assert_agrees(engine, folder)


def long_recipe(family: str) -> Recipe:
    """Few numbers a token, and thousands of tokens."""
    recipe = Recipe(family=family, tokenizer={"max_length": LONG})
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "intermediate_size": 48, "head_dim": 16}
    window = {} if family in ("qwen2", "qwen3", "llama") else {"sliding_window": 10 * WINDOW}
    return with_config(recipe, **sizes, **window, max_position_embeddings=LONG)


LENGTHS = (1, 3, 11, 239, 240, 241, 600, 1_023, 1_500, LONG, 2)


@each_pooling
@each_decoder
def test_one_token_and_thousands_in_one_call_agree(
    family: str, mode: str, engine: Engine, forge: Path
) -> None:
    made = Bundle(recipe=long_recipe(family), stages=(pooling(mode, width=32),))
    folder = make_bundle(made, forge)
    ids = np.random.default_rng(3).integers(300, 330, LONG).tolist()
    rows = [ids[:length] for length in LENGTHS]
    wanted = Reference(folder).embed_ids(rows)
    got = engine.embed(folder, rows)
    assert_vectors_agree(got, wanted, [f"{length} tokens" for length in LENGTHS])


@pytest.mark.parametrize("precision", PRECISIONS)
@each_decoder
def test_a_row_beside_thousands_of_tokens_equals_the_row_alone(
    family: str, precision: Precision, engine: Engine, forge: Path
) -> None:
    made = Bundle(recipe=long_recipe(family), stages=(pooling("lasttoken", "mean", width=32),))
    folder = make_bundle(made, forge)
    ids = np.random.default_rng(4).integers(300, 330, LONG).tolist()
    rows = [ids[:length] for length in (5, LONG, 30, 1, 700)]
    together = unit(engine.embed(folder, rows, precision))
    alone = unit(engine.embed_alone(folder, rows, precision))
    assert np.abs(together - alone).max() <= ALONE_TOLERANCE[precision]


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_every_length_around_the_window_agrees(family: str, engine: Engine, forge: Path) -> None:
    folder = make_bundle(bundle(family, "lasttoken", "mean"), forge)
    words = " ".join(LINE.split() * 3).split()
    texts = [" ".join(words[:count]) for count in range(1, len(words))]
    assert_agrees(engine, folder, texts)


@each_decoder
def test_the_card_says_how_long_a_text_may_be(family: str, engine: Engine, forge: Path) -> None:
    recipe = Recipe(family=family, tokenizer={"max_length": 131_072})
    folder = make_bundle(Bundle(recipe=recipe, stages=(pooling("lasttoken"),)), forge)
    positions = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    assert Reference(folder).model.max_seq_length == positions
    assert engine.load(folder).card.max_seq_length == positions
