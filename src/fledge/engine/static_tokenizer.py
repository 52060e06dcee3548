"""Items to the ids that a static model computes: prompts, limits and cutting.

There are no special tokens to mind. A text far longer than what is computed of it, or than its
request may have, is not tokenized to its end only to be thrown away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fledge.engine.bags import Ids
from fledge.engine.items import check_ids, check_total, check_unicode, too_long
from fledge.engine.splitters import Splitter
from fledge.engine.static_recipe import Limits
from fledge.errors import InvalidRequest
from fledge.types import EmbedJob, Item, Tokens, Truncation

CHARS_PER_TOKEN = 4
"""How far into a text the first look goes, per token that is wanted of it."""

FIRST_LOOK_CHARS = 2**18
"""Or so far, if that is further: about 0.1 s. Hardly any text is longer."""

SPARE_TOKENS = 64
"""Tokens that a look must give beyond what is wanted before its cut end may be ignored; and as many
again as a word may have characters: see `Splitter.max_word_chars`."""

_Part = TypeVar("_Part", str, Sequence[int])


@dataclass(frozen=True, slots=True)
class Split:
    """One item, ready to be computed: its ids, and whether anything was cut away."""

    ids: Ids
    is_cut: bool


@dataclass(frozen=True, slots=True)
class _Bounds:
    """How much of a text there may be.

    Attributes:
        limit: most tokens of one text; what is beyond is cut away.
        is_left: the beginning is.
        taken: tokens of the job's earlier texts.
        total: most tokens of all its texts; None for any number.
    """

    limit: int
    is_left: bool
    taken: int
    total: int | None

    @property
    def room(self) -> int:
        """Tokens that one more text may have."""
        return self.limit if self.total is None else min(self.limit, self.total - self.taken)

    def part(self, whole: _Part, length: int) -> _Part:
        """At most so much of it, without what is cut away."""
        return whole[max(len(whole) - length, 0) :] if self.is_left else whole[:length]


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen of a text: its tokens, and whether it was seen to its end."""

    ids: Sequence[int]
    is_whole: bool


class StaticTokenizer:
    """One model's way from items to ids. Safe for several threads."""

    def __init__(self, splitter: Splitter, limits: Limits) -> None:
        self._splitter = splitter
        self._limits = limits
        self._spare = SPARE_TOKENS + splitter.max_word_chars

    def split(
        self, job: EmbedJob, items: Sequence[Item], *, first: int = 0, taken: int = 0
    ) -> list[Split]:
        """A part of a job's items as ids.

        Args:
            job: says which prompt stands before each text, what happens beyond the model's limit,
                and how many tokens there may be in all.
            items: some of the job's, one after the other.
            first: the number of the first one in the job, for errors.
            taken: tokens of the items before that.

        Raises:
            InputTooLong: an item is too long and the job would have it refused.
            TooManyInputs: one text alone has more tokens than there may be in all. The sum is left
                to the caller to check.
            InvalidRequest: a token id outside the vocabulary, half of a surrogate pair in a text,
                or a limit without room for anything.
        """
        bounds = self._bounds(job, taken)
        check_unicode(items, first)
        texts = [(job.prompt or "") + item for item in items if isinstance(item, str)]
        looks = iter(self._look(texts, bounds))
        found = []
        for index, item in enumerate(items, start=first):
            look = next(looks) if isinstance(item, str) else _Look(item, is_whole=True)
            is_cut = len(look.ids) > bounds.limit or not look.is_whole
            if is_cut and job.truncation.refuse:
                raise too_long(index, bounds.limit, len(look.ids), is_whole=look.is_whole)
            kept = bounds.part(look.ids, bounds.limit)
            if isinstance(item, str):
                found.append(Split(self._without_dropped(kept), is_cut))
            else:
                check_ids(kept, index, self._splitter.vocab_size)
                found.append(Split(np.asarray(kept, np.int32), is_cut))
        return found

    def _bounds(self, job: EmbedJob, taken: int) -> _Bounds:
        return _Bounds(
            limit=self._limit(job.truncation),
            is_left=(job.truncation.side or self._limits.side) == "left",
            taken=taken,
            total=job.max_total_tokens,
        )

    def _limit(self, truncation: Truncation) -> int:
        if truncation.max_tokens is None:
            return self._limits.max_tokens
        if truncation.max_tokens < 1:
            raise InvalidRequest(
                f"max_tokens is {truncation.max_tokens}, which leaves no room for a text",
                field="max_tokens",
            )
        return min(truncation.max_tokens, self._limits.max_tokens)

    def _look(self, texts: Sequence[str], bounds: _Bounds) -> list[_Look]:
        """Tokenize as much of each text as it takes to know what is computed of it."""
        heads = [bounds.part(text, self._model_chars(text, bounds)) for text in texts]
        chars = max(CHARS_PER_TOKEN * bounds.room, FIRST_LOOK_CHARS)
        first = [bounds.part(head, chars) for head in heads]
        looks = []
        for number, ids in enumerate(self._splitter.ids(first) if first else ()):
            seen = len(first[number])
            while seen < len(heads[number]) and not self._is_enough(ids, bounds):
                is_near = 2 * len(ids) > bounds.room
                part = bounds.part(heads[number], (2 if is_near else 4) * seen)
                seen, ids = len(part), self._splitter.ids([part])[0]
            looks.append(_Look(ids, is_whole=seen == len(texts[number])))
        return looks

    def _model_chars(self, text: str, bounds: _Bounds) -> int:
        """As many characters as the model itself looks at."""
        if self._limits.chars_per_token is None:
            return len(text)
        return max(bounds.limit * self._limits.chars_per_token, 1)

    def _is_enough(self, ids: Sequence[int], bounds: _Bounds) -> bool:
        """Whether the rest of a text changes nothing; raises where it is too long in any case."""
        if len(ids) <= bounds.room + self._spare:
            return False
        if len(ids) > bounds.limit + self._spare:
            return True
        sure = len(self._without_dropped(bounds.part(ids, bounds.limit))) - self._spare
        check_total(bounds.taken + sure, bounds.total, is_all=False)
        return False

    def _without_dropped(self, ids: Sequence[int]) -> Ids:
        array = np.asarray(ids, np.int32)
        return array if self._limits.dropped_id is None else array[array != self._limits.dropped_id]

    def tokens(self, texts: Sequence[str], prompt: str | None) -> list[Tokens]:
        """The tokens of texts with their places, nothing cut.

        Raises:
            InvalidRequest: half of a surrogate pair in a text.
        """
        check_unicode(texts)
        dropped = self._limits.dropped_id
        found = self._splitter.tokens([(prompt or "") + text for text in texts])
        if dropped is None:
            return found
        kept = [[n for n, token in enumerate(one.ids) if token != dropped] for one in found]
        return [
            Tokens([one.ids[n] for n in places], [one.offsets[n] for n in places])
            for one, places in zip(found, kept, strict=True)
        ]
