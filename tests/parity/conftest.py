"""Fixtures of the parity suite: a place for checkpoints, the engine, and the comparison."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.engine import Engine


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the factories put their folders; equal recipes share one."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The engine, with a weight cache of its own."""
    engine = Engine(tmp_path_factory.mktemp("weights"))
    yield engine
    engine.close()
