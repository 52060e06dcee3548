"""Whether two places answer in the same space, so that one may stand in for the other.

A few fixed texts are embedded at both. Vectors of one index have to come from one space: where two
places differ, nothing of the one is ever mixed with the other's by the router.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from hashlib import blake2b
from typing import Literal, TypeAlias

import numpy as np

from fledge.errors import CannotCarry
from fledge.routing.places import Place
from fledge.types import (
    Backend,
    EmbedJob,
    EmbedResult,
    ModelCard,
    ModelEntry,
    Similarity,
    Vectors,
)
from fledge.vectors import lengths, normalize

TEXTS = (
    "What is the capital of France?",
    "Ein Zeisig sitzt auf dem Zaun und singt, bis die Katze kommt.",
    "Поезд в Казань отправляется в семь утра, третий путь.",
    "机器学习模型把文字变成向量。意思相近的文字彼此靠近。",
    (
        "A harbour pilot boards a ship before it enters port, because the pilot knows the "
        "currents, the sandbanks and the traffic there better than any captain who calls once a "
        "year. The captain stays in command, and may refuse advice, but seldom does: between the "
        "breakwaters a large vessel needs more than a mile to stop."
    ),
)
"""Embedded as they are for who names no prompt: several languages, short and long. The longest has
about 70 tokens, so that no model cuts it."""

PROMPTED_TEXTS = (TEXTS[0], TEXTS[4])
"""Embedded with each other prompt: one that is left out shows most beside a short text."""

MOST_PROMPTS = 8
"""Different ones, the first of the card. A few models have fifty."""

LENGTH_TOLERANCE = 0.01
"""Of vectors that are not normalized: half precision changes their length by a thousandth."""

BULK = 1
"""The priority of the texts: requests go first."""

Relation: TypeAlias = Literal["same", "differs", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a request to a model means, wherever it is answered: that of the reference.

    A catalogue may know prompts that the model's own files do not have, or miss some that they
    have. `input_type` would then mean one thing here and another there.
    """

    prompts: Mapping[str, str]
    default_prompt_name: str | None
    normalizes: bool
    similarity: Similarity
    matryoshka_dimensions: tuple[int, ...]

    @classmethod
    def of(cls, card: ModelCard) -> "Meaning":
        """That of a card."""
        return cls(**{one.name: getattr(card, one.name) for one in fields(cls)})

    def given_to(self, card: ModelCard) -> ModelCard:
        """Another place's card with this meaning."""
        return replace(card, **{one.name: getattr(self, one.name) for one in fields(self)})

    def prompt_texts(self) -> list[str | None]:
        """The prompts that are compared: first what goes before the texts of who names none, then
        the others, each once. Not more than `MOST_PROMPTS` that are some."""
        default = self.prompts.get(self.default_prompt_name or "") or None
        named = list(dict.fromkeys(text for text in self.prompts.values() if text))
        return list(dict.fromkeys((default, None, *named[:MOST_PROMPTS])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a comparison has measured.

    Attributes:
        reference: the deployment that the other was compared with.
        place: the other one.
        dimensions: of the two.
        least_cosine: of all texts, the least; 0 where the dimensions differ.
        length_ratio: of all texts, the worst: how many times as long as the reference's; 1 where
            both are normalized.
        texts: how many were embedded at each of the two.
        tokens: how many the other one has counted, which is what it costs.
        checked_at: Unix time.
        marks: of the two, what they computed with; a verdict is about nothing else.
        meaning: of the reference, which was taken for both.
    """

    reference: str
    place: str
    dimensions: tuple[int, int]
    least_cosine: float
    length_ratio: float
    texts: int
    tokens: int
    checked_at: float
    marks: tuple[str, str]
    meaning: Meaning

    def differences(self, min_cosine: float) -> list[str]:
        """What keeps the two apart, a phrase each; empty: they are one space."""
        if self.dimensions[0] != self.dimensions[1]:
            return [
                f"vectors of {self.dimensions[1]} numbers instead of {self.dimensions[0]}",
            ]
        found = []
        # Not `<`: what is no number is no likeness.
        if not self.least_cosine >= min_cosine:
            found.append(f"cosine {self.least_cosine:.4f}, at least {min_cosine:g} is asked for")
        if not abs(self.length_ratio - 1) <= LENGTH_TOLERANCE:
            found.append(f"vectors {self.length_ratio:.4g} times as long")
        return found


def text_count(card: ModelCard) -> int:
    """How many texts a comparison sends to each of the two places."""
    return len(TEXTS) + len(PROMPTED_TEXTS) * (len(Meaning.of(card).prompt_texts()) - 1)


def mark_of(card: ModelCard) -> str:
    """What a place computes with, as far as can be told: a digest of it and of the prompts."""
    facts = [
        card.revision,
        card.precision,
        card.arithmetic,
        card.deployment,
        card.provider_id,
        asdict(Meaning.of(card)),
        TEXTS,
    ]
    return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


async def compare(
    entry: ModelEntry, reference: Place, place: Place, *, checked_at: float
) -> Verdict:
    """Embed the texts at two places, at the reference first: if it fails, the other costs nothing.

    Raises:
        FledgeError: one of them could not be asked; a model that is not warm is not loaded for it.
    """
    async with reference.use(entry, patience_s=0) as one:
        one_card = one.card
        meaning = Meaning.of(one_card)
        jobs = _jobs(meaning)
        expected = [await one.embed(job) for job in jobs]
    async with place.use(entry, patience_s=0) as other:
        other_card = other.card
        found = [await other.embed(jobs[0]), *[await _embed(other, job) for job in jobs[1:]]]
    pairs = [(x, y) for x, y in zip(expected, found, strict=True) if y is not None]
    a = np.concatenate([_as_served(result, meaning) for result, _ in pairs])
    b = np.concatenate([_as_served(result, meaning) for _, result in pairs])
    cosine, ratio = _likeness(a, b)
    return Verdict(
        reference=reference.name,
        place=place.name,
        dimensions=(a.shape[1], b.shape[1]),
        least_cosine=cosine,
        length_ratio=ratio,
        texts=len(a),
        tokens=sum(sum(result.token_counts) for _, result in pairs),
        checked_at=checked_at,
        marks=(mark_of(one_card), mark_of(other_card)),
        meaning=meaning,
    )


def _jobs(meaning: Meaning) -> list[EmbedJob]:
    first, *others = meaning.prompt_texts()
    return [
        EmbedJob(items=TEXTS, prompt=first, priority=BULK),
        *(EmbedJob(items=PROMPTED_TEXTS, prompt=prompt, priority=BULK) for prompt in others),
    ]


async def _embed(backend: Backend, job: EmbedJob) -> EmbedResult | None:
    """None: no request with such a prompt can be answered there, so nothing is mixed."""
    try:
        return await backend.embed(job)
    except CannotCarry:
        return None


def _as_served(result: EmbedResult, meaning: Meaning) -> Vectors:
    """As a request gets it that leaves normalization to the model."""
    return normalize(result.vectors) if meaning.normalizes else result.vectors


def _likeness(a: Vectors, b: Vectors) -> tuple[float, float]:
    """The least cosine of rows, and the ratio of lengths that is farthest from 1."""
    if a.shape != b.shape:
        return 0.0, 1.0
    cosines = np.einsum("ij,ij->i", normalize(a), normalize(b), dtype=np.float64)
    floor = np.finfo(np.float32).tiny
    ratios = np.maximum(lengths(b), floor) / np.maximum(lengths(a), floor)
    return float(cosines.min()), float(ratios[np.abs(np.log(ratios)).argmax()])
