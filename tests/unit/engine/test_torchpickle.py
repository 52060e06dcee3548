"""The pickles in files of torch.save: nothing that they name is called, and nothing grows."""

import copyreg
import os
import pickle
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fledge.engine import torchpickle
from fledge.engine.torchfile import read_torch_header
from fledge.errors import CorruptModel, UnsupportedModel
from tests.unit.engine import torch_files as forge
from tests.unit.engine.torch_files import PLACE, X, one, read, read_or_refuse

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    """By Python's own pickler: plain values beside the tensor, which other protocols write anew."""
    plain = pickle.dumps({"a": [1, 2.5, "b", None, (True, -7)]}, protocol)
    reader = torchpickle.TorchPickle(tmp_path, plain)
    assert reader.load() == {"a": [1, 2.5, "b", None, (True, -7)]}
    assert reader.position == len(plain)


class Evil:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def evil_pickles() -> dict[str, bytes]:
    objects = {
        "system": Evil(os.system, ("touch hacked",)),
        "eval": Evil(eval, ("1/0",)),
        "getattr": Evil(getattr, ("x", "upper")),
        "state": Evil(dict, (), {"x": 1}),
        "items": Evil(list, (), None, iter([1, 2])),
        "set": {1, 2},
        "frozenset": frozenset({1}),
        "bytes": b"bytes",
        "an object": Path("x"),
        "a class": zipfile.ZipFile,
        "a reconstructor": copyreg._reconstructor,  # type: ignore[attr-defined] # as pickle does
    }
    return {
        f"{title}, protocol {protocol}": pickle.dumps({"x": value}, protocol)
        for title, value in objects.items()
        for protocol in range(6)
    }


EVIL = evil_pickles()


@pytest.mark.parametrize("pickled", EVIL.values(), ids=EVIL)
def test_whatever_a_pickle_names_is_refused_and_never_called(
    pickled: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    with pytest.raises(UnsupportedModel, match="safe_serialization=True"):
        read_torch_header(forge.archive(tmp_path / "t", pickled))
    (tmp_path / "bare").write_bytes(pickled)
    with pytest.raises((UnsupportedModel, CorruptModel)):
        read_torch_header(tmp_path / "bare")
    assert not (tmp_path / "hacked").exists()
    assert set(sys.modules) == before


def test_a_name_that_is_refused_is_in_the_message(tmp_path: Path) -> None:
    forge.archive(tmp_path / "t", one(forge.name("acme.models.Secret")))
    with pytest.raises(UnsupportedModel, match=r"acme\.models\.Secret.*runs no code"):
        read_torch_header(tmp_path / "t")


ORDERED_DICT = forge.name("collections.OrderedDict")
REBUILD = forge.name("torch._utils._rebuild_tensor_v2")
FULL = [PLACE, forge.number(0), forge.numbers([2]), forge.numbers([1]), forge.FALSE, b"}"]

TRICKS: Mapping[str, bytes] = {
    "state on a mark": ORDERED_DICT + b"}" + forge.BUILD,
    "state on a type": forge.name("torch.FloatStorage") + b"}" + forge.BUILD,
    "state on a tensor": X + b"}" + forge.BUILD,
    "state on a storage": PLACE + b"}" + forge.BUILD,
    "state on a list": b"]}" + forge.BUILD,
    "a call of a type": forge.name("torch.FloatStorage") + b")" + forge.REDUCE,
    "a call of a tensor": X + b")" + forge.REDUCE,
    "a call of a text": forge.text("x") + b")" + forge.REDUCE,
    "a call with a list": ORDERED_DICT + b"]" + forge.REDUCE,
    "an OrderedDict of items": ORDERED_DICT + b"]" + forge.TUPLE1 + forge.REDUCE,
    "a new object": ORDERED_DICT + b")\x81",
    "an object of old": b"(" + ORDERED_DICT + b"o",
    "an instance of old": b"(icollections\nOrderedDict\n",
    "an extension": b"\x82\x01",
    "a persistent text": b"Pstorage\n",
    "a persistent number": forge.number(3) + forge.PERSID,
    "a persistent list": b"]" + forge.PERSID,
    "a persistent module": forge.group(forge.text("module"), forge.NONE) + forge.PERSID,
    "a storage of a mark": forge.group(
        forge.text("storage"), ORDERED_DICT, forge.text("0"), forge.text("cpu"), forge.number(2)
    )
    + forge.PERSID,
    "a storage of a view": forge.group(
        forge.text("storage"),
        forge.name("torch.FloatStorage"),
        forge.text("0"),
        forge.text("cpu"),
        forge.number(2),
        forge.group(forge.text("1"), forge.number(0), forge.number(1)),
    )
    + forge.PERSID,
    "a storage of a negative size": forge.storage("0", "FloatStorage", -2),
    "a storage of a huge size": forge.storage("0", "FloatStorage", 2**200),
    "a storage of an unknown type": forge.storage("0", "QInt8Storage", 2),
    "a storage described twice": PLACE + forge.POP + forge.storage("0", "FloatStorage", 3),
    "an empty parameter": forge.name("torch._utils._rebuild_parameter") + b")" + forge.REDUCE,
    "a parameter of a text": forge.name("torch._utils._rebuild_parameter")
    + forge.text("x")
    + forge.TUPLE1
    + forge.REDUCE,
    "a tensor of nothing": REBUILD + b")" + forge.REDUCE,
    "a tensor of a text": REBUILD + forge.group(forge.text("0"), *FULL[1:]) + forge.REDUCE,
    "a tensor of a mark": REBUILD + forge.group(REBUILD, *FULL[1:]) + forge.REDUCE,
    "a tensor of a list of sizes": REBUILD
    + forge.group(*FULL[:2], b"](" + forge.number(2) + b"e", *FULL[3:])
    + forge.REDUCE,
    "a tensor that is negated": REBUILD
    + forge.group(*FULL, b"}" + forge.text("neg") + b"\x88s")
    + forge.REDUCE,
    "a tensor of too many fields": REBUILD
    + forge.group(*FULL, forge.NONE, forge.NONE)
    + forge.REDUCE,
    "a negative size": forge.tensor(PLACE, (-2,), (1,)),
    "a size that is a truth": REBUILD
    + forge.group(*FULL[:2], b"\x88" + forge.TUPLE1, *FULL[3:])
    + forge.REDUCE,
    "a negative stride": forge.tensor(PLACE, (2,), (-1,)),
    "a negative offset": forge.tensor(PLACE, (1,), (1,), -1),
    "an offset beyond the end": forge.tensor(PLACE, (1,), (1,), 2),
    "a huge offset": forge.tensor(PLACE, (1,), (1,), 2**61),
    "a huge size": forge.tensor(PLACE, (2**61,), (1,)),
    "a huge stride": forge.tensor(PLACE, (2,), (2**61,)),
    "sizes that no memory holds": forge.tensor(PLACE, (2**40, 2**40), (0, 0)),
    "sizes that no memory holds beside a 0": forge.tensor(PLACE, (0, 2**60), (1, 1)),
    "more sizes than strides": forge.tensor(PLACE, (1, 2), (1,)),
    "more axes than NumPy has": forge.tensor(PLACE, [1] * 100, [1] * 100),
    "a size more than there is": forge.tensor(PLACE, (3,), (1,)),
    "a key that is a tuple": b"}" + forge.EMPTY_TUPLE + forge.NONE + forge.SETITEM,
    "a key that is a tensor": b"}" + X + forge.NONE + forge.SETITEM,
    "an item of a tensor": X + forge.text("x") + forge.NONE + forge.SETITEM,
    "an item appended to a dictionary": b"}" + forge.NONE + b"a",
    "a key without a value": b"}(" + forge.text("x") + forge.SETITEMS,
    "a memo that nobody made": b"h\x05",
    "a stack that is empty": b"000000",
    "a mark that nobody made": b"t" * 5,
    "a text that is no UTF-8": b"X\x02\0\0\0\xff\xff",
    "a text beyond the end": b"X\xff\xff\xff\xff",
    "a name without an end": b"ccollections",
    "a name that is no UTF-8": b"c\xff\n\xff\n",
    "a name of numbers": forge.number(1) + forge.number(2) + b"\x93",
    "a name with dots": forge.text("os") + forge.text("path.join") + b"\x93",
    "an empty name": b"c\n\n",
}


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS)
def test_a_trick_is_an_error_that_names_the_file(trick: bytes, tmp_path: Path) -> None:
    forge.archive(tmp_path / "t", one(trick), [bytes(8)])
    forge.legacy(tmp_path / "l", one(trick)[2:-1], [bytes(8)], [2])
    for path in (tmp_path / "t", tmp_path / "l"):
        with pytest.raises((CorruptModel, UnsupportedModel), match=str(path)):
            read(path)


