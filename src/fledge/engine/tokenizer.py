"""Texts to rows of token ids: prompts, truncation and counts.

The tokenizers library does the encoding. What is decided here: prompts are tokenized together with
their text; rows are cut on either side, special tokens kept; and a text far longer than the model
takes is not tokenized to its end only to be thrown away.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fledge.engine.items import check_ids, check_unicode, no_tokens, too_long
from fledge.engine.packing import Row
from fledge.engine.tokenizer_files import TokenizerFiles
from fledge.errors import CorruptModel, EmptyInput, InvalidRequest
from fledge.types import Item, Tokens, Truncation

CHARS_PER_TOKEN = 24
"""How far into a text the first look goes, per token of the limit. Most text has 2 to 6."""

MAX_CHARS_PER_TOKEN = 1_000
MIN_CAP_CHARS = 250_000
"""How far into a text any look goes: so many characters per token of the limit, or so many in all.
Beyond that there is only what gives hardly any tokens, as white space or one endless word; the text
counts as cut. It bounds the work on one text to about 0.3 s."""

SHORT_CHARS = 1_000
"""A text up to this length is tokenized in about 0.2 ms."""

SPARE_TOKENS = 64
"""Tokens that a first look must give beyond the limit before its cut end may be ignored; and as
many again as a word may have characters, since a word that is longer than a WordPiece vocabulary
allows is one token as a whole, and many where the look ends within it."""

PROBES = ("a", "1", "b", ".", "!")
"""At least one gives a token in any vocabulary, to see the special tokens around it."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One item, ready to be computed.

    Attributes:
        row: ids after truncation, and how many of them pooling leaves out.
        truncated: whether anything was cut away.
    """

    row: Row
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen of a text: its tokens, and whether it was seen to its end."""

    ids: Sequence[int]
    is_whole: bool


