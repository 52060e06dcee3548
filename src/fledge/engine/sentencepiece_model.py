"""A SentencePiece model file: its pieces, and the settings that token ids depend on.

The file is one protobuf message. Sources: `src/sentencepiece_model.proto` of google/sentencepiece
for the fields and their defaults, protobuf.dev/programming-guides/encoding for the wire format.
Fields that transformers does not look at either are skipped.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from fledge.errors import CorruptModel

_VARINT, _EIGHT_BYTES, _COUNTED_BYTES, _FOUR_BYTES = 0, 1, 2, 5
_FIXED_SIZES = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_MAX_VARINT_BYTES = 10

MAX_PIECE_CHARS = 512
"""Finding the merges takes the square of a piece's length; published pieces have up to 64."""

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
"""The parts of the file."""


class PieceKind(IntEnum):
    """`SentencePiece.Type`, as far as it matters here."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4


class Algorithm(IntEnum):
    """`TrainerSpec.ModelType`."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHARACTER = 4


class Piece(NamedTuple):
    """One entry of the vocabulary; its place in the list is its id."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """What one file says.

    Attributes:
        pieces: the vocabulary in the order of its ids.
        algorithm: how a text is divided into pieces.
        byte_fallback: a character that no piece has becomes its UTF-8 bytes.
        charsmap: the compiled normalization of characters; None where there is none.
        unk_id: id of the unknown token.
        tokens: the names of the special tokens that the file has, as `bos_token` has it in
            `tokenizer_config.json`.
    """

    pieces: list[Piece]
    algorithm: Algorithm
    byte_fallback: bool
    charsmap: bytes | None
    unk_id: int
    tokens: Mapping[str, str]


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a file.

    Raises:
        CorruptModel: it is no SentencePiece model, or damaged.
    """
    try:
        return _model(path.read_bytes())
    except (ValueError, struct.error) as error:
        raise CorruptModel(f"{path}: not a readable SentencePiece model: {error}") from error


def merges_of(pieces: list[Piece]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary, and the merges that a BPE file does not spell out.

    Every way to put a piece together of two others is a merge, those of lower ids first: the order
    of `generate_merges` of transformers 5 without scores.

    Raises:
        ValueError: a piece is longer than `MAX_PIECE_CHARS`.
    """
    longest = max((len(piece.text) for piece in pieces), default=0)
    if longest > MAX_PIECE_CHARS:
        raise ValueError(f"a piece has {longest} characters; at most {MAX_PIECE_CHARS} are read")
    vocab = {piece.text: index for index, piece in enumerate(pieces)}
    merges = [
        (text[:cut], text[cut:])
        for text in sorted(vocab, key=vocab.__getitem__)
        for cut in range(1, len(text))
        if text[:cut] in vocab and text[cut:] in vocab
    ]
    return vocab, merges


def _model(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] | None = None
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == _PIECE:
            pieces.append(_piece(dict(_fields(_bytes(value)))))
        elif number == _TRAINER:
            trainer = dict(_fields(_bytes(value)))
        elif number == _NORMALIZER:
            normalizer = dict(_fields(_bytes(value)))
    if not pieces:
        raise ValueError("it has no pieces")
    if trainer is None:  # it stands behind the pieces: without it, the end of them may be missing
        raise ValueError("it has no trainer_spec; is the file complete?")
    unk_id = _integer(trainer.get(40, 0))
    if not 0 <= unk_id < len(pieces):
        raise ValueError(f"unk_id is {unk_id}, and there are {len(pieces)} pieces")
    return SentencePieceModel(
        pieces=pieces,
        algorithm=Algorithm(_integer(trainer.get(3, Algorithm.UNIGRAM))),
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=_bytes(normalizer.get(2, b"")) or None,
        unk_id=unk_id,
        tokens=_special_tokens(trainer),
    )


def _special_tokens(trainer: Mapping[int, int | bytes]) -> dict[str, str]:
    """A negative id means that the model has no such token."""
    fields = (
        ("unk_token", 40, 0, 45, b"<unk>"),
        ("bos_token", 41, 1, 46, b"<s>"),
        ("eos_token", 42, 2, 47, b"</s>"),
    )
    return {
        name: _bytes(trainer.get(text_field, text) or text).decode()
        for name, id_field, default_id, text_field, text in fields
        if _integer(trainer.get(id_field, default_id)) >= 0
    }


def _piece(fields: Mapping[int, int | bytes]) -> Piece:
    stored = fields.get(2)
    score = struct.unpack("<f", stored)[0] if isinstance(stored, bytes) else 0.0
    if not math.isfinite(score):
        raise ValueError(f"a piece has the score {score}")
    text = _bytes(fields.get(1, b"")).decode()
    return Piece(text, score, _integer(fields.get(3, PieceKind.NORMAL)))


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where a text or a message is expected")  # noqa: TRY004
    return value


def _integer(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("bytes stand where a number is expected")  # noqa: TRY004
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message: an integer, or bytes still to be understood."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == _COUNTED_BYTES:
            size, position = _varint(data, position)
        elif kind in _FIXED_SIZES:
            size = _FIXED_SIZES[kind]
        else:
            raise ValueError(f"field {number} is of the unknown kind {kind}")
        end = position + size
        if not position <= end <= len(data):
            raise ValueError(f"field {number} goes beyond the end")
        yield number, data[position:end]
        position = end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A signed integer, seven bits a byte, lowest first; and the position behind it."""
    value = 0
    for count, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            signed = value - (1 << 64) if value >= 1 << 63 else value
            return signed, position + count + 1
    raise ValueError("a number goes beyond the end")
