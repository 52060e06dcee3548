"""Every family: the plain checkpoint in each precision, alone and in a batch."""

import random
from pathlib import Path

import numpy as np
import pytest

from fledge.types import Precision
from tests.parity.agreement import (
    ALONE_TOLERANCE,
    BF16_ALLOWANCE,
    assert_agrees,
    assert_vectors_agree,
)
from tests.parity.checkpoints import FAMILIES, Recipe, make_checkpoint
from tests.parity.engine import PRECISIONS, Engine, needs_bf16
from tests.parity.reference import Reference, cosines, relative_error, unit
from tests.parity.texts import SPECIAL_TOKENS_IN_TEXT, TEXTS

each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
def test_fp32_vectors_are_those_of_sentence_transformers(
    family: str, engine: Engine, forge: Path
) -> None:
    assert_agrees(engine, make_checkpoint(Recipe(family=family), forge))


@each_family
def test_texts_that_spell_special_tokens_agree_too(
    family: str, engine: Engine, forge: Path
) -> None:
    # RoBERTa's kind counts positions past each <pad>, wherever it comes from.
    folder = make_checkpoint(Recipe(family=family), forge)
    assert_agrees(engine, folder, SPECIAL_TOKENS_IN_TEXT)


@each_family
def test_token_ids_are_embedded_as_they_are(family: str, engine: Engine, forge: Path) -> None:
    folder = make_checkpoint(Recipe(family=family), forge)
    reference = Reference(folder)
    texts = TEXTS[:12]
    ids = [reference.model.tokenizer(text)["input_ids"] for text in texts]
    assert_vectors_agree(engine.embed(folder, ids), reference.embed(texts), texts)


@needs_bf16
@each_family
def test_bf16_is_as_close_to_fp32_as_torchs_own_bf16(
    family: str, engine: Engine, forge: Path
) -> None:
    folder = make_checkpoint(Recipe(family=family), forge)
    exact = Reference(folder).embed(TEXTS)
    of_torch = relative_error(Reference(folder, "bfloat16").embed(TEXTS), exact)
    of_fledge = relative_error(engine.embed(folder, TEXTS, "bf16"), exact)
    assert of_fledge <= BF16_ALLOWANCE * of_torch


@needs_bf16
@each_family
def test_int8_keeps_the_direction(family: str, engine: Engine, forge: Path) -> None:
    folder = make_checkpoint(Recipe(family=family), forge)
    exact = Reference(folder).embed(TEXTS)
    kept = cosines(engine.embed(folder, TEXTS, "int8"), exact)
    assert kept.min() >= 0.99
    assert kept.mean() >= 0.995


@pytest.mark.parametrize("precision", PRECISIONS)
@each_family
def test_a_text_in_a_batch_equals_the_text_alone(
    family: str, precision: Precision, engine: Engine, forge: Path
) -> None:
    folder = make_checkpoint(Recipe(family=family), forge)
    together = unit(engine.embed(folder, TEXTS, precision))
    alone = unit(engine.embed_alone(folder, TEXTS, precision))
    assert np.abs(together - alone).max() <= ALONE_TOLERANCE[precision]


@each_family
def test_the_order_of_the_texts_does_not_matter(family: str, engine: Engine, forge: Path) -> None:
    folder = make_checkpoint(Recipe(family=family), forge)
    forward = engine.embed(folder, TEXTS)
    backward = engine.embed(folder, TEXTS[::-1])[::-1]
    assert np.abs(unit(forward) - unit(backward)).max() <= ALONE_TOLERANCE["fp32"]


@pytest.mark.parametrize("family", ["bert", "mpnet", "roberta"])
def test_many_texts_of_every_length_agree_in_one_call(
    family: str, engine: Engine, forge: Path
) -> None:
    # More than one batch, and every width that packing may round a batch to.
    rng = random.Random(7)  # noqa: S311 - not for secrets
    words = TEXTS[16].split()
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 60))) for _ in range(400)]
    assert_agrees(engine, make_checkpoint(Recipe(family=family), forge), texts)
