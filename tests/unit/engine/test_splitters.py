"""Texts to ids without special tokens: a tokenizer.json as it stands, and words."""

import base64
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from fledge.engine.splitters import Cut, WhitespaceSplitter, read_json_splitter
from fledge.errors import CorruptModel
from tests.static_folders import UNKNOWN, save_words


def test_a_tokenizer_puts_nothing_around_a_text_and_neither_pads_nor_cuts(tmp_path: Path) -> None:
    save_words(tmp_path, 30, truncation=2)
    splitter, cut = read_json_splitter(tmp_path)
    long = "w9 " * 600
    assert list(splitter.ids(["w5 w6 w7"])[0]) == [5, 6, 7]
    assert [list(ids) for ids in splitter.ids(["w5 w6 w7", "", long])] == [[5, 6, 7], [], [9] * 600]
    assert list(splitter.ids([long])[0]) == [9] * 600
    assert cut == Cut(2, "right")
    assert (splitter.vocab_size, splitter.unknown_id, splitter.median_chars) == (30, UNKNOWN, 3)


def test_a_tokenizer_that_cuts_nothing_says_so(tmp_path: Path) -> None:
    save_words(tmp_path, 30)
    assert read_json_splitter(tmp_path)[1] is None


def test_a_tokenizer_may_cut_on_the_left(tmp_path: Path) -> None:
    save_words(tmp_path, 30)
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(5, direction="left")
    tokenizer.save(str(path))
    assert read_json_splitter(tmp_path)[1] == Cut(5, "left")


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tokenizer_that_leaves_nothing_of_a_text_is_a_corrupt_model(
    side: str, tmp_path: Path
) -> None:
    save_words(tmp_path, 30)
    path = tmp_path / "tokenizer.json"
    config = json.loads(path.read_text())
    config["truncation"] = {
        "direction": side.capitalize(),
        "max_length": 0,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    path.write_text(json.dumps(config))
    with pytest.raises(CorruptModel, match="max_length 0; at least 1"):
        read_json_splitter(tmp_path)


@pytest.mark.parametrize("charsmap", [b"x", b"\x04\0\0\0abcd"], ids=["reading", "encoding"])
def test_a_tokenizer_that_makes_the_library_panic_is_a_corrupt_model(
    charsmap: bytes, tmp_path: Path
) -> None:
    save_words(tmp_path, 30)
    path = tmp_path / "tokenizer.json"
    encoded = base64.b64encode(charsmap).decode()
    normalizer = {"type": "Precompiled", "precompiled_charsmap": encoded}
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": normalizer}))
    with pytest.raises(CorruptModel, match="not a readable tokenizer"):
        read_json_splitter(tmp_path)


def test_a_tokenizer_that_fails_at_some_texts_is_a_corrupt_model(tmp_path: Path) -> None:
    Tokenizer(models.Unigram([("a", -1.0)])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CorruptModel, match="not a readable tokenizer"):
        read_json_splitter(tmp_path)


@pytest.mark.parametrize(
    ("model", "unknown"),
    [
        (models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0), 0),
        (models.BPE({"a": 0}, []), None),
        (models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"), 1),
    ],
)
def test_every_kind_of_tokenizer_tells_its_unknown_token(
    model: models.Model, unknown: int | None, tmp_path: Path
) -> None:
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    assert read_json_splitter(tmp_path)[0].unknown_id == unknown


WORDS = WhitespaceSplitter(
    {"apple": 0, "Pear": 1, "pear": 2, "it's": 3, "": 4},
    frozenset({"the", "a-"}),
    do_lower_case=False,
)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("apple Pear pear", [0, 1, 2]),
        ("APPLE", [0]),
        ("(apple), 'Pear'!", [0, 1]),
        ("PEAR", [2]),
        ("it's its 'it's'", [3, 3]),
        ("the THE (the) The.", []),
        ("a- apple-", [0]),
        ("plum apple\tpear\n\u00a0pear", [0, 2, 2]),
        ("...", [4]),
        ("", []),
        ("  ", []),
    ],
)
def test_words_are_found_as_they_are_or_bare_or_in_lower_case(text: str, ids: list[int]) -> None:
    assert list(WORDS.ids([text])[0]) == ids
    assert list(WORDS.tokens([text])[0].ids) == ids


def test_lower_case_may_come_before_everything_else() -> None:
    splitter = WhitespaceSplitter({"Pear": 0, "pear": 1}, frozenset(), do_lower_case=True)
    assert list(splitter.ids(["Pear pear PEAR"])[0]) == [1, 1, 1]


def test_a_words_place_is_in_the_text_as_it_was_given() -> None:
    splitter = WhitespaceSplitter({"i\u0307": 0, "x": 1}, frozenset(), do_lower_case=True)
    (tokens,) = splitter.tokens(["  \u0130 (x)"])
    assert (list(tokens.ids), list(tokens.offsets)) == ([0, 1], [(2, 3), (4, 7)])
