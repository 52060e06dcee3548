"""The safetensors container: what is written is read, and no header is believed."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from fledge.engine import tensorfile
from fledge.engine.tensorfile import (
    ALIGNMENT_BYTES,
    DTYPES,
    Array,
    MappedTensors,
    Planned,
    TensorInfo,
    read_header,
    read_slabs,
    read_tensor,
    write_tensors,
)
from fledge.errors import CorruptModel, UnsupportedModel

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def random_array(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Any bytes at all: what is stored need not be a number."""
    count = math.prod(shape)
    random = np.random.default_rng(count + dtype.itemsize)
    data = random.integers(0, 2 if dtype == np.bool_ else 256, count * dtype.itemsize, np.uint8)
    return data.view(dtype).reshape(shape)


def write(path: Path, arrays: Mapping[str, Array]) -> Path:
    plan = [Planned(name, array.dtype, array.shape) for name, array in arrays.items()]
    with path.open("wb") as file:
        write_tensors(file, plan, arrays.items())
    return path


def forge(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    """A file with any header at all, as an object or as bytes."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(encoded) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + encoded + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 4), (0,), (0, 4), (4, 0)])
def test_what_is_written_is_read_and_mapped_byte_for_byte(
    dtype: np.dtype[Any], shape: tuple[int, ...], tmp_path: Path
) -> None:
    array = random_array(dtype, shape)
    path = write(tmp_path / "t", {"a": array, "b": array})
    mapped = MappedTensors(path)
    for name, info in read_header(path).items():
        for read in (read_tensor(path, info), mapped[name]):
            assert (read.dtype, read.shape) == (array.dtype, array.shape)
            assert read.tobytes() == array.tobytes()


def test_the_reference_library_reads_what_is_written_and_the_other_way_round(
    tmp_path: Path,
) -> None:
    arrays: dict[str, Array] = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "y": np.arange(3, dtype=np.int8),
    }
    loaded = load_file(write(tmp_path / "ours", arrays))
    save_file(arrays, tmp_path / "theirs", metadata={"format": "np"})
    theirs = MappedTensors(tmp_path / "theirs")
    for name, array in arrays.items():
        assert loaded[name].tolist() == theirs[name].tolist() == array.tolist()


def test_mapped_tensors_are_read_only_and_aligned_when_larger_items_come_first(
    tmp_path: Path,
) -> None:
    arrays: dict[str, Array] = {
        "wide": np.ones((3, 5), np.float64),
        "half": np.ones(7, np.float16),
        "byte": np.ones(3, np.int8),
    }
    path = write(tmp_path / "t", arrays)
    for name, array in MappedTensors(path).items():
        assert not array.flags.writeable
        assert array.ctypes.data % arrays[name].itemsize == 0
    assert read_header(path)["wide"].start % ALIGNMENT_BYTES == 0


@pytest.mark.parametrize(
    "array",
    [
        np.ones((2, 3), np.float32),
        np.ones((2, 2), np.float16),
        np.ones((3, 2), np.float32),
        np.ones((1, 2), np.float32),
    ],
    ids=["shape", "dtype", "too many rows", "too few rows"],
)
def test_data_that_is_not_what_was_planned_is_a_bug_of_the_caller(
    array: Array, tmp_path: Path
) -> None:
    plan = [Planned("x", np.dtype(np.float32), (2, 2))]
    with (tmp_path / "t").open("wb") as file, pytest.raises(ValueError, match="x: planned"):
        write_tensors(file, plan, [("x", array)])


def test_pieces_of_several_tensors_may_take_turns(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    y = np.arange(3, dtype=np.int8)
    plan = [Planned("x", x.dtype, x.shape), Planned("y", y.dtype, y.shape)]
    pieces: list[tuple[str, Array]] = [("y", y[:2]), ("x", x[:1]), ("y", y[2:]), ("x", x[1:])]
    with (tmp_path / "t").open("wb") as file:
        write_tensors(file, plan, pieces)
    assert (tmp_path / "t").read_bytes() == write(tmp_path / "u", {"x": x, "y": y}).read_bytes()


def test_metadata_is_no_tensor(tmp_path: Path) -> None:
    path = forge(tmp_path / "t", {"__metadata__": {"a": "b"}, "x": entry()}, bytes(8))
    assert list(read_header(path)) == ["x"]


LIES: Mapping[str, Any] = {
    "an entry that is no object": {"x": 7},
    "no dtype": {"x": {"shape": [2], "data_offsets": [0, 8]}},
    "no shape": {"x": {"dtype": "F32", "data_offsets": [0, 8]}},
    "no offsets": {"x": {"dtype": "F32", "shape": [2]}},
    "another dtype": {"x": entry(dtype="F64")},
    "a dtype that is a list": {"x": entry(dtype=["F32"])},
    "a shape with another product": {"x": entry(shape=[3])},
    "a negative size": {"x": entry(shape=[-2])},
    "two negative sizes": {"x": entry(shape=[-1, -2])},
    "a shape of texts": {"x": entry(shape=["2"])},
    "a shape of fractions": {"x": entry(shape=[2.0])},
    "a shape that is a text": {"x": entry(shape="2")},
    "a shape that is a number": {"x": entry(shape=2)},
    "a shape of truths": {"x": entry(dtype="F64", shape=[True])},
    "a shape of infinities": {"x": entry(shape=[math.inf])},
    "a shape of NaN": {"x": entry(shape=[math.nan])},
    "sizes that no memory holds": {"x": entry(shape=[2**40, 2**40])},
    "sizes that no memory holds beside a 0": {"x": entry(shape=[0, 2**70], offsets=[0, 0])},
    "more axes than NumPy has": {"x": entry(shape=[2] + [1] * 100)},
    "negative offsets": {"x": entry(offsets=[-8, 0])},
    "offsets backwards": {"x": entry(offsets=[8, 0])},
    "offsets beyond the end": {"x": entry(offsets=[8, 16])},
    "offsets far beyond the end": {"x": entry(offsets=[2**70, 2**70 + 8])},
    "offsets of texts": {"x": entry(offsets=["0", "8"])},
    "offsets of fractions": {"x": entry(offsets=[0.0, 8.0])},
    "offsets of truths": {"x": entry(dtype="I8", shape=[1], offsets=[False, True])},
    "offsets of infinities": {"x": entry(offsets=[0, math.inf])},
    "one offset": {"x": entry(offsets=[0])},
    "three offsets": {"x": entry(offsets=[0, 8, 8])},
    "null offsets": {"x": entry(offsets=None)},
    "two tensors in one place": {"x": entry(), "y": entry()},
    "overlapping tensors": {"x": entry(shape=[1], offsets=[0, 4]), "y": entry()},
    "a hole at the end": {"x": entry(shape=[1], offsets=[0, 4])},
    "a hole at the beginning": {"x": entry(shape=[1], offsets=[4, 8])},
    "a header that is a list": [entry()],
    "a header that is null": b"null",
    "no JSON": b"{'x'}",
    "JSON that ends early": b'{"x": {"dtype"',
    "no UTF-8": b'{"\xff": {}}',
    "deep nesting": b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a number of too many digits": b'{"x":' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("header", LIES.values(), ids=LIES)
def test_a_header_that_lies_is_a_corrupt_model(header: Any, tmp_path: Path) -> None:
    path = forge(tmp_path / "t", header, bytes(8))
    for read in (read_header, MappedTensors):
        with pytest.raises(CorruptModel, match=str(path)):
            read(path)


def test_a_type_of_numbers_that_nothing_computes_with_is_named(tmp_path: Path) -> None:
    path = forge(tmp_path / "t", {"x": entry(dtype="F8_E4M3")}, bytes(8))
    with pytest.raises(UnsupportedModel, match=r"'F8_E4M3'.*original model"):
        read_header(path)


@pytest.mark.parametrize("length", [0, 1, 3, 4096, 100_000_001, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_is_a_corrupt_model(length: int, tmp_path: Path) -> None:
    path = forge(tmp_path / "t", {"x": entry()}, bytes(8), length=length)
    with pytest.raises(CorruptModel):
        read_header(path)


@pytest.mark.parametrize("content", [b"", b"\x02", bytes(8), b"version https://git-lfs.github"])
def test_a_file_that_is_no_safetensors_file_is_a_corrupt_model(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    for read in (read_header, MappedTensors):
        with pytest.raises(CorruptModel):
            read(path)


def test_a_missing_file_and_a_folder_are_corrupt_models(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CorruptModel, match="cannot read"):
            read_header(path)


def test_a_file_cut_off_at_any_byte_is_a_corrupt_model(tmp_path: Path) -> None:
    whole = write(tmp_path / "t", {"x": np.ones(4, np.float32)}).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(CorruptModel):
            read_header(tmp_path / "cut")


def test_a_file_that_shrinks_or_goes_after_its_header_was_read_is_a_corrupt_model(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "t", {"x": np.ones(4, np.float32)})
    info = read_header(path)["x"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptModel, match="truncated while"):
        read_tensor(path, info)
    path.unlink()
    with pytest.raises(CorruptModel, match="cannot be read"):
        read_tensor(path, info)


@pytest.mark.parametrize("items", [1, 4, 5, 9, 10, 100])
def test_slabs_are_the_rows_in_their_order_and_no_larger_than_asked(
    items: int, tmp_path: Path
) -> None:
    array = np.arange(35, dtype=np.float32).reshape(7, 5)
    path = write(tmp_path / "t", {"x": array, "v": array[0], "s": np.full((), 3, np.float32)})
    header = read_header(path)
    slabs = list(read_slabs(path, header["x"], items=items))
    assert np.concatenate(slabs).tolist() == array.tolist()
    assert max(slab.size for slab in slabs) <= max(items, 5)
    assert len(slabs) == {1: 7, 4: 7, 5: 7, 9: 7, 10: 4, 100: 1}[items]
    vector = list(read_slabs(path, header["v"], items=items))
    assert np.concatenate(vector).tolist() == array[0].tolist()
    assert [slab.tolist() for slab in read_slabs(path, header["s"], items=items)] == [[3.0]]


VIEWS: Mapping[str, Callable[[Array], Array]] = {
    "transposed": lambda stored: stored.T,
    "columns": lambda stored: stored[:, 1:3],
    "every other row": lambda stored: stored[::2],
    "columns, transposed": lambda stored: stored[:, 1:3].T,
    "one column": lambda stored: stored[:, 2],
    "one column of a matrix": lambda stored: stored[:, 2:3],
}


@pytest.mark.parametrize("items", [1, 7, 12, 1000])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_are_read_as_what_they_show(
    view: Callable[[Array], Array], items: int, tmp_path: Path
) -> None:
    stored = np.arange(42, dtype=np.int16).reshape(6, 7)
    path = tmp_path / "t"
    path.write_bytes(b"head" + stored.tobytes() + b"tail")
    shown = view(stored)
    start = 4 + shown.ctypes.data - stored.ctypes.data
    strides = tuple(step // 2 for step in shown.strides)
    end = start + 2 * (
        1 + sum((n - 1) * step for n, step in zip(shown.shape, strides, strict=True))
    )
    info = TensorInfo(shown.dtype, shown.shape, start, end, strides)
    assert read_tensor(path, info).tolist() == shown.tolist()
    slabs = list(read_slabs(path, info, items=items))
    assert np.concatenate(slabs).tolist() == shown.tolist()


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((2**40, 2), (0, 1)),
        ((2, 2**40), (1, 0)),
        ((3, 3), (1, 1)),
        ((2, 2), (6, 2)),
        ((2,) * 3, (1,) * 3),
    ],
)
def test_views_that_repeat_or_skip_items_are_refused(
    shape: tuple[int, ...], strides: tuple[int, ...], tmp_path: Path
) -> None:
    (tmp_path / "t").write_bytes(bytes(100))
    end = min(100, 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)))
    info = TensorInfo(np.dtype(np.int8), shape, 0, end, strides)
    with pytest.raises(UnsupportedModel, match="is a view"):
        read_tensor(tmp_path / "t", info)


def test_a_file_too_large_for_the_page_cache_is_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorfile, "LARGE_FILE_BYTES", 1)
    array = np.arange(35, dtype=np.float32).reshape(7, 5)
    path = write(tmp_path / "t", {"x": array})
    assert read_tensor(path, read_header(path)["x"]).tolist() == array.tolist()


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=4))
@SHARED_FOLDER
def test_bytes_changed_anywhere_give_tensors_or_a_corrupt_model_and_nothing_else(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    arrays: dict[str, Array] = {"x": np.ones((2, 3), np.float32), "y": np.ones(5, np.int8)}
    path = write(tmp_path / "t", arrays)
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    (tmp_path / "changed").write_bytes(content)
    read_or_refuse(tmp_path / "changed")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(list(DTYPES)) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | JSON,
    }
)


@given(st.dictionaries(st.text(max_size=3), ENTRIES | JSON, max_size=3) | JSON)
@SHARED_FOLDER
def test_any_header_gives_tensors_or_a_refusal_and_nothing_else(
    tmp_path: Path, header: Any
) -> None:
    read_or_refuse(forge(tmp_path / "t", header, bytes(32)))


def read_or_refuse(path: Path) -> None:
    try:
        infos = read_header(path)
    except (CorruptModel, UnsupportedModel):
        return
    mapped = MappedTensors(path)
    for name, info in infos.items():
        assert read_tensor(path, info).tobytes() == mapped[name].tobytes()
