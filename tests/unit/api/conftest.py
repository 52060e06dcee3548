"""Clients of an application: around a fake backend, or around a catalogue of models."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import pytest
from starlette.testclient import TestClient

from fledge.api.app import create_app
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend
from tests.unit.api.catalogue import Catalogue


class Serve(Protocol):
    """Serves a backend under some settings."""

    def __call__(self, backend: FakeBackend | None = None, **settings: Any) -> TestClient: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(backend: FakeBackend | None = None, **settings: Any) -> TestClient:
            chosen = Settings(**settings)
            app = create_app(Service.over([backend or FakeBackend()], chosen), chosen)
            client = TestClient(
                app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False
            )
            return stack.enter_context(client)

        yield start


@pytest.fixture
def place() -> Catalogue:
    return Catalogue()


@pytest.fixture
def client(place: Catalogue) -> TestClient:
    return place.client()