class Tokenizer:
    """One model's tokenizer. Safe for several threads: nothing about it changes after loading.

    Attributes:
        max_seq_length: most tokens of one text.
        vocab_size: every token's id is below it.
        own_vocab_size: likewise, of those that were not added to it afterwards.
    """

    def __init__(self, files: TokenizerFiles, *, max_seq_length: int) -> None:
        self._tokenizer = files.tokenizer
        self._own_side = files.truncation_side
        self.max_seq_length = max_seq_length
        self.own_vocab_size = _own_vocab_size(files)
        added = self._tokenizer.get_added_tokens_decoder()
        self.vocab_size = max([self.own_vocab_size - 1, *added]) + 1
        self._spare = SPARE_TOKENS + getattr(self._tokenizer.model, "max_input_chars_per_word", 0)
        self._prefix, self._suffix = self._special_tokens()
        if max_seq_length <= self._prefix + self._suffix:
            raise CorruptModel(
                f"max_seq_length {max_seq_length} leaves no room for a text beside "
                f"{self._prefix + self._suffix} special tokens"
            )

    def _special_tokens(self) -> tuple[int, int]:
        """How many special tokens stand before and behind every text."""
        for probe in PROBES:
            mask = self._tokenizer.encode(probe).special_tokens_mask
            if 0 in mask:
                return mask.index(0), mask[::-1].index(0)
        return 0, 0

    def encode(
        self,
        items: Sequence[Item],
        *,
        prompt: str | None,
        mask_prompt: bool,
        truncation: Truncation,
    ) -> list[Encoded]:
        """All items as rows.

        Args:
            prompt: put before each text, not before token ids.
            mask_prompt: pooling leaves out the prompt's tokens.
            truncation: what happens beyond the limit.

        Raises:
            InputTooLong: an item is too long and `truncation.refuse` is set.
            EmptyInput: an item gives no token at all, or none behind a prompt that is left out.
            InvalidRequest: a token id outside the vocabulary, half of a surrogate pair in a text,
                or a limit without room for anything.
        """
        truncation = replace(truncation, side=truncation.side or self._own_side)
        limit = self._limit(truncation)
        check_unicode(items)
        masked = self._prompt_tokens(prompt, limit) if prompt and mask_prompt else 0
        texts = [(prompt or "") + item for item in items if isinstance(item, str)]
        looks = iter(self._look(texts, limit, truncation))
        rows = []
        for index, item in enumerate(items):
            if isinstance(item, str):
                look = next(looks)
                count, is_whole = len(look.ids), look.is_whole
                ids = self._cut(look.ids, limit, truncation)
                row = Row(ids, min(masked, len(ids)))
            else:
                count, is_whole = len(item), True
                ids = self._checked_ids(item, index, limit, truncation)
                row = Row(ids)
            is_cut = count > limit or not is_whole
            if is_cut and truncation.refuse:
                raise too_long(index, limit, count, is_whole=is_whole)
            if not ids:
                raise no_tokens(index)
            if row.masked_tokens == len(ids):
                raise _all_masked(index)
            rows.append(Encoded(row, is_cut))
        return rows

    def _limit(self, truncation: Truncation) -> int:
        if truncation.max_tokens is None:
            return self.max_seq_length
        if truncation.max_tokens <= self._prefix + self._suffix:
            raise InvalidRequest(
                f"max_tokens is {truncation.max_tokens}, which leaves no room for a text beside "
                f"{self._prefix + self._suffix} special tokens",
                field="max_tokens",
            )
        return min(truncation.max_tokens, self.max_seq_length)

    def _look(self, texts: Sequence[str], limit: int, truncation: Truncation) -> list[_Look]:
        """Tokenize as much of each text as its first tokens depend on."""
        heads = [_head(text, limit * CHARS_PER_TOKEN, truncation) for text in texts]
        looks = [
            _Look(ids, is_whole=len(head) == len(text))
            for text, head, ids in zip(texts, heads, self._encode(heads), strict=True)
        ]
        for number, (text, head) in enumerate(zip(texts, heads, strict=True)):
            looks[number] = self._look_further(text, head, looks[number], limit, truncation)
        return looks

    def _encode(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """Token ids, special ones included.

        Only the functions for lists let other threads run meanwhile; for one short text, handing
        over would take longer than the work.
        """
        if len(texts) == 1 and len(texts[0]) <= SHORT_CHARS:
            return [self._tokenizer.encode(texts[0]).ids]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def _look_further(
        self, text: str, head: str, look: _Look, limit: int, truncation: Truncation
    ) -> _Look:
        """Look on while the end of the look could show in the first tokens, but not for ever."""
        most_chars = max(limit * MAX_CHARS_PER_TOKEN, MIN_CAP_CHARS)
        while not look.is_whole and len(look.ids) < limit + self._spare and len(head) < most_chars:
            head = _head(text, min(4 * len(head), most_chars), truncation)
            look = _Look(self._encode([head])[0], is_whole=len(head) == len(text))
        return look

    def _cut(self, ids: Sequence[int], limit: int, truncation: Truncation) -> Sequence[int]:
        """Cut between the special tokens, on the side that the caller chose."""
        if len(ids) <= limit:
            return ids
        body = ids[self._prefix : len(ids) - self._suffix]
        room = limit - self._prefix - self._suffix
        kept = body[:room] if truncation.side == "right" else body[len(body) - room :]
        return [*ids[: self._prefix], *kept, *ids[len(ids) - self._suffix :]]

    def _checked_ids(
        self, ids: Sequence[int], index: int, limit: int, truncation: Truncation
    ) -> Sequence[int]:
        """Token ids are used as they are: nothing is added, and cutting knows no special tokens."""
        kept = ids[:limit] if truncation.side == "right" else ids[max(len(ids) - limit, 0) :]
        check_ids(kept, index, self.vocab_size)
        return kept

    def _prompt_tokens(self, prompt: str, limit: int) -> int:
        """Tokens that pooling leaves out: the prompt's own and the special ones before it.

        One trailing special token is not counted: it stands behind the text. The rule, with its
        odd counting of more than one, is that of sentence-transformers.
        """
        (look,) = self._look([prompt], limit, Truncation(side="right"))
        count = min(len(look.ids), limit)
        return count - 1 if self._suffix else count

    def tokenize(self, texts: Sequence[str], prompt: str | None) -> list[Tokens]:
        """Tokens with character offsets, special tokens included, nothing cut.

        Raises:
            InvalidRequest: half of a surrogate pair in a text.
        """
        check_unicode(texts)
        encodings = self._tokenizer.encode_batch([(prompt or "") + text for text in texts])
        return [Tokens(encoding.ids, encoding.offsets) for encoding in encodings]


def _head(text: str, chars: int, truncation: Truncation) -> str:
    """The end of a text that survives truncation, and a little more.

    How a run of one character is divided into tokens is settled from its left end. So a look from
    the right begins some way before it, unless the run is longer than anybody wants to wait for.
    """
    if len(text) <= chars:
        return text
    if truncation.side == "right":
        return text[:chars]
    start = len(text) - chars
    lowest = max(start - MIN_CAP_CHARS, 0)
    left = text[lowest:start].rstrip(None if text[start].isspace() else text[start])
    return text[lowest + max(len(left) - CHARS_PER_TOKEN, 0) :]


def _all_masked(index: int) -> EmptyInput:
    """The reference answers zeros here, or what is not finite, as the pooling would have it."""
    return EmptyInput(
        f"`items[{index}]` has no tokens behind its prompt, and this model's vectors leave the "
        "prompt out: give a longer text, or a shorter prompt",
        field=f"items[{index}]",
    )


def _own_vocab_size(files: TokenizerFiles) -> int:
    """One more than the largest id of a tokenizer's own tokens, which may have gaps.

    A large vocabulary takes most of a second to be handed over whole, with the interpreter's lock
    held; without gaps, asking for each id takes a tenth of it and lets other threads in.
    """
    tokenizer = files.tokenizer
    size, model = tokenizer.get_vocab_size(with_added_tokens=False), tokenizer.model
    if all(model.id_to_token(number) is not None for number in range(size)):
        return size
    return max(tokenizer.get_vocab(with_added_tokens=False).values(), default=-1) + 1
