"""Listings of models, whatever their shape: which are wanted, in what order, and what is known.

The parameters are those of several services, so that a client of any of them finds its own.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from pydantic import Field

from fledge.api.queries import Flag, Query, Text, Words, bad_value
from fledge.api.tasks import TASKS
from fledge.catalog.listed import Listed
from fledge.types import State

LIBRARY = "sentence-transformers"
PROVIDER = "hf-inference"
"""What clients of the hub take this server for."""

Condition: TypeAlias = Callable[[Listed], bool]
Value = TypeVar("Value")

_ANY_PROVIDER = ("all", PROVIDER)
"""Every model is to be had from this server."""

_INFERENCE: Mapping[str, frozenset[State]] = {
    "warm": frozenset({"warm"}),
    "cold": frozenset({"cold", "loading", "failed"}),
}
_MOST_WORDS = 16
_DIRECTIONS = {"-1": -1, "1": 1}
_BOUND = re.compile(r"(min|max):([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMBT]?)", re.ASCII | re.IGNORECASE)
_SCALES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def _trending(one: Listed) -> float:
    return one.trending


def _request_count(one: Listed) -> int:
    return one.request_count


def _likes(_: Listed) -> int:
    return 0


def _created(one: Listed) -> int | None:
    return None if one.entry.created is None else one.entry.created.toordinal()


# The web page of the hub says `trending`, its API `trendingScore`, its Python client
# `trending_score`. When a model changed is not known here; when it was made comes nearest.
_ORDERS: Mapping[str, Callable[[Listed], float | None]] = {
    "trending": _trending,
    "trendingscore": _trending,
    "downloads": _request_count,
    "likes": _likes,
    "likes30d": _likes,
    "createdat": _created,
    "lastmodified": _created,
}


class Selection(Query):
    """The parameters that choose and sort models, in every listing."""

    search: Text = Field(
        None,
        description="Words, at most 16, that must all occur in a model's id, aliases, summary or "
        "languages.",
    )
    author: Text = Field(None, description="The part of the id before the slash.")
    filter: Words = Field(
        (),
        description="Tags that a model must all have: a task, a library, its family, a language, "
        "or its licence as `license:apache-2.0`.",
    )
    inference: Text = Field(
        None, description="`warm`: loaded now. `cold`: not loaded; these load when asked for."
    )
    inference_provider: Words = Field(
        (),
        description="Names of providers, of which one must have the model. This server is "
        "`hf-inference`, and has all; `all` are all.",
    )
    pipeline_tag: Words = Field(
        (),
        description="`feature-extraction` and `sentence-similarity`, which every model can do; any "
        "other task lists nothing.",
    )
    gated: Flag = Field(
        None, description="Whether the hub wants the model's conditions accepted first."
    )
    num_parameters: Words = Field(
        (), description="A range, as `min:100M,max:1.5B`, `min:100M` or `max:1.5B`."
    )
    sort: Text = Field(
        None,
        description="`trendingScore` (or `trending`) and `downloads` count this server's own "
        "requests; also `likes`, `createdAt`, `lastModified`. Absent: the catalogue's order.",
    )
    direction: Text = Field(None, description="`-1`: largest first, as without it; `1`: smallest.")

    def conditions(self) -> list[Condition]:
        """What a model must be to be listed.

        Raises:
            InvalidRequest: a parameter has a value that means nothing.
        """
        found: list[Condition] = []
        if self.search is not None:
            found.append(mentions("search", self.search))
        if self.author is not None:
            found.append(partial(_is_by, self.author.lower()))
        if self.filter:
            found.append(partial(_has_tags, lowered(self.filter)))
        if self.inference is not None:
            found.append(is_in(choice("inference", self.inference, _INFERENCE)))
        if self.inference_provider:
            found.append(partial(_is_at, lowered(self.inference_provider)))
        if self.pipeline_tag:
            found.append(always(overlaps(self.pipeline_tag, TASKS)))
        if self.gated is not None:
            found.append(partial(_is_gated, self.gated))
        if self.num_parameters:
            found.append(partial(_has_parameters, *_range("num_parameters", self.num_parameters)))
        return found

    def ordered(self, models: Sequence[Listed]) -> Sequence[Listed]:
        """All of the models as `sort` says; what is not known of a model puts it last.

        Raises:
            InvalidRequest: by something that no listing is sorted by.
        """
        if self.sort is None:
            return models
        value_of = _ORDERS.get(self.sort.replace("_", "").lower())
        if value_of is None:
            known = "trendingScore, trending, downloads, likes, createdAt or lastModified"
            raise bad_value("sort", known, self.sort)
        sign = -1 if self.direction is None else choice("direction", self.direction, _DIRECTIONS)

        def rank(one: Listed) -> tuple[bool, float]:
            value = value_of(one)
            return value is None, sign * (value or 0)

        return sorted(models, key=rank)


def select(models: Iterable[Listed], conditions: Sequence[Condition]) -> list[Listed]:
    """The models that meet all conditions."""
    return [one for one in models if all(is_met(one) for is_met in conditions)]


def following(models: Sequence[Listed], id: str) -> Sequence[Listed] | None:
    """The models behind the one of that id; None where it is not among them.

    Of a whole listing in its order: the model may have left the selection since it was shown.
    """
    places = (place for place, one in enumerate(models) if one.id == id)
    place = next(places, None)
    return None if place is None else models[place + 1 :]


def choice(name: str, word: str, choices: Mapping[str, Value]) -> Value:
    """What a word of a parameter stands for, in whatever case it is written.

    Raises:
        InvalidRequest: it stands for nothing.
    """
    if word.lower() not in choices:
        *most, last = choices
        raise bad_value(name, f"{', '.join(most)} or {last}", word)
    return choices[word.lower()]


def lowered(words: Iterable[str]) -> frozenset[str]:
    """The words in lower case."""
    return frozenset(word.lower() for word in words)


def overlaps(words: Iterable[str], others: Iterable[str]) -> bool:
    """Whether any of the words is among the others, whatever their case."""
    return bool(lowered(words) & lowered(others))


def always(value: bool) -> Condition:  # noqa: FBT001 - the condition is the value
    """A condition that has nothing to do with the model."""
    return lambda _: value


def is_in(states: frozenset[State]) -> Condition:
    """That the model's state is one of these."""
    return lambda one: one.state in states


