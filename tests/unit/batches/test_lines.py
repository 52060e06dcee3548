"""What of an input file is a request, and what is said of the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.batches import lines
from fledge.batches.lines import Check, LineReader, RawLine
from fledge.batches.records import BatchError
from tests.unit.batches.fakes import ENDPOINT, jsonl, request, requests


def read(path: Path, data: bytes, *, most_bytes: int = 10_000, limit: int = 100) -> list[RawLine]:
    path.write_bytes(data)
    reader = LineReader(path, limit)
    found = []
    while taken := reader.take(most_bytes):
        found += taken
    reader.close()
    return found


def check(*data: bytes) -> list[BatchError]:
    checked = Check(ENDPOINT)
    checked.add([RawLine(number, one) for number, one in enumerate(data, 1)])
    return checked.finish()


def told(*data: bytes) -> list[tuple[int | None, str, str | None]]:
    return [(one.line, one.code, one.param) for one in check(*data)]


def line(**changes: Any) -> bytes:
    return json.dumps(request("a", input="x") | changes).encode()


@given(data=st.lists(st.binary(max_size=12)), most_bytes=st.integers(1, 40))
def test_lines_are_the_same_however_many_are_read_at_once(
    tmp_path_factory: pytest.TempPathFactory, data: list[bytes], most_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "file"
    whole = b"\n".join(data)
    found = read(path, whole, most_bytes=most_bytes)
    expected = whole.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert [(one.number, (one.data or b"").rstrip(b"\n")) for one in found] == [
        (number, one) for number, one in enumerate(expected, 1) if one.strip()
    ]


def test_a_line_that_is_too_long_is_told_and_passed_over(tmp_path: Path) -> None:
    found = read(tmp_path / "file", b"a\n" + b"x" * 5000 + b"\nb\n" + b"y" * 101)
    assert found == [RawLine(1, b"a\n"), RawLine(2, None), RawLine(3, b"b\n"), RawLine(4, None)]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_longest_line_may_end_in_any_way(tmp_path: Path, end: bytes) -> None:
    (found,) = read(tmp_path / "file", b"x" * 100 + end)
    assert found.data is not None


def test_a_mark_of_utf_8_and_windows_line_ends_are_no_mistakes(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + line().replace(b" ", b"") + b"\r\n\r\n"
    checked = Check(ENDPOINT)
    checked.add(read(tmp_path / "file", data, limit=10_000))
    assert checked.finish() == []
    assert checked.total == 1


@pytest.mark.parametrize(
    ("data", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b"\x00\x00", "invalid_json_line", None),
        (b'{"custom_id": "\xff"}', "invalid_json_line", None),
        (b'{"custom_id": "\\ud800"}', "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        (line(custom_id=None), "missing_required_parameter", "custom_id"),
        (line(custom_id=""), "missing_required_parameter", "custom_id"),
        (line(custom_id=5), "invalid_type", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(method=None), "missing_required_parameter", "method"),
        (line(url="/v1/chat/completions"), "invalid_url", "url"),
        (line(url=["/v1/embeddings"]), "invalid_url", "url"),
        (line(body=None), "missing_required_parameter", "body"),
        (line(body=[1]), "invalid_type", "body"),
    ],
)
def test_a_line_that_is_no_request_is_told_with_its_number(
    data: bytes, code: str, param: str | None
) -> None:
    good = line(custom_id="b")
    assert told(good, data) == [(2, code, param)]


def test_the_second_of_two_equal_ids_is_told() -> None:
    assert told(line(), line(custom_id="b"), line()) == [(3, "duplicate_custom_id", "custom_id")]


def test_another_model_than_the_firsts_is_told() -> None:
    first, other = line(body={"model": "m"}), line(custom_id="b", body={})
    assert told(first, other) == [(2, "mismatched_model", "body.model")]
    assert told(line(body={}), line(custom_id="b", body={})) == []


def test_a_model_of_the_wrong_kind_is_the_requests_own_error() -> None:
    assert told(line(body={"model": 5}), line(custom_id="b", body={"model": ["x"]})) == []


def test_a_file_without_requests_is_told() -> None:
    assert told() == [(None, "empty_batch", None)]


def test_more_requests_than_may_be_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_REQUESTS", 3)
    assert told(*jsonl(requests(3)).splitlines()) == []
    assert told(*jsonl(requests(4)).splitlines()) == [(None, "too_many_tasks", None)]


def test_only_so_many_mistakes_are_told() -> None:
    assert len(told(*[b"no"] * 1000)) == 100
