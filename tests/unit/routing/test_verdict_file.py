"""Verdicts outlive a restart, and damage to their file does not matter."""

import json
from pathlib import Path

import pytest

from fledge.routing.verdict_file import VerdictFile
from tests.unit.routing.spaces import a_verdict


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"version": 2, "verdicts": [{}]}', b'{"version": 1}', b"\xff",
     b'{"version": 1, "verdicts": [{"model": "a"}]}', b"[" * 100_000,
     b'{"version": 1, "verdicts": 5}'],
    ids=lambda content: repr(content[:36]),
)  # fmt: skip
def test_a_damaged_file_counts_as_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spaces.json"
    path.write_bytes(content)
    file = VerdictFile(path)
    assert file.read() == {}
    verdicts = {("m", "local", "nebius"): a_verdict()}
    file.write(verdicts)
    assert file.read() == verdicts
    assert json.loads(path.read_bytes())["version"] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("meaning", None), ("meaning", {}), ("marks", ["a"]), ("dimensions", 5), ("tokens", "x")],
)
def test_a_damaged_entry_counts_as_a_damaged_file(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "spaces.json"
    VerdictFile(path).write({("m", "local", "nebius"): a_verdict()})
    content = json.loads(path.read_bytes())
    content["verdicts"][0][name] = value
    path.write_text(json.dumps(content))
    assert VerdictFile(path).read() == {}


def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = VerdictFile(tmp_path / "file" / "spaces.json")
    file.write({})
    assert file.read() == {}
