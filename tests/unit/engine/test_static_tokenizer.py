"""How far into long texts a static model looks, with a tokenizer that remembers what it saw."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.engine import static_tokenizer
from fledge.engine.splitters import WORD
from fledge.engine.static_recipe import Limits
from fledge.engine.static_tokenizer import SPARE_TOKENS, StaticTokenizer
from fledge.errors import InputTooLong, TooManyInputs
from fledge.types import EmbedJob, Tokens, Truncation, TruncationSide

LONG = "w5 " * 100_000
FIRST_LOOK = 200


class Words:
    """A word's id is its number: `w5` is 5. Remembers how many characters it was given at once."""

    vocab_size = 10_000
    max_word_chars = 0

    def __init__(self) -> None:
        self.seen: list[int] = []

    def ids(self, texts: Sequence[str]) -> list[Sequence[int]]:
        self.seen += map(len, texts)
        return [[int("0" + word.strip("w")) for word in WORD.findall(text)] for text in texts]

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens(ids, [(0, 0)] * len(ids)) for ids in self.ids(texts)]


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Words:
    monkeypatch.setattr(static_tokenizer, "FIRST_LOOK_CHARS", FIRST_LOOK)
    return Words()


def test_a_text_with_too_many_tokens_is_refused_without_reading_it_to_its_end(words: Words) -> None:
    tokenizer = StaticTokenizer(words, Limits())
    job = EmbedJob(items=[LONG], max_total_tokens=50)
    with pytest.raises(TooManyInputs, match="at least 70 tokens in all; at most 50") as raised:
        tokenizer.split(job, job.items)
    assert words.seen == [FIRST_LOOK, 2 * FIRST_LOOK]
    assert 2 * FIRST_LOOK // 3 + 1 - SPARE_TOKENS == 70
    assert raised.value.field is None


def test_tokens_of_earlier_texts_leave_less_room(words: Words) -> None:
    tokenizer = StaticTokenizer(words, Limits())
    text = "w5 " * 2000
    job = EmbedJob(items=[text], max_total_tokens=5000)
    assert len(tokenizer.split(job, job.items, taken=2999)[0].ids) == 2000
    with pytest.raises(TooManyInputs, match=r"at least 5\d\d\d tokens in all; at most 5000"):
        tokenizer.split(job, job.items, taken=4000)


@pytest.mark.parametrize("total", [None, 3, 10**6])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_text_that_is_cut_is_read_no_further_than_the_cut(
    side: TruncationSide, total: int | None, words: Words
) -> None:
    tokenizer = StaticTokenizer(words, Limits(max_tokens=3, side=side))
    job = EmbedJob(items=["w1 w2 w3 " + LONG + "w7 w8 w9"], max_total_tokens=total)
    (split,) = tokenizer.split(job, job.items)
    assert split.ids.tolist() == ([7, 8, 9] if side == "left" else [1, 2, 3])
    assert split.is_cut
    assert max(words.seen) <= 4 * FIRST_LOOK
    refusing = EmbedJob(items=job.items, truncation=Truncation(refuse=True))
    with pytest.raises(InputTooLong, match="more than 3 tokens"):
        tokenizer.split(refusing, refusing.items)


def test_a_long_text_of_few_tokens_is_read_to_its_end(words: Words) -> None:
    tokenizer = StaticTokenizer(words, Limits())
    job = EmbedJob(items=[" " * 100_000 + "w9"], max_total_tokens=5)
    (split,) = tokenizer.split(job, job.items)
    assert split.ids.tolist() == [9]
    assert not split.is_cut
    assert sum(words.seen) < 2 * len(job.items[0])


def test_tokens_that_are_left_out_are_not_too_many(words: Words) -> None:
    tokenizer = StaticTokenizer(words, Limits(dropped_id=5))
    job = EmbedJob(items=[LONG + "w9"], max_total_tokens=5)
    (split,) = tokenizer.split(job, job.items)
    assert split.ids.tolist() == [9]


@given(
    numbers=st.lists(st.integers(0, 9999), max_size=60),
    limit=st.integers(1, 70),
    side=st.sampled_from(["left", "right"]),
)
def test_a_text_is_cut_in_the_same_place_however_it_is_looked_at(
    numbers: list[int], limit: int, side: TruncationSide
) -> None:
    job = EmbedJob(
        items=[" ".join(f"w{n}" for n in numbers)],
        truncation=Truncation(max_tokens=limit, side=side),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_tokenizer, "FIRST_LOOK_CHARS", 1)
        patch.setattr(static_tokenizer, "SPARE_TOKENS", 1)
        (split,) = StaticTokenizer(Words(), Limits()).split(job, job.items)
    expected = numbers[-limit:] if side == "left" else numbers[:limit]
    assert split.ids.tolist() == expected
    assert split.is_cut == (len(numbers) > limit)
