"""A real server on a free port, in a thread, with the fake backend behind it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvicorn

from fledge.api.app import create_app
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, fake_card


@dataclass(frozen=True)
class Live:
    """Where the server is, and what is behind it."""

    url: str
    backend: FakeBackend


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    backend, settings = FakeBackend(fake_card(id="org/name")), Settings()
    config = uvicorn.Config(
        create_app(Service.over([backend], settings), settings), port=0, log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Live(f"http://127.0.0.1:{port}", backend)
    server.should_exit = True
    thread.join()


@pytest.fixture
def live(server: Live) -> Iterator[Live]:
    yield server
    server.backend.release()
    server.backend.error = None
    server.backend.jobs.clear()
    server.backend.cancelled = 0
