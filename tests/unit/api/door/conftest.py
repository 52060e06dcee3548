"""A server that has a key, and a client that has none."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.keyed import Keyed


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Keyed]:
    with Keyed(tmp_path) as place:
        yield place


@pytest.fixture
def client(place: Keyed) -> Iterator[TestClient]:
    """A client without a key, of a server that has one."""
    place.key("another")
    with place.client() as client:
        yield client
