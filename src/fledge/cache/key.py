"""The key of an answer: everything that its numbers depend on, and nothing that they do not.

What is done to a vector afterwards is no part of it: normalization, `dimensions` and the output
type are applied to the cached vector for each request. Whether a text that is too long is refused
is no part either: an answer that was not cut is the same for both, and says of itself whether it
was. Prompts are in as texts, not as names; whether a prompt is pooled belongs to the revision.
"""

import json
import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple, Self

from fledge.types import LOCAL, EmbedJob, Item, ModelCard, Side, TruncationSide

KEY_BYTES = 32
"""Nobody can look for two inputs with one key: a key that could be forged would answer one caller
with the vector of another's text."""

_MEANING = 1
"""Raised when a key comes to mean something else, so that what is kept under older ones is never
found again."""


class Space(NamedTuple):
    """All of a key but the input. One for each request; two that differ share no answer.

    Attributes:
        model: the public id.
        revision: the hub commit, or a fingerprint of a local folder's files.
        dimension: length of the whole vector.
        max_tokens: at most so many of one input, resolved: never "as many as the model takes",
            except 0 where nobody knows how many those are.
        truncation_side: None: the one that the model's tokenizer names, as of this revision.
        prompt: text put before each input.
        side: which route of an asymmetric model computes.
        precision: what local compute really computes in.
        arithmetic: the version of the engine's arithmetic; raised when its numbers change.
        deployment: of a provider, which one and its own name for the model; "" for local compute.
        adapter: "" for none.
    """

    model: str
    revision: str
    dimension: int
    max_tokens: int
    truncation_side: TruncationSide | None = None
    prompt: str | None = None
    side: Side | None = None
    precision: str = ""
    arithmetic: str = ""
    deployment: str = ""
    adapter: str = ""

    @classmethod
    def of(cls, card: ModelCard, job: EmbedJob) -> Self:
        """The space of a job for the model of a card."""
        longest = card.max_seq_length
        asked = job.truncation.max_tokens
        most = longest if asked is None else min(asked, longest or asked)
        where = f"{card.deployment}/{card.provider_id}"
        return cls(
            model=card.id,
            revision=card.revision,
            dimension=card.dimension,
            max_tokens=most,
            truncation_side=job.truncation.side,
            prompt=job.prompt,
            side=job.side,
            precision=card.precision,
            arithmetic=card.arithmetic,
            deployment="" if card.deployment == LOCAL else where,
        )

    def keys(self, items: Sequence[Item]) -> list[bytes]:
        """One key for each item, `KEY_BYTES` long."""
        # JSON tells a number from a text and has no two spellings for one list. Not its ASCII
        # form: that writes two lone surrogates as it writes the character they would make.
        spelled = json.dumps([_MEANING, *self], ensure_ascii=False)
        space = blake2b(spelled.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
        # One length, then one letter: what follows can only be the input.
        text, ids = space + b"t", space + b"i"
        return [
            blake2b(
                text + item.encode("utf-8", "surrogatepass")
                if isinstance(item, str)
                else ids + struct.pack(f"<{len(item)}q", *item),
                digest_size=KEY_BYTES,
            ).digest()
            for item in items
        ]
