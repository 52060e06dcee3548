"""What tests lack is skipped on people's machines, and a failure where all of it must be there."""

from pathlib import Path

import pytest

from tests.conftest import REQUIRE_ALL, require, require_folder, skip_or_fail


def test_what_is_missing_skips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(REQUIRE_ALL, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no such thing"):
        skip_or_fail("no such thing")
    with pytest.raises(pytest.skip.Exception, match="no such thing"):
        require("fledge.no_such_module", "no such thing")
    with pytest.raises(pytest.skip.Exception, match="no such thing"):
        require_folder(tmp_path / "none", "no such thing")


def test_what_is_missing_fails_where_all_is_required(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(REQUIRE_ALL, "1")
    with pytest.raises(pytest.fail.Exception, match="no such thing"):
        skip_or_fail("no such thing")
    with pytest.raises(pytest.fail.Exception, match="no such thing"):
        require("fledge.no_such_module", "no such thing")
    with pytest.raises(pytest.fail.Exception, match="no such thing"):
        require_folder(tmp_path / "none", "no such thing")


def test_what_is_there_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(REQUIRE_ALL, "1")
    assert require("fledge.types", "it is there").__name__ == "fledge.types"
    assert require_folder(tmp_path, "it is there") == tmp_path
