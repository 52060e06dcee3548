"""An answer as every tier keeps it: bytes that say themselves whether they are whole.

    check  version  flags  token_count  dim  beginning of the key     vector
    u32    u32      u32    u32          u32  8 bytes                  float32 [dim]

All of it little-endian, the check a CRC-32 of what follows it. The beginning of the key is in it so
that an answer which was put in the wrong place, or fetched from there, is not taken for another.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fledge.errors import ComputeError
from fledge.types import EmbedResult, Timings
from fledge.vectors import normalize

VERSION = 1
"""Entries of another version are misses, so that processes old and new may share a store."""

_CHECK = struct.Struct("<I")
_FACTS = struct.Struct("<IIII8s")
_HEADER = struct.Struct("<IIIII8s")
_HEADER_WORDS = _HEADER.size // 4
_FLAGS_WORD, _TOKENS_WORD = 2, 3
_TRUNCATED, _NORMALIZED, _ESTIMATED = 1, 2, 4
_ALL_FLAGS = _TRUNCATED | _NORMALIZED | _ESTIMATED


class Cached(bytes):
    """One vector and what is told beside it. Made by `pack` or `read` alone.

    A kind of bytes, because nobody can change those, they are what files and Redis keep, and the
    garbage collector has no need to look at them: a million objects are a pause of a tenth of a
    second.
    """

    __slots__ = ()

    @classmethod
    def read(cls, key: bytes, blob: object) -> Self | None:
        """What was kept under a key; None for anything that is not whole, or another's."""
        if not isinstance(blob, bytes) or len(blob) <= _HEADER.size:
            return None
        check, version, flags, _, dim, beginning = _HEADER.unpack_from(blob)
        is_whole = (
            version == VERSION
            and flags <= _ALL_FLAGS
            and len(blob) == _HEADER.size + 4 * dim
            and beginning == key[:8]
            and zlib.crc32(memoryview(blob)[_CHECK.size :]) == check
        )
        return cls(blob) if is_whole else None

    @property
    def vector(self) -> NDArray[np.float32]:
        """`[dim]`, before a trailing Normalize unless `normalized`; read-only."""
        return np.frombuffer(self, dtype="<f4", offset=_HEADER.size)

    @property
    def token_count(self) -> int:
        """Tokens computed, prompt and special tokens included."""
        return self._facts()[3]

    @property
    def truncated(self) -> bool:
        """Whether the input was cut."""
        return bool(self._facts()[2] & _TRUNCATED)

    @property
    def normalized(self) -> bool:
        """Whether the vector came with length 1."""
        return bool(self._facts()[2] & _NORMALIZED)

    def _facts(self) -> tuple[int, ...]:
        return _HEADER.unpack_from(self)


def pack(keys: Sequence[bytes], result: EmbedResult) -> list[Cached]:
    """One entry for each key, from a backend's answer for them in the same order.

    Raises:
        ComputeError: the answer does not have one vector, count and flag for each.
    """
    rows = np.ascontiguousarray(result.vectors, dtype="<f4")
    if not (
        rows.ndim == 2
        and len(rows) == len(result.token_counts) == len(result.truncated) == len(keys)
    ):
        raise ComputeError(
            f"{len(keys)} inputs were answered with {len(rows)} vectors, "
            f"{len(result.token_counts)} token counts and {len(result.truncated)} flags"
        )
    always = _NORMALIZED if result.normalized else 0
    always |= _ESTIMATED if result.counts_estimated else 0
    entries = []
    for key, row, token_count, is_cut in zip(
        keys, rows, result.token_counts, result.truncated, strict=True
    ):
        flags = always | _TRUNCATED if is_cut else always
        facts = _FACTS.pack(VERSION, flags, token_count, len(row), key[:8])
        body = facts + row.tobytes()
        entries.append(Cached(_CHECK.pack(zlib.crc32(body)) + body))
    return entries


def unpack(entries: Sequence[Cached], timings: Timings) -> EmbedResult:
    """An answer again, in the order of the entries. Its vectors are the caller's to change.

    Raises:
        ComputeError: the vectors are of different lengths.
    """
    if not entries:
        return EmbedResult(vectors=np.empty((0, 0), np.float32), token_counts=(), truncated=())
    if len(set(map(len, entries))) > 1:
        raise ComputeError("vectors of different lengths were kept for one model")
    words = np.frombuffer(bytearray().join(entries), dtype="<u4").reshape(len(entries), -1)
    flags = words[:, _FLAGS_WORD]
    vectors = np.ascontiguousarray(words[:, _HEADER_WORDS:]).view("<f4")
    are_normalized = (flags & _NORMALIZED).astype(bool)
    if are_normalized.any() and not are_normalized.all():
        vectors = normalize(vectors)
    return EmbedResult(
        vectors=vectors,
        token_counts=words[:, _TOKENS_WORD].tolist(),
        truncated=(flags & _TRUNCATED).astype(bool).tolist(),
        normalized=bool(are_normalized.any()),
        counts_estimated=bool((flags & _ESTIMATED).any()),
        timings=timings,
    )
