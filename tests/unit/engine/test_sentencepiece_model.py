"""SentencePiece files are read as far as token ids depend on them, and damage is told."""

import struct
from pathlib import Path

import pytest

from fledge.engine.sentencepiece_model import (
    Algorithm,
    Piece,
    SentencePieceModel,
    merges_of,
    read_sentencepiece,
)
from fledge.errors import CorruptModel
from tests.sentencepiece_files import (
    BPE,
    HEAD,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    Value,
    field,
    message,
    sentencepiece_bytes,
)

PIECES = [*HEAD, ("ab", -1.5, NORMAL), ("漢", -2.0, NORMAL)]


def read(tmp_path: Path, content: bytes) -> SentencePieceModel:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    return read_sentencepiece(path)


def test_pieces_come_in_the_order_of_their_ids_with_score_and_kind(tmp_path: Path) -> None:
    model = read(tmp_path, sentencepiece_bytes(PIECES, algorithm=BPE))
    assert model.pieces == [Piece(*piece) for piece in PIECES]
    assert model.algorithm is Algorithm.BPE


def test_what_a_file_leaves_out_has_the_formats_default(tmp_path: Path) -> None:
    bare = field(1, message({1: b"x"})) + field(2, b"")
    model = read(tmp_path, bare)
    assert model.pieces == [Piece("x", 0.0, NORMAL)]
    assert model.algorithm is Algorithm.UNIGRAM
    assert (model.byte_fallback, model.charsmap, model.unk_id) == (False, None, 0)
    assert model.tokens == {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def test_the_trainers_settings_are_read(tmp_path: Path) -> None:
    trainer: dict[int, Value] = {35: 1, 40: 2, 41: -1, 42: 0, 45: b"[?]", 47: b"[E]"}
    content = sentencepiece_bytes(PIECES, algorithm=UNIGRAM, trainer=trainer, charsmap=b"\x01\x02")
    model = read(tmp_path, content)
    assert (model.byte_fallback, model.unk_id, model.charsmap) == (True, 2, b"\x01\x02")
    assert model.tokens == {"unk_token": "[?]", "eos_token": "[E]"}


def test_fields_of_no_interest_are_skipped_whatever_their_kind(tmp_path: Path) -> None:
    odd = field(4, b"self test") + field(200, 7) + field(201, 1.5)
    odd += bytes([15 << 3 | 1]) + bytes(8)  # eight bytes of a kind that the format does not use
    content = sentencepiece_bytes(PIECES, algorithm=BPE) + odd
    assert len(read(tmp_path, content).pieces) == len(PIECES)


def test_a_file_that_ends_early_is_corrupt_wherever_it_ends(tmp_path: Path) -> None:
    # Its last part, the normalizer's settings, may be absent as a whole.
    content = sentencepiece_bytes(PIECES, algorithm=BPE, charsmap=b"map")
    settings = content.index(b"identity") - 4
    for end in (end for end in range(len(content)) if end != settings):
        with pytest.raises(CorruptModel, match=r"tokenizer\.model: not a readable"):
            read(tmp_path, content[:end])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 40,
        b'{"version": "1.0"}',
        b"IQ== 0\nIg== 1\n",  # tiktoken's format, under the same name
        field(1, 7) + field(2, b""),
        field(1, message({1: b"\xff"})) + field(2, b""),
        field(1, message({1: 3})) + field(2, b""),
        field(1, message({1: b"x", 2: float("nan")})) + field(2, b""),
        field(1, message({1: b"x"}) + bytes([2 << 3 | 1]) + struct.pack("<d", 1.0)) + field(2, b""),
        field(1, message({1: b"x", 3: b"normal"})) + field(2, b""),
        field(1, message({1: b"x"})) + field(2, message({3: 9})),
        field(1, message({1: b"x"})) + field(2, message({40: 1})),
        field(1, message({1: b"x"})) + field(2, message({40: -1})),
    ],
)
def test_what_is_no_sentencepiece_model_is_corrupt(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"tokenizer\.model: not a readable SentencePiece model"):
        read(tmp_path, content)


def test_every_way_to_put_a_piece_together_is_a_merge_in_the_order_of_ids() -> None:
    texts = ["<unk>", "ab", "abc", "bc", "a", "b", "c"]
    kinds = [UNKNOWN, *[NORMAL] * 6]
    pieces = [Piece(text, 0.0, kind) for text, kind in zip(texts, kinds, strict=True)]
    vocab, merges = merges_of(pieces)
    assert vocab == {text: index for index, text in enumerate(texts)}
    assert merges == [("a", "b"), ("a", "bc"), ("ab", "c"), ("b", "c")]
