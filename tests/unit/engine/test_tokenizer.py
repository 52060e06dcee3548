"""Texts to rows: nothing baked in leaks, nothing special is cut, long texts are cut as short."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers, processors

from fledge.engine.tokenizer import Encoded, Tokenizer
from fledge.engine.tokenizer_files import read_tokenizer
from fledge.errors import CorruptModel, EmptyInput, InputTooLong, InvalidRequest
from fledge.types import Item, Truncation
from tests.tiny import SPECIAL, save_tokenizer
from tests.unit.engine.small_tokenizers import byte_level, word_piece

VOCAB = 300
PAD, UNKNOWN, CLS, SEP = range(4)
RIGHT, LEFT = Truncation(side="right"), Truncation(side="left")
TEXT = "w10 w11 w12 w13 w14 w15"
IDS = [10, 11, 12, 13, 14, 15]
TEMPLATE = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
)


def load(
    folder: Path, *, limit: int = 64, do_lower_case: bool = False, **changes: Any
) -> Tokenizer:
    """The words `w4` ... `w299` between [CLS] and [SEP], with `changes` made to the file."""
    save_tokenizer(folder, VOCAB)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    files = read_tokenizer(folder, model_type="none", do_lower_case=do_lower_case)
    return Tokenizer(files, max_seq_length=limit)


def encode(
    tokenizer: Tokenizer,
    *items: Item,
    prompt: str | None = None,
    mask_prompt: bool = False,
    truncation: Truncation = RIGHT,
) -> list[Encoded]:
    return tokenizer.encode(items, prompt=prompt, mask_prompt=mask_prompt, truncation=truncation)


def ids_of(tokenizer: Tokenizer, *items: Item, **options: Any) -> list[list[int]]:
    return [list(one.row.ids) for one in encode(tokenizer, *items, **options)]


def test_a_text_stands_between_its_special_tokens(tmp_path: Path) -> None:
    (row,) = encode(load(tmp_path), TEXT)
    assert list(row.row.ids) == [CLS, *IDS, SEP]
    assert not row.truncated


def test_texts_and_token_ids_keep_their_order(tmp_path: Path) -> None:
    items: list[Item] = ["w10", [20, 21], "w11 w12", [22], "w13"]
    expected = [[CLS, 10, SEP], [20, 21], [CLS, 11, 12, SEP], [22], [CLS, 13, SEP]]
    assert ids_of(load(tmp_path), *items) == expected
    assert ids_of(load(tmp_path), [20], [21]) == [[20], [21]]


def test_padding_and_truncation_of_the_file_do_not_leak(tmp_path: Path) -> None:
    padding = {
        "strategy": {"Fixed": 32},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": PAD,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    truncation = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    tokenizer = load(tmp_path, padding=padding, truncation=truncation)
    assert ids_of(tokenizer, TEXT, "w20") == [[CLS, *IDS, SEP], [CLS, 20, SEP]]
    assert [len(one.ids) for one in tokenizer.tokenize([TEXT, "w20"], None)] == [8, 3]


@pytest.mark.parametrize(("truncation", "kept"), [(RIGHT, IDS[:3]), (LEFT, IDS[-3:])])
def test_a_long_text_is_cut_between_its_special_tokens(
    truncation: Truncation, kept: list[int], tmp_path: Path
) -> None:
    long, short = encode(load(tmp_path, limit=5), TEXT, "w10 w11 w12", truncation=truncation)
    assert list(long.row.ids) == [CLS, *kept, SEP]
    assert long.truncated
    assert not short.truncated


@pytest.mark.parametrize(("own", "kept"), [("left", IDS[-3:]), ("right", IDS[:3]), (None, IDS[:3])])
def test_the_tokenizers_own_side_is_cut_unless_the_caller_names_one(
    own: str | None, kept: list[int], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"truncation_side": own}))
    tokenizer = load(tmp_path, limit=5)
    assert ids_of(tokenizer, TEXT, truncation=Truncation()) == [[CLS, *kept, SEP]]
    for truncation, other in ((RIGHT, IDS[:3]), (LEFT, IDS[-3:])):
        assert ids_of(tokenizer, TEXT, truncation=truncation) == [[CLS, *other, SEP]]


@pytest.mark.parametrize(("truncation", "kept"), [(RIGHT, IDS[:5]), (LEFT, IDS[-5:])])
def test_long_token_ids_are_cut_without_a_thought_of_special_tokens(
    truncation: Truncation, kept: list[int], tmp_path: Path
) -> None:
    (row,) = encode(load(tmp_path, limit=5), IDS, truncation=truncation)
    assert list(row.row.ids) == kept
    assert row.truncated


def test_the_caller_may_set_a_lower_limit_than_the_models_and_no_higher_one(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, limit=5)
    for max_tokens, length in ((3, 3), (5, 5), (500, 5), (None, 5)):
        truncation = Truncation(side="right", max_tokens=max_tokens)
        assert [len(ids) for ids in ids_of(tokenizer, TEXT, truncation=truncation)] == [length]


@pytest.mark.parametrize("max_tokens", [-1, 0, 1, 2])
def test_a_limit_without_room_for_a_text_is_refused(max_tokens: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=f"max_tokens is {max_tokens}, which leaves no room"):
        encode(load(tmp_path), TEXT, truncation=Truncation(side="right", max_tokens=max_tokens))


@pytest.mark.parametrize("item", [TEXT, IDS])
def test_an_item_that_is_too_long_can_be_refused_by_its_number(item: Item, tmp_path: Path) -> None:
    refuse = Truncation(side="right", refuse=True)
    message = r"`items\[1\]` has \d tokens; this model takes at most 5"
    with pytest.raises(InputTooLong, match=message) as raised:
        encode(load(tmp_path, limit=5), "w10", item, truncation=refuse)
    assert raised.value.field == "items[1]"
    assert ids_of(load(tmp_path, limit=8), TEXT, truncation=refuse) == [[CLS, *IDS, SEP]]


@pytest.mark.parametrize("token", [-1, VOCAB, 10**9])
def test_a_token_id_outside_the_vocabulary_is_refused_by_its_number(
    token: int, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=rf"`items\[1\]` has the token id {token}") as raised:
        encode(load(tmp_path), [0, VOCAB - 1], [5, token])
    assert raised.value.field == "items[1]"


def test_the_vocabulary_ends_behind_its_largest_id_also_where_ids_have_gaps(tmp_path: Path) -> None:
    vocab = {**{word: n for n, word in enumerate(SPECIAL)}, "a": 4, "b": 900}
    tokenizer = load(tmp_path, model={"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"})
    assert tokenizer.vocab_size == 901


def test_half_of_a_surrogate_pair_is_refused_by_its_number(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    with pytest.raises(InvalidRequest, match=r"`items\[1\]` is not valid Unicode") as raised:
        encode(tokenizer, "w10", "w11 \ud800")
    assert raised.value.field == "items[1]"
    with pytest.raises(InvalidRequest):
        tokenizer.tokenize(["\udfff"], None)


def test_a_text_of_nothing_is_its_special_tokens_and_an_error_where_there_are_none(
    tmp_path: Path,
) -> None:
    assert ids_of(load(tmp_path), " \n") == [[CLS, SEP]]
    bare = load(tmp_path, post_processor=None)
    assert ids_of(bare, "w10") == [[10]]
    with pytest.raises(EmptyInput, match=r"`items\[1\]` has no tokens"):
        encode(bare, "w10", " \n")


def test_a_prompt_is_put_before_texts_and_not_before_token_ids(tmp_path: Path) -> None:
    rows = ids_of(load(tmp_path), "w10", [11], prompt="w20 w21 ")
    assert rows == [[CLS, 20, 21, 10, SEP], [11]]


def test_a_masked_prompt_is_counted_with_the_special_tokens_before_it(tmp_path: Path) -> None:
    """As sentence-transformers: the prompt's tokens alone, without the last special one."""
    rows = encode(load(tmp_path), "w10 w11", "w12", [13], prompt="w20 w21 ", mask_prompt=True)
    assert [one.row.masked_tokens for one in rows] == [3, 3, 0]
    assert list(rows[0].row.ids[3:]) == [10, 11, SEP]


