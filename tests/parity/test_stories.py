"""A trained decoder, against the hidden states that another program computed.

stories260K is a Llama of five layers with grouped-query attention, in a folder for next words: its
last token is pooled. A token sees only those before it, so the vectors of a text's beginnings are
the hidden states of its tokens.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import SHARED, require_folder
from tests.parity.agreement import assert_vectors_agree
from tests.parity.engine import Engine
from tests.parity.reference import Reference
from tests.parity.texts import TEXTS

TOLERANCE = 1e-4
"""Largest difference of any number of a hidden state; they go up to 10."""


@pytest.fixture(scope="module")
def stories() -> Path:
    return require_folder(
        SHARED / "models" / "stories260K",
        "the trained decoder of ../shared/models is not on this machine",
    )


def golden(folder: Path) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads((folder / "golden.json").read_text())["items"]
    assert items
    return items


def test_the_last_hidden_state_is_the_golden_one(engine: Engine, stories: Path) -> None:
    items = golden(stories)
    got = engine.embed(stories, [item["ids"] for item in items])
    assert np.abs(got - [item["last"] for item in items]).max() <= TOLERANCE


def test_texts_give_the_golden_tokens_and_states(engine: Engine, stories: Path) -> None:
    items = golden(stories)
    got = engine.embed(stories, [item["text"] for item in items])
    assert np.abs(got - [item["last"] for item in items]).max() <= TOLERANCE


def test_all_hidden_states_have_the_golden_mean(engine: Engine, stories: Path) -> None:
    for item in golden(stories):
        beginnings = [item["ids"][:end] for end in range(1, len(item["ids"]) + 1)]
        states = engine.embed(stories, beginnings)
        assert np.abs(states.mean(axis=0) - item["mean"]).max() <= TOLERANCE


def test_a_state_is_the_same_whatever_follows(engine: Engine, stories: Path) -> None:
    item = max(golden(stories), key=lambda item: len(item["ids"]))
    alone = engine.embed_alone(stories, [item["ids"][:5]])
    together = engine.embed(stories, [item["ids"], item["ids"][:5]])
    assert np.abs(together[1] - alone[0]).max() <= TOLERANCE / 10


def test_the_reference_agrees_on_any_text(engine: Engine, stories: Path) -> None:
    reference = Reference(stories)
    # It has no token for padding, and the reference pads.
    reference.model.tokenizer.pad_token = reference.model.tokenizer.eos_token
    wanted = reference.embed(TEXTS)
    assert_vectors_agree(engine.embed(stories, TEXTS), wanted, TEXTS)