def test_no_trick_changes_what_the_next_file_gives(tmp_path: Path) -> None:
    good = forge.save_torch(tmp_path / "good", {"x": np.arange(3, dtype=np.float32)})
    for trick in TRICKS.values():
        forge.archive(tmp_path / "t", one(trick), [bytes(8)])
        with pytest.raises((CorruptModel, UnsupportedModel)):
            read(tmp_path / "t")
        assert read(good)["x"].tolist() == [0, 1, 2]


INSTRUCTIONS = st.sampled_from(
    [
        *torchpickle.INSTRUCTIONS,
        *(forge.name(name) for name in torchpickle.NAMES),
        *(forge.text("x"), forge.number(2), forge.numbers([2]), PLACE, X, REBUILD, b"q\0h\0"),
        *(forge.group(*FULL), forge.REDUCE, forge.SETITEM, b"\x81", b"i", b"o", b"\x82\x01"),
    ]
)


@given(st.lists(INSTRUCTIONS | st.binary(max_size=3), max_size=30))
@settings(parent=SHARED_FOLDER, max_examples=150)
def test_any_instructions_give_tensors_or_an_error_of_ours(
    tmp_path: Path, instructions: list[bytes]
) -> None:
    description = forge.pickled(b"".join(instructions))
    read_or_refuse(forge.archive(tmp_path / "t", description, [bytes(8)]))
    read_or_refuse(forge.archive(tmp_path / "t", one(b"".join(instructions)), [bytes(8)]))


def test_a_name_as_long_as_a_book_is_refused(tmp_path: Path) -> None:
    entry = forge.EMPTY_DICT + forge.text("x" * 70_000) + X + forge.SETITEM
    path = forge.archive(tmp_path / "m.bin", forge.pickled(entry))
    with pytest.raises(CorruptModel, match="a text of 70000 bytes"):
        read(path)
