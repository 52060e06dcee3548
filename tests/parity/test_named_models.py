"""The models that hosted services name, as published: `published.py` says what is cut and why."""

import gc
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.parity.agreement import BF16_ALLOWANCE, assert_vectors_agree
from tests.parity.engine import Engine, needs_bf16
from tests.parity.published import PUBLISHED, Published, write_published
from tests.parity.reference import Reference, cosines, relative_error
from tests.parity.texts import TEXTS

SOME_TEXTS = (*TEXTS[:4], *TEXTS[7:10], TEXTS[17])


@dataclass(frozen=True)
class Named:
    """A published model, and the folder that the test made of it."""

    published: Published
    folder: Path


@pytest.fixture(scope="module", params=PUBLISHED)
def named(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Named]:
    """One model at a time on the disk: the larger ones are 0.8 GB."""
    folder = tmp_path_factory.mktemp("named") / "model"
    published = PUBLISHED[request.param]
    write_published(published, folder)
    yield Named(published, folder)
    shutil.rmtree(folder)


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine that keeps no other model open beside a large one, nor its converted weights."""
    engine = Engine(tmp_path / "weights")
    yield engine
    engine.close()
    shutil.rmtree(tmp_path / "weights", ignore_errors=True)


def test_the_checkpoint_has_the_published_names(named: Named) -> None:
    names: set[str] = set()
    for file in named.folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            names.update(opened.keys())
    assert names == named.published.weight_names


def test_the_card_says_what_is_published(named: Named, own_engine: Engine) -> None:
    published = named.published
    card = own_engine.load(named.folder).card
    assert card.family == published.config["model_type"]
    assert card.dimension == published.config["hidden_size"]
    assert card.pooling == (published.pooling,)
    assert card.normalizes
    assert (published.prompts or {}).items() <= card.prompts.items()
    limit = published.max_seq_length or published.config["max_position_embeddings"]
    assert card.max_seq_length == limit


def test_its_vectors_are_those_of_sentence_transformers(named: Named, own_engine: Engine) -> None:
    reference = Reference(named.folder)
    wanted = reference.embed(SOME_TEXTS)
    prompts = named.published.prompts or {}
    prompted = {name: reference.embed(SOME_TEXTS[:2], prompt_name=name) for name in prompts}
    del reference
    gc.collect()
    assert_vectors_agree(own_engine.embed(named.folder, SOME_TEXTS), wanted, SOME_TEXTS)
    for name, vectors in prompted.items():
        got = own_engine.embed(named.folder, SOME_TEXTS[:2], prompt_name=name)
        assert_vectors_agree(got, vectors, SOME_TEXTS[:2])


@needs_bf16
def test_its_short_precisions_are_as_close_as_they_should_be(
    named: Named, own_engine: Engine
) -> None:
    folder = named.folder
    exact = Reference(folder).embed(SOME_TEXTS)
    gc.collect()
    of_torch = relative_error(Reference(folder, "bfloat16").embed(SOME_TEXTS), exact)
    gc.collect()
    of_fledge = relative_error(own_engine.embed(folder, SOME_TEXTS, "bf16"), exact)
    own_engine.close()
    assert of_fledge <= BF16_ALLOWANCE * of_torch
    assert cosines(own_engine.embed(folder, SOME_TEXTS, "int8"), exact).min() >= 0.99
