"""What is kept is whole and belongs to its key, or it is not read at all."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fledge.cache.entry import Cached, pack, unpack
from fledge.errors import ComputeError
from fledge.types import EmbedResult, Timings, Vectors
from tests.unit.cache.fakes import answer, entry, key

ROWS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(width=32, allow_nan=False),
)


def result(vectors: Vectors, *, normalized: bool = False) -> EmbedResult:
    count = len(vectors)
    return EmbedResult(
        vectors=vectors,
        token_counts=list(range(1, count + 1)),
        truncated=[index % 2 == 1 for index in range(count)],
        normalized=normalized,
    )


def keys(count: int) -> list[bytes]:
    return [key(str(index)) for index in range(count)]


@given(ROWS, st.booleans())
def test_what_is_packed_comes_back_bit_by_bit(vectors: Vectors, normalized: bool) -> None:
    made = result(vectors, normalized=normalized)
    back = unpack(pack(keys(len(vectors)), made), Timings())
    assert back.vectors.tobytes() == vectors.tobytes()
    assert (back.token_counts, back.truncated) == (made.token_counts, made.truncated)
    assert back.normalized == normalized


def test_that_tokens_were_estimated_is_kept_too() -> None:
    made = result(np.ones((2, 4), np.float32))
    exact, estimated = (
        pack(
            [key(name)], replace(one, vectors=made.vectors[:1], token_counts=[3], truncated=[False])
        )
        for name, one in (("a", made), ("b", replace(made, counts_estimated=True)))
    )
    assert not unpack(exact, Timings()).counts_estimated
    assert unpack([*exact, *estimated], Timings()).counts_estimated
    assert Cached.read(key("b"), bytes(estimated[0])) == estimated[0]


@given(ROWS)
def test_an_entry_is_read_again_under_its_key_and_no_other(vectors: Vectors) -> None:
    all_keys = keys(len(vectors))
    for number, one in enumerate(pack(all_keys, result(vectors))):
        assert Cached.read(all_keys[number], bytes(one)) == one
        assert Cached.read(key("another"), bytes(one)) is None


@given(st.data())
def test_a_damaged_entry_is_none(data: st.DataObject) -> None:
    whole = bytes(entry("text"))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    if damaged != whole:
        assert Cached.read(key("text"), bytes(damaged)) is None


@given(st.data())
def test_an_entry_that_was_cut_or_that_grew_is_none(data: st.DataObject) -> None:
    whole = bytes(entry("text"))
    assert Cached.read(key("text"), whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
    assert Cached.read(key("text"), whole + data.draw(st.binary(min_size=1))) is None


@given(st.binary() | st.none() | st.text() | st.integers() | st.just(bytearray(100)))
def test_anything_else_is_none(blob: object) -> None:
    assert Cached.read(key("text"), blob) is None


def test_every_single_bit_counts() -> None:
    whole = bytes(entry("text"))
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        assert Cached.read(key("text"), bytes(damaged)) is None


def test_an_entry_of_another_version_is_none() -> None:
    whole = bytes(entry("text"))
    assert Cached.read(key("text"), whole) is not None
    assert Cached.read(key("text"), whole[:4] + b"\x02" + whole[5:]) is None


def test_an_entry_says_what_it_has() -> None:
    cut = entry("too long+")
    assert cut.vector.tolist() == answer(["too long+"]).vectors[0].tolist()
    assert (cut.token_count, cut.truncated, cut.normalized) == (9, True, False)


def test_nobody_can_change_an_entry() -> None:
    vectors = answer(["text"]).vectors
    (one,) = pack([key("text")], result(vectors))
    expected = vectors.tolist()[0]
    vectors[:] = 0  # whoever gave it away
    with pytest.raises(ValueError, match="read-only"):
        one.vector[0] = 0
    given_out = unpack([one], Timings()).vectors
    given_out[:] = 0  # whoever got it
    assert one.vector.tolist() == expected


@pytest.mark.parametrize("count", [1, 2])
def test_vectors_that_come_back_are_contiguous_and_writable(count: int) -> None:
    vectors = unpack([entry("text")] * count, Timings()).vectors
    assert vectors.shape == (count, 8)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert vectors.flags.writeable


def test_raw_vectors_beside_normalized_ones_are_normalized_too() -> None:
    raw = np.array([[3.0, 4.0]], dtype=np.float32)
    of_length_1 = np.array([[0.0, 1.0]], dtype=np.float32)
    entries = [
        *pack([key("raw")], result(raw)),
        *pack([key("other")], result(of_length_1, normalized=True)),
    ]
    merged = unpack(entries, Timings())
    assert merged.normalized
    np.testing.assert_allclose(merged.vectors, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)


def test_slices_and_other_layouts_are_packed_as_what_they_show() -> None:
    wide = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(4, 6))
    back = unpack(pack(keys(2), result(wide[::2, 1::2])), Timings())
    assert back.vectors.tolist() == wide[::2, 1::2].tolist()


@pytest.mark.parametrize("missing", ["vectors", "token_counts", "truncated"])
def test_an_answer_for_fewer_inputs_is_refused(missing: str) -> None:
    good = answer(["a", "b"])
    parts = {
        "vectors": good.vectors,
        "token_counts": good.token_counts,
        "truncated": good.truncated,
    }
    parts[missing] = parts[missing][:1]  # type: ignore[index] # all of them are sequences
    with pytest.raises(ComputeError, match="2 inputs were answered with"):
        pack(keys(2), EmbedResult(**parts))  # type: ignore[arg-type] # likewise


def test_vectors_of_different_lengths_are_no_answer() -> None:
    with pytest.raises(ComputeError, match="different lengths"):
        unpack([entry("a"), entry("b", dimension=4)], Timings())


def test_zeros_signs_and_the_smallest_numbers_survive() -> None:
    odd = np.array([[0.0, -0.0, math.ulp(0.0), 1e-45, -3.4e38]], dtype=np.float32)
    assert unpack(pack(keys(1), result(odd)), Timings()).vectors.tobytes() == odd.tobytes()
