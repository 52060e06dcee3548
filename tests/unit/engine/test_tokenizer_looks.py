"""Looks: a long text is cut as if it were tokenized to its end, and special tokens are kept."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import processors

from fledge.engine.tokenizer import CHARS_PER_TOKEN, MIN_CAP_CHARS, Tokenizer
from fledge.engine.tokenizer_files import TokenizerFiles
from fledge.errors import InputTooLong
from fledge.types import Truncation, TruncationSide
from tests.unit.engine.small_tokenizers import KINDS, word_piece
from tests.unit.engine.test_tokenizer import (
    CLS,
    LEFT,
    RIGHT,
    SEP,
    TEMPLATE,
    UNKNOWN,
    encode,
    ids_of,
)

LIMIT = 8
HEAD = LIMIT * CHARS_PER_TOKEN
LETTERS = "abc"


@functools.cache
def of_kind(kind: str) -> tuple[Tokenizer, RawTokenizer]:
    raw = KINDS[kind]()
    raw.post_processor = TEMPLATE
    return Tokenizer(TokenizerFiles(raw, "right"), max_seq_length=LIMIT), raw


WORDS = st.text(LETTERS, min_size=1, max_size=12)
SPACE = st.sampled_from([" ", " ", " ", "  ", "\n", "\t", "\r\n\r\n", " " * 70, "\n " * 150])
MARKS = st.sampled_from([".", ", ", "-", "é", "漢字", "[SEP]", "(", "\u200b", "\ufb01"])
LONG_WORDS = st.text(LETTERS, min_size=90, max_size=300)
TEXTS = st.lists(st.one_of(WORDS, SPACE, SPACE, MARKS, LONG_WORDS), min_size=1, max_size=300).map(
    "".join
)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS, repeat=st.integers(1, 30), side=st.sampled_from(["left", "right"]))
def test_a_text_of_any_length_is_cut_as_if_it_were_tokenized_to_its_end(
    kind: str, text: str, repeat: int, side: TruncationSide
) -> None:
    tokenizer, raw = of_kind(kind)
    if (kind, side) == ("metaspace", "left"):
        # of a long word two divisions may score alike; then the rounding of a sum that begins
        # where the look does decides between them
        text = "".join(f"{text[start : start + 80]} " for start in range(0, len(text), 80))
    whole = raw.encode(text * repeat).ids
    body, room = whole[1:-1], LIMIT - 2
    kept = body[:room] if side == "right" else body[-room:]
    for items in ([text * repeat], [text * repeat, "a"]):
        row = encode(tokenizer, *items, truncation=Truncation(side=side))[0]
        assert list(row.row.ids) == [CLS, *kept, SEP]
        assert row.truncated == (len(whole) > LIMIT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("char", ["a", "=", "c", "\n", " ", "漢"])
def test_a_run_of_one_character_is_divided_from_its_left_end_also_by_a_look_from_the_right(
    kind: str, char: str
) -> None:
    tokenizer, raw = of_kind(kind)
    for length in range(HEAD - 4, HEAD + 120, 3):
        for tail in ("", "b", " ab c", char + " b" * 5):
            text = "ab bca " * 200 + char * length + tail
            kept = raw.encode(text).ids[1:-1][-(LIMIT - 2) :]
            assert ids_of(tokenizer, text, truncation=LEFT) == [[CLS, *kept, SEP]]


@pytest.mark.parametrize(
    ("single", "before", "after"),
    [
        ("$A", 0, 0),
        ("[CLS] $A", 1, 0),
        ("$A [SEP]", 0, 1),
        ("[CLS] $A [SEP]", 1, 1),
        ("[CLS] [SEP] $A", 2, 0),
        ("$A [CLS] [SEP]", 0, 2),
        ("[CLS] [CLS] $A [SEP] [SEP]", 2, 2),
    ],
)
def test_cuts_and_masks_know_how_many_special_tokens_stand_on_either_side(
    single: str, before: int, after: int
) -> None:
    raw = word_piece()
    raw.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer = Tokenizer(TokenizerFiles(raw, "right"), max_seq_length=LIMIT)
    whole = raw.encode("a b c d " * 5).ids
    for side, body in ((RIGHT, whole[before:]), (LEFT, whole[before : len(whole) - after][::-1])):
        (ids,) = ids_of(tokenizer, "a b c d " * 5, truncation=side)
        kept = ids[before : LIMIT - after]
        assert ids[:before] == whole[:before]
        assert ids[LIMIT - after :] == whole[len(whole) - after :]
        assert (kept if side is RIGHT else kept[::-1]) == body[: LIMIT - before - after]
    (row,) = encode(tokenizer, "c", prompt="a b ", mask_prompt=True)
    # The reference takes one special token from the end of a prompt alone, and no more.
    assert row.row.masked_tokens == before + 2 + max(after - 1, 0)


@pytest.mark.parametrize("visible", [65, 90, 98, 100, 101, 130])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_word_that_is_one_unknown_token_stays_so_where_a_look_ends_within_it(
    visible: int, side: TruncationSide
) -> None:
    """A word of more than 100 characters is unknown to WordPiece, its first 98 are not."""
    tokenizer, raw = of_kind("WordPiece")
    words = ["ab", " " * (HEAD - 2 - visible), "a" * 400, " b c" * 100]
    text = "".join(words if side == "right" else words[::-1])
    body = raw.encode(text).ids[1:-1]
    kept = body[: LIMIT - 2] if side == "right" else body[-(LIMIT - 2) :]
    assert UNKNOWN in kept
    assert ids_of(tokenizer, text, truncation=Truncation(side=side)) == [[CLS, *kept, SEP]]


def test_a_text_without_a_single_token_in_its_first_100000_characters_is_still_read() -> None:
    tokenizer, _ = of_kind("WordPiece")
    assert ids_of(tokenizer, " " * 10**5 + "a b") == [[CLS, 4, 5, SEP]]


def test_no_look_goes_on_for_ever_and_what_it_did_not_see_counts_as_cut() -> None:
    tokenizer, _ = of_kind("WordPiece")
    endless = "a" + " " * MIN_CAP_CHARS + "b"

    (row,) = encode(tokenizer, endless, truncation=RIGHT)

    assert (list(row.row.ids), row.truncated) == ([CLS, 4, SEP], True)
    with pytest.raises(InputTooLong, match="has more than"):
        encode(tokenizer, endless, truncation=Truncation(side="right", refuse=True))
