"""SentencePiece files written by hand, field by field, where a test needs one of any content."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"

Piece = tuple[str, float, int]
HEAD: list[Piece] = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
BYTES: list[Piece] = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]

Value = int | float | bytes


def field(number: int, value: Value) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; a negative number has ten bytes."""
    value &= (1 << 64) - 1
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def message(fields: Mapping[int, Value]) -> bytes:
    """A message of fields that are not repeated."""
    return b"".join(field(number, value) for number, value in fields.items())


def sentencepiece_bytes(
    pieces: Sequence[Piece],
    *,
    algorithm: int,
    trainer: Mapping[int, Value] | None = None,
    charsmap: bytes = b"",
) -> bytes:
    """A whole file; `trainer` has further fields of the trainer's settings by number."""
    return b"".join(
        [
            *(
                field(1, message({1: text.encode(), 2: score, 3: kind}))
                for text, score, kind in pieces
            ),
            field(2, message({3: algorithm, **(trainer or {})})),
            field(3, message({1: b"identity", 2: charsmap})),
        ]
    )


def bpe_pieces(words: Sequence[str]) -> list[Piece]:
    """A small vocabulary as a trained one looks: the head, all bytes, merged pieces, characters."""
    letters = sorted(set("".join(words)))
    grown = dict.fromkeys(word[:end] for word in words for end in range(2, len(word) + 1))
    merged = [(piece, -float(rank), NORMAL) for rank, piece in enumerate(grown)]
    singles = [(letter, -float(1000 + rank), NORMAL) for rank, letter in enumerate(letters)]
    return [*HEAD, *BYTES, *merged, *singles]


def save_sentencepiece(path: Path, content: bytes) -> None:
    """Write it, and the folder around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
