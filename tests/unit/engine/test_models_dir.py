"""The models of a folder, where not all that is in it can be read."""

from pathlib import Path

import pytest

from fledge.engine import sources
from tests.unit.engine.tiny_model import SAFE, write

TOO_LONG = "x" * 300


def test_a_sub_folder_that_cannot_be_read_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, last = write(tmp_path / "a", SAFE), write(tmp_path / "z", SAFE)
    (tmp_path / "m").symlink_to(TOO_LONG)  # the system refuses to look there, even for root
    for _ in range(3):
        assert sources.models_in(tmp_path) == [first, last]
    (warning,) = caplog.records
    assert str(tmp_path / "m") in warning.getMessage()


def test_without_the_folder_there_are_no_models_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert sources.models_in(tmp_path / "gone") == []
    assert len(caplog.records) == 1