def test_without_special_tokens_a_masked_prompt_is_its_own_tokens(tmp_path: Path) -> None:
    bare = load(tmp_path, post_processor=None)
    (row,) = encode(bare, "w10", prompt="w20 w21 ", mask_prompt=True)
    assert row.row.masked_tokens == 2


def test_a_prompt_is_masked_only_where_the_model_leaves_it_out(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    for prompt, mask in (("w20 ", False), (None, True), ("", True)):
        (row,) = encode(tokenizer, "w10", prompt=prompt, mask_prompt=mask)
        assert row.row.masked_tokens == 0


def test_a_mask_never_reaches_beyond_its_row(tmp_path: Path) -> None:
    prompt = " ".join(f"w{n}" for n in range(20, 40)) + " "
    (row,) = encode(load(tmp_path, limit=6), "w10", prompt=prompt, mask_prompt=True)
    assert len(row.row.ids) == 6
    assert row.row.masked_tokens == 5


def test_a_text_of_which_pooling_would_see_nothing_is_refused(tmp_path: Path) -> None:
    bare = load(tmp_path, limit=6, post_processor=None)
    prompt = "w20 w21 "
    assert ids_of(bare, " ", prompt=prompt) == [[20, 21]]
    with pytest.raises(EmptyInput, match=r"`items\[1\]` has no tokens behind its prompt") as caught:
        encode(bare, "w10", " ", prompt=prompt, mask_prompt=True)
    assert caught.value.field == "items[1]"
    with pytest.raises(EmptyInput, match=r"`items\[0\]` has no tokens behind its prompt"):
        encode(bare, "w10", prompt=prompt * 3, mask_prompt=True)
    assert encode(bare, [20, 21], prompt=prompt, mask_prompt=True)[0].row.masked_tokens == 0


def test_behind_a_masked_prompt_the_end_token_is_enough(tmp_path: Path) -> None:
    (row,) = encode(load(tmp_path), " ", prompt="w20 w21 ", mask_prompt=True)
    assert list(row.row.ids[row.row.masked_tokens :]) == [SEP]


def test_a_prompt_of_any_length_is_counted_up_to_the_limit(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, limit=6)
    for prompt in ("w20 " * 5, "w20 " * 10**5, " " * 10**5 + "w20 " * 10):
        (row,) = encode(tokenizer, "w10", prompt=prompt, mask_prompt=True)
        assert (len(row.row.ids), row.row.masked_tokens) == (6, 5)


@pytest.mark.parametrize(
    "normalizer", [None, {"type": "NFKC"}, {"type": "Lowercase"}], ids=["none", "other", "same"]
)
def test_do_lower_case_lowers_before_the_tokenizers_own_normalizer(
    normalizer: object, tmp_path: Path
) -> None:
    tokenizer = load(tmp_path, do_lower_case=True, normalizer=normalizer)
    assert ids_of(tokenizer, "W10 w11") == [[CLS, 10, 11, SEP]]


def test_without_do_lower_case_the_case_is_kept(tmp_path: Path) -> None:
    assert ids_of(load(tmp_path), "W10") == [[CLS, UNKNOWN, SEP]]


def test_tokens_come_with_their_places_in_characters_prompt_included(tmp_path: Path) -> None:
    (tokens,) = load(tmp_path, limit=3).tokenize(["é w10"], "w20 ")
    assert list(tokens.ids) == [CLS, 20, UNKNOWN, 10, SEP]
    assert list(tokens.offsets) == [(0, 0), (0, 3), (4, 5), (6, 9), (0, 0)]


def test_a_limit_that_special_tokens_fill_is_a_corrupt_model(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="leaves no room for a text beside 2 special tokens"):
        load(tmp_path, limit=2)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": 7}', b"\xff", None])
def test_a_tokenizer_that_is_damaged_or_absent_is_a_corrupt_model(
    content: bytes | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CorruptModel, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path, model_type="bert", do_lower_case=False)


@pytest.mark.parametrize(
    ("config", "text", "pieces"),
    [
        ({}, "Ab", ["ab"]),
        ({"do_lower_case": True}, "Ab", ["ab"]),
        ({"do_lower_case": False}, "ab Ab", ["ab", "[UNK]"]),
        ({"do_lower_case": False, "strip_accents": "yes"}, "\u00e1b", ["ab"]),
        ({"do_lower_case": False, "strip_accents": True}, "\u00e1b", ["ab"]),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, "Ab", ["[UNK]"]),
    ],
)
def test_a_known_tokenizer_class_lowers_as_its_config_says(
    config: Mapping[str, object], text: str, pieces: list[str], tmp_path: Path
) -> None:
    raw = word_piece()
    raw.normalizer = normalizers.BertNormalizer(lowercase=False)
    raw.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    files = read_tokenizer(tmp_path, model_type="bert", do_lower_case=False)
    assert files.tokenizer.encode(text, add_special_tokens=False).tokens == pieces


@pytest.mark.parametrize("prefixed", [True, False])
def test_a_byte_level_tokenizer_adds_a_space_before_a_text_as_its_config_says(
    prefixed: bool, tmp_path: Path
) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    config = {"add_prefix_space": prefixed, "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    files = read_tokenizer(tmp_path, model_type="roberta", do_lower_case=False)
    assert files.tokenizer.encode("b").tokens[1].startswith("\u0120") == prefixed
