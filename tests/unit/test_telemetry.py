"""Ids, logs and metrics."""

import logging
import re
from collections.abc import Iterator

import pytest

from fledge.telemetry import configure_logging, request_id


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root, access = logging.getLogger(), logging.getLogger("uvicorn.access")
    before = root.level, root.handlers[:], access.disabled
    yield root
    root.level, root.handlers[:], access.disabled = before


def test_the_first_sane_id_wins() -> None:
    assert request_id(None, b"with space", b"second-id", b"third") == "second-id"


def test_ids_are_made_where_none_is_given() -> None:
    made = {request_id(None, b"") for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_logs_go_to_stderr_from_the_level_on(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("warning")
    logging.getLogger("fledge.test").info("too quiet")
    logging.getLogger("fledge.test").warning("loud")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "WARNING fledge.test: loud" in captured.err
    assert "too quiet" not in captured.err


def test_the_servers_own_access_log_is_off(root_logger: logging.Logger) -> None:
    configure_logging("debug")
    assert logging.getLogger("uvicorn.access").disabled
