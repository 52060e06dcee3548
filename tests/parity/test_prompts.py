"""Prompts: which one applies, and whether pooling sees it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fledge.engine.ops.protocol import PoolingMode
from fledge.engine.packing import PackingRules, Row, pack
from fledge.types import Vectors
from tests.parity.agreement import assert_agrees, assert_vectors_agree
from tests.parity.checkpoints import FAMILIES, Recipe
from tests.parity.engine import Engine
from tests.parity.folders import Bundle, make_bundle, normalize, pooling
from tests.parity.reference import Reference, relative_errors, sentence_transformers, torch
from tests.parity.texts import TEXTS

PROMPTS = {
    "query": "query: ",
    "passage": "passage:",
    "instruct": "search documents for the question, and give one vector: ",
    "none": "",
}
INSTRUCTION = "Instruct: Given a question, find what answers it\nQuery: "
MODES: Sequence[PoolingMode] = (
    "cls",
    "max",
    "mean",
    "mean_sqrt_len_tokens",
    "weightedmean",
    "lasttoken",
)


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


@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_prompt_of_the_callers_own_agrees(
    include_prompt: bool, engine: Engine, forge: Path
) -> None:
    made = prompted("bert", *MODES, include_prompt=include_prompt, default="query")
    folder = make_bundle(made, forge)
    assert_agrees(engine, folder, prompt=INSTRUCTION)
    assert_agrees(engine, folder, prompt="")


@pytest.mark.parametrize("default", [None, "passage"])
@pytest.mark.parametrize("prompts", [{"query": "query: ", "document": "text: "}, {}])
def test_an_input_type_is_the_references_method_of_that_name(
    prompts: dict[str, str], default: str | None, engine: Engine, forge: Path
) -> None:
    made = prompted("bert", "mean", include_prompt=True)
    sentence = {"prompts": prompts | {"passage": "passage: "}, "default_prompt_name": default}
    folder = make_bundle(replace(made, sentence=sentence), forge)
    model = Reference(folder).model
    query = model.encode_query(list(TEXTS), show_progress_bar=False)
    assert_vectors_agree(engine.embed(folder, TEXTS, input_type="query"), query, TEXTS)
    if prompts:  # else the reference takes no prompt, where this model has one for passages
        document = model.encode_document(list(TEXTS), show_progress_bar=False)
        assert_vectors_agree(engine.embed(folder, TEXTS, input_type="document"), document, TEXTS)


def pooled(rows: Sequence[Row], mode: PoolingMode) -> tuple[Vectors, Vectors]:
    """Random states of some rows, pooled by what packing says and by the reference."""
    arrays = pack(rows, PackingRules())
    states = np.random.default_rng(5).normal(size=(len(arrays["ids"]), 8)).astype(np.float32)
    padded = states[arrays["pad"]]
    if mode in ("cls", "lasttoken"):
        got = states[arrays["first" if mode == "cls" else "last"]]
    elif mode == "max":
        seen = arrays["pool_mask"][:, :, None] > 0
        got = np.where(seen, padded, -np.inf).max(axis=1)
    else:
        got = (padded * arrays[mode][:, :, None]).sum(axis=1)
    features = {
        "token_embeddings": torch.tensor(padded),
        "attention_mask": torch.tensor(arrays["mask"]).long(),
        "prompt_length": rows[0].masked_tokens,
    }
    module = sentence_transformers.sentence_transformer.modules.Pooling(
        8, pooling_mode=mode, include_prompt=False
    )
    return got[: len(rows)], module(features)["sentence_embedding"].numpy()[: len(rows)]


@pytest.mark.parametrize("masked", [0, 1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_rows_behind_a_masked_prompt_are_pooled_as_the_reference_does(
    mode: PoolingMode, masked: int
) -> None:
    rows = [Row([7] * length, masked_tokens=masked) for length in (4, 12, 5, 31, 4)]
    got, wanted = pooled(rows, mode)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "cls"])
def test_the_reference_has_no_vector_for_a_row_that_is_all_prompt(mode: PoolingMode) -> None:
    """Zeros or infinities. Fledge refuses such a text while it is tokenized."""
    _, wanted = pooled([Row([7] * 3, masked_tokens=3)], mode)
    assert not wanted.any() or not np.isfinite(wanted).any()
