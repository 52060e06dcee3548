"""Descriptions of torch's files that would take all memory or time: slow, so not a unit test."""

import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

from fledge.engine.torchfile import read_torch_header
from fledge.errors import CorruptModel, UnsupportedModel
from tests.unit.engine import torch_files as forge
from tests.unit.engine.torch_files import one

HUGE: Mapping[str, bytes] = {
    "a memo of two thousand million": forge.NONE + b"r\xff\xff\xff\x7f",
    "a million tuples in each other": b")" + forge.TUPLE1 * 1_040_000,
    "a million tuples in each other as a key": b"})"
    + forge.TUPLE1 * 1_040_000
    + forge.NONE
    + forge.SETITEM,
    "a million lists in each other": b"]" * 1_000_000 + b"a" * 40_000,
    "a million marks": b"(" * 1_040_000,
    "a million dictionaries": b"}" * 1_040_000,
    "two to the thousand tuples": b")" + b"q\0h\0\x86" * 1000,
    "a list in itself": b"]q\0h\0a",
    "a dictionary in itself": b"}q\0" + forge.text("x") + b"h\0s",
    "more steps than any model's": b"N0" * 1_000_000,
    "more bytes than any model's": forge.text("x" * 2**24),
    "a frame of all memory": b"\x95" + b"\xff" * 8,
    "a text of all memory": b"\x8d" + b"\xff" * 8,
    "a number of 255 bytes": b"\x8a\xff" + b"\x7f" * 255,
}


@pytest.mark.timeout(60)  # the slowest takes two seconds; without its bound, for ever
@pytest.mark.parametrize("value", HUGE.values(), ids=HUGE)
def test_a_pickle_that_would_take_all_memory_or_time_takes_little(
    value: bytes, tmp_path: Path
) -> None:
    path = forge.archive(tmp_path / "t", one(value))
    with pytest.raises((CorruptModel, UnsupportedModel)):
        read_torch_header(path)


def test_a_million_of_anything_takes_less_than_some_hundred_megabytes(tmp_path: Path) -> None:
    path = forge.archive(tmp_path / "t", one(HUGE["a million dictionaries"]))
    tracemalloc.start()
    with pytest.raises(CorruptModel):
        read_torch_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * 2**20
