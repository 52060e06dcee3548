"""all-MiniLM-L6-v2 with its real weights: the published numbers, and text by text."""

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fledge.types import Precision, Vectors
from tests.conftest import require
from tests.parity.agreement import ALONE_TOLERANCE, BF16_ALLOWANCE, assert_vectors_agree
from tests.parity.engine import PRECISIONS, Engine, needs_bf16
from tests.parity.reference import Reference, cosines, relative_error, unit

stats = require("scipy.stats", "Spearman's correlation is scipy's")

SENTENCES = (
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
)


@cache
def stsb(data: Path) -> tuple[NDArray[np.float64], list[str], list[str]]:
    """Gold scores and the two sentences of each pair of the test split."""
    with (data / "stsb" / "test.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    scores = np.array([float(row["score"]) for row in rows])
    return scores, [row["sentence1"] for row in rows], [row["sentence2"] for row in rows]


@cache
def passages(data: Path) -> list[str]:
    """Every fourth English paragraph of Wikipedia, some of them longer than the model takes."""
    texts: list[str] = json.loads((data / "xquad" / "en.json").read_text("utf-8"))["paragraphs"]
    return texts[::4]


@cache
def all_texts(data: Path) -> list[str]:
    _, first, second = stsb(data)
    return [*dict.fromkeys([*first, *second]), *passages(data)]


@cache
def reference_vectors(folder: Path, data: Path) -> Vectors:
    return Reference(folder).embed(all_texts(data))


def test_the_three_sentences_have_the_published_similarities(
    engine: Engine, minilm_folder: Path
) -> None:
    vectors = unit(engine.embed(minilm_folder, SENTENCES))
    matrix = vectors @ vectors.T
    found = [f"{matrix[pair]:.4f}" for pair in ((0, 1), (0, 2), (1, 2))]
    assert found == ["0.6660", "0.1046", "0.1411"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_sts_benchmark_has_the_published_score(
    precision: Precision, engine: Engine, minilm_folder: Path, shared_data: Path
) -> None:
    gold, first, second = stsb(shared_data)
    found = cosines(
        engine.embed(minilm_folder, first, precision),
        engine.embed(minilm_folder, second, precision),
    )
    score = 100 * stats.spearmanr(gold, found).statistic
    if precision == "int8":
        assert score >= 81.7
    else:
        assert score == pytest.approx(82.03, abs={"fp32": 0.02, "bf16": 0.05}[precision])


def test_every_text_agrees_with_sentence_transformers(
    engine: Engine, minilm_folder: Path, shared_data: Path
) -> None:
    texts = all_texts(shared_data)
    wanted = reference_vectors(minilm_folder, shared_data)
    assert_vectors_agree(engine.embed(minilm_folder, texts), wanted, texts)


@needs_bf16
def test_bf16_is_as_close_to_fp32_as_torchs_own_bf16(
    engine: Engine, minilm_folder: Path, shared_data: Path
) -> None:
    texts = all_texts(shared_data)[::5]
    exact = reference_vectors(minilm_folder, shared_data)[::5]
    of_torch = relative_error(Reference(minilm_folder, "bfloat16").embed(texts), exact)
    of_fledge = relative_error(engine.embed(minilm_folder, texts, "bf16"), exact)
    assert of_fledge <= BF16_ALLOWANCE * of_torch


@needs_bf16
def test_int8_keeps_the_direction_of_every_text(
    engine: Engine, minilm_folder: Path, shared_data: Path
) -> None:
    got = engine.embed(minilm_folder, all_texts(shared_data), "int8")
    kept = cosines(got, reference_vectors(minilm_folder, shared_data))
    worst = all_texts(shared_data)[int(kept.argmin())]
    assert kept.mean() >= 0.995
    assert kept.min() >= 0.99, f"{(kept < 0.99).sum()} of {len(kept)} texts; worst: {worst!r}"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_text_in_a_batch_equals_the_text_alone(
    precision: Precision, engine: Engine, minilm_folder: Path, shared_data: Path
) -> None:
    texts = all_texts(shared_data)[::40]
    together = unit(engine.embed(minilm_folder, texts, precision))
    alone = unit(engine.embed_alone(minilm_folder, texts, precision))
    assert np.abs(together - alone).max() <= ALONE_TOLERANCE[precision]
