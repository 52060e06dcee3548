"""Results that grow, and what is left of them when the process dies at any byte."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.batches.results import Reply, Results
from fledge.errors import StorageUnavailable

GOOD = Reply(200, b'{"object":"list","data":[]}', tokens=7)
BAD = Reply(400, b'{"error":{"message":"m"}}')


def opened(folder: Path) -> Results:
    return Results(folder / "output", folder / "errors")


def test_a_line_is_what_openai_writes(tmp_path: Path) -> None:
    results = opened(tmp_path)
    results.add(1, 'a "quoted" \u2028 ü', GOOD)
    results.add(2, "b", BAD)
    results.add_unanswered(3, "c", {"code": "batch_expired", "message": "late"})
    results.close()
    (good,) = map(json.loads, (tmp_path / "output").read_bytes().splitlines())
    assert good.keys() == {"id", "custom_id", "response", "error"}
    assert good["id"].startswith("batch_req_")
    assert good["custom_id"] == 'a "quoted" \u2028 ü'
    assert good["response"].pop("request_id")
    assert good["response"] == {"status_code": 200, "body": {"object": "list", "data": []}}
    bad, late = map(json.loads, (tmp_path / "errors").read_bytes().splitlines())
    assert bad["response"]["status_code"] == 400
    assert bad["error"] is late["response"] is None
    assert late["error"] == {"code": "batch_expired", "message": "late"}


def test_what_is_done_is_known_from_the_files_alone(tmp_path: Path) -> None:
    results = opened(tmp_path)
    for number in (5, 3, 9):
        results.add(number, str(number), GOOD)
    results.add(7, "7", BAD)
    again = opened(tmp_path)  # of a process that was killed
    assert again.done == {3, 5, 7, 9}
    assert (again.completed, again.failed, again.tokens) == (3, 1, 21)
    assert again.has_output
    assert again.has_errors
    results.close()
    again.close()


@settings(max_examples=50)
@given(cut=st.integers(0, 600), junk=st.binary(max_size=20))
def test_a_file_that_ends_anywhere_goes_on_with_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    folder = tmp_path_factory.mktemp("results")
    results = opened(folder)
    for number in range(4):
        results.add(number, str(number), GOOD)
    results.close()
    whole = (folder / "output").read_bytes()
    (folder / "output").write_bytes(whole[:cut] + junk.replace(b"\n", b""))
    again = opened(folder)
    left = [number for number in range(4) if number not in again.done]
    assert len(again.done) == whole[:cut].count(b"\n")
    for number in left:
        again.add(number, str(number), GOOD)
    again.close()
    lines = [json.loads(line) for line in (folder / "output").read_bytes().splitlines()]
    assert [line["custom_id"] for line in lines] == list("0123")


def test_a_line_that_the_disk_did_not_take_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = opened(tmp_path)
    results.add(1, "1", GOOD)
    write = os.write

    def fail(descriptor: int, data: memoryview) -> int:
        write(descriptor, data[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fledge.batches.results.os.write", fail)
        with pytest.raises(StorageUnavailable):
            results.add(2, "2", GOOD)
    assert results.done == {1}
    results.add(2, "2", GOOD)
    results.close()
    lines = (tmp_path / "output").read_bytes().splitlines()
    assert [json.loads(line)["custom_id"] for line in lines] == ["1", "2"]


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
