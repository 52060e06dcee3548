"""Files of torch.save: their tensors are found and read, and no container is believed."""

import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fledge.engine import torchfile
from fledge.engine.tensorfile import Array
from fledge.engine.torchfile import read_torch_header
from fledge.errors import CorruptModel, UnsupportedModel
from tests.unit.engine import torch_files as forge
from tests.unit.engine.torch_files import PLACE, X, one, read, read_or_refuse

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
SAVERS = {"archive": forge.save_torch, "legacy": forge.save_legacy}
Saver = Callable[[Path, Mapping[str, Array]], Path]

every_saver = pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)


@every_saver
@pytest.mark.parametrize("dtype", forge.STORAGES, ids=str)
def test_tensors_of_every_type_are_read(save: Saver, dtype: np.dtype[Any], tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    tensors = read(save(tmp_path / "t", {"x": array, "y": array[0].copy()}))
    assert list(tensors) == ["x", "y"]
    assert tensors["x"].dtype == dtype
    assert tensors["x"].tobytes() == array.tobytes()
    assert tensors["y"].tobytes() == array[0].tobytes()


@every_saver
def test_tensors_of_every_shape_are_read(save: Saver, tmp_path: Path) -> None:
    shapes = [(), (1,), (5,), (0,), (0, 768), (2, 3), (1, 6), (6, 1), (2, 1, 3), (2, 2, 2, 2)]
    arrays = {str(shape): np.ones(shape, np.float32) for shape in shapes}
    tensors = read(save(tmp_path / "t", arrays))
    assert {name: array.shape for name, array in tensors.items()} == {
        str(shape): shape for shape in shapes
    }


@every_saver
def test_tied_and_sliced_and_transposed_tensors_are_views_of_one_storage(
    save: Saver, tmp_path: Path
) -> None:
    table = np.arange(20, dtype=np.float32)
    whole = table.reshape(4, 5)
    arrays = {"whole": whole, "tied": whole, "rows": whole[1:3], "columns": whole[:, 2:]}
    arrays |= {"transposed": whole.T, "part": whole[1:, 1:3].T, "column": whole[:, 4]}
    assert all(array.base is table for array in arrays.values())
    path = save(tmp_path / "t", arrays)
    assert {k: v.tolist() for k, v in read(path).items()} == {
        k: v.tolist() for k, v in arrays.items()
    }
    header = read_torch_header(path)
    assert (header["whole"].start, header["whole"].strides) == (header["tied"].start, None)
    assert path.stat().st_size < 20_000


def test_an_axis_of_one_index_may_have_any_stride(tmp_path: Path) -> None:
    row = forge.tensor(forge.storage("0", "LongStorage", 6), (1, 6), (100, 1))
    path = forge.archive(tmp_path / "t", one(row), [np.arange(6).tobytes()])
    assert read_torch_header(path)["x"].strides is None
    assert read(path)["x"].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_parameter_is_its_tensor(tmp_path: Path) -> None:
    value = forge.group(X, b"\x88", forge.EMPTY_DICT)
    parameter = forge.name("torch._utils._rebuild_parameter") + value + forge.REDUCE
    forge.archive(tmp_path / "t", one(parameter), [struct.pack("<2f", 1, 2)])
    assert read(tmp_path / "t")["x"].tolist() == [1, 2]


def test_what_is_no_tensor_is_left_out(tmp_path: Path) -> None:
    others = b"".join(
        forge.text(key) + value
        for key, value in {
            "epoch": forge.number(3),
            "loss": b"G" + struct.pack(">d", 0.5),
            "notes": forge.EMPTY_LIST + forge.MARK + forge.text("a") + forge.APPENDS,
            "optimizer": forge.EMPTY_DICT,
            "done": b"\x88",
            "large": forge.number(2**40),
        }.items()
    )
    description = forge.EMPTY_DICT + forge.MARK + others + forge.text("x") + X + forge.SETITEMS
    forge.archive(tmp_path / "t", forge.pickled(description), [bytes(8)])
    assert list(read(tmp_path / "t")) == ["x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"N", "no dictionary"),
        (b"]", "no dictionary"),
        (X, "no dictionary"),
        (b"}", "no tensor in it"),
        (b"}" + forge.text("epoch") + forge.number(3) + forge.SETITEM, "no tensor in it"),
        (
            b"}" + forge.text("state_dict") + b"}" + forge.text("x") + X + b"ss",
            "under 'state_dict', as a training run's checkpoint",
        ),
    ],
)
def test_a_file_of_anything_but_tensors_by_name_says_what_it_is(
    content: bytes, message: str, tmp_path: Path
) -> None:
    forge.archive(tmp_path / "t", forge.pickled(content), [bytes(8)])
    with pytest.raises((CorruptModel, UnsupportedModel), match=message):
        read_torch_header(tmp_path / "t")


