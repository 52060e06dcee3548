"""The catalogues that come with Fledge: facts about models, and nothing of the models.

Each is what the model's own files and card say, as `ModelEntry` describes it. A fact that nobody
was sure of is left out: the running model's card will have it.
"""

import json
from dataclasses import fields, replace
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

from fledge.types import ModelEntry

_FACTS = frozenset(field.name for field in fields(ModelEntry)) - {"folder", "runs_locally"}
_LISTS = frozenset({"aliases", "matryoshka_dimensions", "languages", "pooling"})


@cache
def shipped_entries() -> tuple[ModelEntry, ...]:
    """Every model of `models.json`, the most used first."""
    return read_entries((files("fledge.catalog") / "models.json").read_bytes())


@cache
def hosted_entries() -> tuple[ModelEntry, ...]:
    """Models whose files nobody has but their providers, of `hosted.json`."""
    entries = read_entries((files("fledge.catalog") / "hosted.json").read_bytes())
    return tuple(replace(entry, runs_locally=False) for entry in entries)


def read_entries(text: bytes) -> tuple[ModelEntry, ...]:
    """The entries of a catalogue, a JSON list with an object each, in its order.

    Raises:
        ValueError: no JSON, a fact of a name that `ModelEntry` does not have, or no date.
    """
    return tuple(map(_entry, json.loads(text)))


def _entry(facts: dict[str, Any]) -> ModelEntry:
    if unknown := facts.keys() - _FACTS:
        raise ValueError(f"{facts.get('id')}: there is no fact {', '.join(sorted(unknown))}")
    facts = {name: tuple(fact) if name in _LISTS else fact for name, fact in facts.items()}
    if "created" in facts:
        facts["created"] = date.fromisoformat(facts["created"])
    return ModelEntry(**facts)
