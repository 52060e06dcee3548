"""Texts to the ids of their tokens where nothing is put around them: the static models' tokenizers.

Two kinds exist: a `tokenizer.json` taken as it stands, and the white-space tokenizer of
sentence-transformers' WordEmbeddings and BoW. Neither adds, cuts or drops a token.
"""

import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from fledge.engine.modules import read_json, refuse_unknown
from fledge.engine.tokenizer_files import PROBE
from fledge.errors import CorruptModel
from fledge.types import Tokens, TruncationSide

WHITESPACE_CONFIG = "whitespacetokenizer_config.json"
WORD = re.compile(r"\S+")
SHORT_CHARS = 1_000
"""For one text up to this length handing over to other threads would take longer than the work."""


class Splitter(Protocol):
    """From texts to ids. Safe for several threads."""

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        ...

    @property
    def max_word_chars(self) -> int:
        """A word of more characters is one token as a whole; 0 where there is no such limit."""
        ...

    def ids(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """The ids of each text, all of them."""
        ...

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """The same with the places of the tokens."""
        ...


class JsonSplitter:
    """A `tokenizer.json` without its special tokens."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1  # there may be gaps
        self.max_word_chars = int(getattr(tokenizer.model, "max_input_chars_per_word", 0))
        self.median_chars = _median([len(token) for token in vocabulary])

    def ids(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """See `Splitter.ids`."""
        if len(texts) == 1 and len(texts[0]) <= SHORT_CHARS:
            return [self._tokenizer.encode(texts[0], add_special_tokens=False).ids]
        return [
            encoding.ids
            for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """See `Splitter.tokens`."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [Tokens(encoding.ids, encoding.offsets) for encoding in encodings]

    @property
    def unknown_id(self) -> int | None:
        """The token for what the vocabulary lacks; None where there is none."""
        model: Any = self._tokenizer.model
        if hasattr(model, "unk_token"):
            return None if model.unk_token is None else self._tokenizer.token_to_id(model.unk_token)
        unknown: int | None = json.loads(self._tokenizer.to_str())["model"].get("unk_id")
        return unknown


def _median(lengths: list[int]) -> int:
    """The middle one, or the mean of the two in the middle, rounded down."""
    lengths.sort()
    middle = len(lengths) // 2
    return (lengths[middle] + lengths[~middle]) // 2 if lengths else 0


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a `tokenizer.json` cuts texts by itself."""

    max_tokens: int
    side: TruncationSide


def read_json_splitter(folder: Path) -> tuple[JsonSplitter, Cut | None]:
    """Read `tokenizer.json`, and the truncation that it asks for, which is switched off in it.

    Raises:
        CorruptModel: the file is missing or damaged, or would cut every text down to nothing.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CorruptModel(f"{folder} has no tokenizer.json")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        truncation = tokenizer.truncation
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode(PROBE, add_special_tokens=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and a panic is not even one
        raise CorruptModel(f"{path}: not a readable tokenizer: {error}") from error
    return JsonSplitter(tokenizer), None if truncation is None else _read_cut(path, truncation)


def _read_cut(path: Path, truncation: Mapping[str, Any]) -> Cut:
    max_tokens = truncation["max_length"]
    if max_tokens < 1:
        raise CorruptModel(
            f"{path}: its truncation has max_length {max_tokens}; at least 1 token must be left"
        )
    return Cut(max_tokens, "left" if truncation["direction"] == "left" else "right")


class WhitespaceSplitter:
    """Words between white space: as they are, else without punctuation, else in lower case.

    A word that is in the vocabulary in none of these forms gives no token. Source:
    `WhitespaceTokenizer` of sentence-transformers.

    Args:
        vocabulary: word -> id.
        stop_words: words that give no token.
        do_lower_case: lower-case the text before anything else.
    """

    max_word_chars = 0

    def __init__(
        self, vocabulary: Mapping[str, int], stop_words: frozenset[str], *, do_lower_case: bool
    ) -> None:
        self._vocabulary = vocabulary
        self._stop_words = stop_words
        self._do_lower_case = do_lower_case
        self.vocab_size = max(vocabulary.values(), default=-1) + 1

    def ids(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """See `Splitter.ids`."""
        return [[token for token, _ in self._split(text)] for text in texts]

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """See `Splitter.tokens`; a token's place is that of its word, punctuation included."""
        found = [list(self._split(text)) for text in texts]
        return [Tokens([token for token, _ in one], [place for _, place in one]) for one in found]

    def _split(self, text: str) -> Iterator[tuple[int, tuple[int, int]]]:
        for word in WORD.finditer(text):
            token = self._find(word.group().lower() if self._do_lower_case else word.group())
            if token is not None:
                yield token, word.span()

    def _find(self, word: str) -> int | None:
        stripped = word.strip(string.punctuation)
        for form in (word, stripped, stripped.lower()):
            if form in self._stop_words:
                return None
            if form in self._vocabulary:
                return self._vocabulary[form]
        return None


def read_whitespace_splitter(folder: Path) -> WhitespaceSplitter:
    """Read `whitespacetokenizer_config.json`.

    Raises:
        UnsupportedModel: it has a field that Fledge does not know.
        CorruptModel: it is missing or damaged.
    """
    path = folder / WHITESPACE_CONFIG
    config = read_json(path)
    refuse_unknown(path, config, "vocab", "stop_words", "do_lower_case")
    try:
        words, stop_words = config["vocab"], frozenset(config["stop_words"])
    except (KeyError, TypeError) as error:
        raise CorruptModel(f"{path} lacks or garbles a field: {error!r}") from error
    return WhitespaceSplitter(
        {word: place for place, word in enumerate(read_words(path, words))},
        stop_words,
        do_lower_case=bool(config.get("do_lower_case", False)),
    )


def read_words(path: Path, words: object) -> list[str]:
    """A vocabulary as it is saved: each word's id is its place, the later one if it is there twice.

    Raises:
        CorruptModel: it is no list of texts.
    """
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CorruptModel(f"{path}: vocab must be a list of texts")
    return words
