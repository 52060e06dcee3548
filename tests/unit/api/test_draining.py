"""What requests see while the server stops."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fledge.api.app import create_app
from fledge.api.middleware.draining import Drain, RefuseWhileDraining
from fledge.api.middleware.observe import REQUEST_ID
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend


def client_of(drain: Drain, backend: FakeBackend) -> TestClient:
    settings = Settings()
    app = create_app(Service.over([backend], settings), settings, drain)
    return TestClient(app, base_url="http://127.0.0.1:8080")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (
            "/v1/embeddings",
            {
                "message": "the server is stopping",
                "type": "server_error",
                "param": None,
                "code": "stopping",
            },
        ),
        ("/models/fledge/fake", "the server is stopping"),
        ("/", "the server is stopping"),
        ("/no/such/path", "the server is stopping"),
    ],
)
def test_a_new_request_is_refused_in_the_dialect_of_its_path(path: str, error: object) -> None:
    drain, backend = Drain(), FakeBackend()
    client = client_of(drain, backend)
    body = {"input": "a", "inputs": "a"}
    assert "connection" not in client.post(path, json=body).headers
    count = len(backend.jobs)

    drain.has_begun = True

    response = client.post(path, json=body)
    assert response.status_code == 503
    assert response.json()["error"] == error
    assert response.headers["connection"] == "close"
    assert response.headers["retry-after"] == "1"
    assert response.headers["x-fledge-error"] == "stopping"
    assert response.headers["x-request-id"]
    assert len(backend.jobs) == count


def test_the_health_route_says_what_happens() -> None:
    response = client_of(Drain(has_begun=True), FakeBackend()).get("/health")
    assert (response.status_code, response.json()) == (503, {"status": "draining"})
    assert response.headers["connection"] == "close"


class Exchange:
    """One request through the middleware, over plain ASGI, whose body comes in three parts."""

    def __init__(self, app: ASGIApp, drain: Drain, *headers: tuple[bytes, bytes]) -> None:
        self.unread = [{"type": "http.request", "body": b"a", "more_body": n < 2} for n in range(3)]
        self.sent: list[Message] = []
        scope = {"type": "http", "path": "/", "headers": list(headers), REQUEST_ID: "id"}
        self.task = asyncio.ensure_future(
            RefuseWhileDraining(app, drain)(scope, self._receive, self._send)
        )

    @property
    def statuses(self) -> list[int]:
        return [message["status"] for message in self.sent if "status" in message]

    async def _receive(self) -> Message:
        return self.unread.pop(0)

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


class Waiting:
    """An application that answers when it is let go."""

    def __init__(self, *, begins: bool = False) -> None:
        self._begins = begins
        self.is_running = asyncio.Event()
        self.may_go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        self.is_running.set()
        await self.may_go.wait()
        await Response("done")(scope, receive, send)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


def test_the_body_is_read_to_its_end_before_the_refusal() -> None:
    async def scenario() -> None:
        exchange = Exchange(Waiting(), Drain(has_begun=True))
        await exchange.task
        assert exchange.unread == []
        assert exchange.statuses == [503]

    run(scenario)


def test_a_client_that_asks_before_it_sends_a_body_keeps_it() -> None:
    async def scenario() -> None:
        exchange = Exchange(Waiting(), Drain(has_begun=True), (b"expect", b"100-continue"))
        await exchange.task
        assert len(exchange.unread) == 3
        assert exchange.statuses == [503]

    run(scenario)


def test_a_running_request_is_not_touched() -> None:
    async def scenario() -> None:
        app, drain = Waiting(), Drain()
        exchange = Exchange(app, drain)
        await app.is_running.wait()
        drain.has_begun = True
        app.may_go.set()
        await exchange.task
        assert exchange.statuses == [200]

    run(scenario)


def test_a_request_that_is_cut_is_told() -> None:
    async def scenario() -> None:
        app, drain = Waiting(), Drain()
        exchange = Exchange(app, drain)
        await app.is_running.wait()
        drain.has_begun = drain.is_over = True
        exchange.task.cancel()
        await exchange.task
        assert exchange.statuses == [503]
        assert b"stopped before this request was answered" in exchange.sent[-1]["body"]

    run(scenario)


def test_an_answer_that_is_cut_in_its_middle_gets_no_second_beginning() -> None:
    async def scenario() -> None:
        app, drain = Waiting(begins=True), Drain()
        exchange = Exchange(app, drain)
        await app.is_running.wait()
        drain.has_begun = drain.is_over = True
        exchange.task.cancel()
        await exchange.task
        assert exchange.statuses == [200]
        assert len(exchange.sent) == 1

    run(scenario)


def test_another_cancellation_goes_on_as_usual() -> None:
    async def scenario() -> None:
        app = Waiting()
        exchange = Exchange(app, Drain(has_begun=False))
        await app.is_running.wait()
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.task
        assert exchange.sent == []

    run(scenario)
