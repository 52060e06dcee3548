"""Real servers on free ports, in threads, and what a test wants to know of their requests."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from fledge.api.app import create_app
from fledge.catalog.catalog import Catalog
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeDeployments
from fledge.types import ModelEntry

_PATIENCE_S = 20.0


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """The address of a server of the application, in a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived, at `time.monotonic()`; its headers by lower-case name."""

    method: str
    path: str
    headers: Mapping[str, str]
    at_s: float


class Recording:
    """An application that notes each request, and passes it to the one behind it.

    Attributes:
        seen: the requests, in the order of arrival.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._arrived = threading.Condition()
        self.seen: list[Seen] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            seen = Seen(scope["method"], scope["path"], headers, time.monotonic())
            with self._arrived:
                self.seen.append(seen)
                self._arrived.notify_all()
        await self._app(scope, receive, send)

    def wait_for(self, count: int) -> None:
        """Wait until that many requests have arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.seen) >= count, _PATIENCE_S)


@dataclass(frozen=True)
class Cold:
    """Where a server of a cold model is, what arrived there, and the model's deployment."""

    url: str
    recording: Recording
    deployments: FakeDeployments


@contextmanager
def serving_cold(settings: Settings | None = None) -> Iterator[Cold]:
    """A server of one model, `org/name`, that is cold; once asked for it loads until released."""
    settings = settings or Settings()
    deployments = FakeDeployments()
    deployments.hold()
    service = Service(Catalog([ModelEntry(id="org/name")]), deployments, settings)
    recording = Recording(create_app(service, settings))
    with serving(recording) as url:
        yield Cold(url, recording, deployments)