# --- the containers -------------------------------------------------------------------------------

GOOD = {"archive/data.pkl": one(), "archive/data/0": bytes(8)}

ENTRIES: Mapping[str, Mapping[str, bytes]] = {
    "no description": {"archive/data/0": bytes(8)},
    "two descriptions": {**GOOD, "other/data.pkl": one()},
    "no storage": {"archive/data.pkl": one()},
    "a storage of another archive": {"archive/data.pkl": one(), "other/data/0": bytes(8)},
    "a storage that is too short": {**GOOD, "archive/data/0": bytes(7)},
    "a storage that is empty": {**GOOD, "archive/data/0": b""},
    "TorchScript": {**GOOD, "archive/constants.pkl": b"", "archive/code/x.py": b"raise"},
    "big-endian": {**GOOD, "archive/byteorder": b"big"},
    "an order of bytes too long": {**GOOD, "archive/byteorder": b"little" * 9},
    "another archive": {"word/document.xml": b"<x/>"},
    "nothing": {},
}


@pytest.mark.parametrize("entries", ENTRIES.values(), ids=ENTRIES)
def test_an_archive_that_lacks_or_contradicts_something_is_refused(
    entries: Mapping[str, bytes], tmp_path: Path
) -> None:
    path = forge.zipped(tmp_path / "t", entries)
    with pytest.raises((CorruptModel, UnsupportedModel), match=str(path)):
        read_torch_header(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = forge.zipped(tmp_path / "t", GOOD, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedModel, match="compressed"):
        read_torch_header(path)


def test_an_archive_with_two_entries_of_one_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in GOOD.items():
            file.writestr(name, content)
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("archive/data/0", bytes(8))
    with pytest.raises(CorruptModel, match="two entries"):
        read_torch_header(path)


def listed(content: bytearray, name: bytes) -> int:
    """Where the list of entries speaks of one."""
    return content.rindex(b"PK\x01\x02", 0, content.rindex(name))


LIES: Mapping[str, tuple[int, bytes]] = {
    "another signature": (0, b"PK\x05\x06"),
    "encrypted": (8, b"\1\0"),
    "two sizes": (20, b"\7\0\0\0"),
    "a size beyond the end": (20, b"\0\0\0\x70" * 2),
    "a size that is elsewhere, and is not": (20, b"\xff" * 8),
    "a name beyond the list": (28, b"\xff\xff"),
    "an extra field beyond the list": (30, b"\xff\xff"),
    "a comment beyond the list": (32, b"\xff\xff"),
    "a place that is elsewhere, and is not": (42, b"\xff" * 4),
    "a place beyond the end": (42, b"\0\0\0\x70"),
    "a place of another record": (42, b"\1\0\0\0"),
    "a name that is no UTF-8": (46, b"\xff\xff"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_list_of_entries_that_lies_is_refused(lie: tuple[int, bytes], tmp_path: Path) -> None:
    path = forge.zipped(tmp_path / "t", GOOD)
    content = bytearray(path.read_bytes())
    start = listed(content, b"archive/data/0") + lie[0]
    content[start : start + len(lie[1])] = lie[1]
    path.write_bytes(content)
    with pytest.raises((CorruptModel, UnsupportedModel), match=str(path)):
        read_torch_header(path)


@pytest.mark.parametrize(
    ("before_end", "value"),
    [(2, b"\1"), (10, b"\xff\xff\xff\x7f"), (10, b"\x20"), (6, b"\xff\xff\xff\x7f"), (6, b"\1")],
    ids=["a comment", "too long", "cut off", "beyond the end", "elsewhere"],
)
def test_a_last_record_that_lies_is_refused(before_end: int, value: bytes, tmp_path: Path) -> None:
    path = forge.zipped(tmp_path / "t", GOOD)
    content = bytearray(path.read_bytes())
    start = len(content) - before_end
    content[start : start + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(CorruptModel, match=str(path)):
        read_torch_header(path)


def test_an_archive_of_many_gigabytes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wide fields, forced by Python's zipfile as soon as anything is beyond its limit."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    values = np.arange(50, dtype=np.float32)
    path = forge.save_torch(tmp_path / "t", {"x": values})
    content = path.read_bytes()
    assert b"PK\x06\x06" in content
    assert struct.pack("<L", 0xFFFFFFFF) in content[content.rindex(b"PK\x01\x02") :]
    assert read(path)["x"].tolist() == values.tolist()


@every_saver
def test_a_file_cut_off_at_any_byte_is_refused(save: Saver, tmp_path: Path) -> None:
    whole = save(tmp_path / "t", {"x": np.ones(4, np.float32)}).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises((CorruptModel, UnsupportedModel)):
            read_torch_header(tmp_path / "cut")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"PK",
        b"version https://git-lfs",
        b"<html>",
        bytes(50),
        b"PK\x05\x06" + bytes(18),
    ],
)
def test_a_file_of_another_kind_is_a_corrupt_model(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(CorruptModel, match="fetch it again"):
        read_torch_header(tmp_path / "t")


def test_a_missing_file_and_a_folder_are_corrupt_models(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CorruptModel, match="cannot be read"):
            read_torch_header(path)


PLAIN = one()[2:-1].replace(PLACE, forge.storage("0", "FloatStorage", 2, legacy=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"magic": 7}, "no checkpoint"),
        ({"little_endian": b"\x89"}, "byte order"),
        ({"little_endian": forge.number(1)}, "byte order"),
        ({"counts": [3]}, "has 3 items, not 2"),
        ({"counts": [2**63]}, "items, not 2"),
        ({"storages": [], "counts": []}, "is missing"),
        ({"storages": [bytes(8)] * 2, "counts": [2, 2]}, "nothing refers to"),
        ({"storages": [bytes(7)]}, "cut off"),
    ],
)
def test_a_legacy_file_that_contradicts_itself_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"storages": [bytes(8)], "counts": [2], **options}
    path = forge.legacy(tmp_path / "t", PLAIN, **values)
    with pytest.raises((CorruptModel, UnsupportedModel), match=message):
        read_torch_header(path)