def mentions(name: str, text: str) -> Condition:
    """That all words of a parameter's text occur in what a model is called and known for.

    Raises:
        InvalidRequest: they are more than anybody looks for; each is looked for in every model.
    """
    words = set(text.lower().split())
    if len(words) > _MOST_WORDS:
        raise bad_value(name, f"at most {_MOST_WORDS} words", text)

    def mentions_them(one: Listed) -> bool:
        entry = one.entry
        said = "\n".join((entry.id, *entry.aliases, entry.summary, *entry.languages)).lower()
        return all(word in said for word in words)

    return mentions_them


def tags(one: Listed) -> list[str]:
    """What the hub would have among a model's tags, in its spelling."""
    entry = one.entry
    license_tag = [f"license:{entry.license}"] if entry.license else []
    family = [one.family] if one.family else []
    return [LIBRARY, *family, *TASKS, *entry.languages, *license_tag, "text-embeddings-inference"]


def facts(one: Listed) -> dict[str, Any]:
    """What is known of a model, under the names of the catalogue; what is not is left out."""
    card = one.card
    return known(
        revision=card and card.revision,
        precision=card and card.precision,
        family=one.family,
        dimension=one.dimension,
        matryoshka_dimensions=list(one.matryoshka_dimensions),
        prompts=dict(one.prompts),
        default_prompt_name=one.default_prompt_name,
        pooling=list(one.pooling),
        similarity=one.similarity,
        normalizes=one.normalizes,
    )


def known(**values: Any) -> dict[str, Any]:
    """The values that say something: no None, and nothing empty."""
    return {
        name: value
        for name, value in values.items()
        if value is not None and value not in ("", [], {})
    }


def _is_at(providers: frozenset[str], one: Listed) -> bool:
    return overlaps(providers, _ANY_PROVIDER) or any(at.name in providers for at in one.providers)


def _is_by(author: str, one: Listed) -> bool:
    return one.owner.lower() == author


def _has_tags(wanted: frozenset[str], one: Listed) -> bool:
    return wanted <= lowered(tags(one))


def _is_gated(wanted: bool, one: Listed) -> bool:  # noqa: FBT001 - bound by position
    return one.entry.is_gated == wanted


def _has_parameters(least: float, most: float, one: Listed) -> bool:
    return one.entry.parameters is not None and least <= one.entry.parameters <= most


def _range(name: str, words: Sequence[str]) -> tuple[float, float]:
    bounds = {"min": 0.0, "max": float("inf")}
    for word in words:
        match = _BOUND.fullmatch(word)
        if match is None:
            raise bad_value(name, "a range as min:100M,max:1.5B", word)
        bounds[match[1].lower()] = float(match[2]) * _SCALES[match[3].upper()]
    return bounds["min"], bounds["max"]
