"""Two places of one model, whose texts are not cut, and a verdict on them."""

from pathlib import Path
from typing import Any

from fledge.routing.space_book import SpaceBook, SpaceRules
from fledge.routing.spaces import Meaning, Verdict
from fledge.routing.verdict_file import VerdictFile
from fledge.testing import fake_card
from fledge.types import ModelCard
from tests.unit.routing.fakes import MODEL, FakePlace

CHECKED = SpaceRules()
LONG = 256


def card(name: str, **facts: object) -> ModelCard:
    """Of a model whose texts are not cut, so that long ones differ."""
    usual: dict[str, Any] = {"max_seq_length": LONG, "dimension": 64}
    return fake_card(id=MODEL.id, deployment=name, **usual | facts)


def pair(**facts: object) -> tuple[FakePlace, FakePlace]:
    return (
        FakePlace("local", card=card("local")),
        FakePlace("nebius", card=card("nebius", **facts)),
    )


def a_verdict(**facts: Any) -> Verdict:
    usual: dict[str, Any] = {
        "reference": "local",
        "place": "nebius",
        "dimensions": (64, 64),
        "least_cosine": 0.995,
        "length_ratio": 1.0,
        "texts": 9,
        "tokens": 200,
        "checked_at": 0.0,
        "marks": ("a", "b"),
        "meaning": Meaning.of(card("local", default_prompt_name="query")),
    }
    return Verdict(**usual | facts)


def kept(path: Path) -> SpaceBook:
    return SpaceBook(CHECKED, VerdictFile(path), clock=lambda: 1e9)