def test_a_description_and_a_list_of_entries_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = forge.save_torch(tmp_path / "t", {"x": np.ones(4, np.float32)})
    monkeypatch.setattr(torchfile, "MAX_PICKLE_BYTES", 100)
    with pytest.raises(CorruptModel, match="more than the 100"):
        read_torch_header(path)
    monkeypatch.setattr(torchfile, "MAX_DIRECTORY_BYTES", 100)
    with pytest.raises(CorruptModel, match="list of entries has"):
        read_torch_header(path)


# --- bytes of any kind ----------------------------------------------------------------------------

SMALL: Mapping[str, Array] = {
    "x": np.arange(12, dtype=np.float32).reshape(3, 4),
    "y": np.arange(6, dtype=np.float16).reshape(2, 3).T,
}


@given(
    st.sampled_from(sorted(SAVERS)),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=4),
)
@settings(parent=SHARED_FOLDER, max_examples=150)
def test_bytes_changed_anywhere_give_tensors_or_an_error_of_ours(
    tmp_path: Path, saver: str, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(SAVERS[saver](tmp_path / "t", SMALL).read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    (tmp_path / "changed").write_bytes(content)
    read_or_refuse(tmp_path / "changed")


@given(
    st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02\x8a\n"]), st.binary(max_size=300)
)
@SHARED_FOLDER
def test_any_bytes_give_an_error_of_ours(tmp_path: Path, start: bytes, rest: bytes) -> None:
    (tmp_path / "t").write_bytes(start + rest)
    read_or_refuse(tmp_path / "t")
