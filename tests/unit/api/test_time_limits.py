"""Work that nobody waits for any more: clients that left, and requests that took too long."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message

from fledge.api.app import create_app
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend
from fledge.types import EmbedJob, EmbedResult
from tests.unit.api.conftest import Serve


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - of any fake, which has no events
            await asyncio.sleep(0.002)


class Connection:
    """One request over plain ASGI, whose client can leave."""

    def __init__(self, app: Any, path: str, body: bytes) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self._body: Message | None = {"type": "http.request", "body": body, "more_body": False}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._body is not None:
            message, self._body = self._body, None
            return message
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


def run(scenario: Callable[[FakeBackend, Any], Awaitable[None]], **settings: Any) -> FakeBackend:
    backend = FakeBackend()
    chosen = Settings(**settings)
    app = create_app(Service.over([backend], chosen), chosen)

    async def main() -> None:
        await scenario(backend, app)

    asyncio.run(main())
    return backend


@pytest.mark.parametrize(
    ("path", "body", "jobs"),
    [
        ("/v1/embeddings", b'{"input": "a"}', 1),
        ("/", b'{"inputs": "a"}', 1),
        ("/rerank", b'{"query": "a", "documents": ["b"]}', 2),
    ],
)
def test_a_client_that_leaves_takes_its_work_out_of_the_queue(
    path: str, body: bytes, jobs: int
) -> None:
    async def scenario(backend: FakeBackend, app: Any) -> None:
        backend.hold()
        connection = Connection(app, path, body)
        await until(lambda: len(backend.jobs) == jobs)
        connection.left.set()
        await until(lambda: backend.cancelled == jobs)
        await connection.task
        assert connection.sent[0]["status"] == 499

    run(scenario)


def test_the_others_go_on_when_one_client_leaves() -> None:
    async def scenario(backend: FakeBackend, app: Any) -> None:
        backend.hold()
        first = Connection(app, "/", b'{"inputs": "a"}')
        second = Connection(app, "/", b'{"inputs": "b"}')
        await until(lambda: len(backend.jobs) == 2)
        first.left.set()
        await until(lambda: backend.cancelled)
        backend.release()
        await second.task
        assert second.sent[0]["status"] == 200

    assert run(scenario).cancelled == 1


def test_a_server_that_stops_cancels_as_usual() -> None:
    """A cancellation that is not ours must go on, or a shutdown would hang."""

    async def scenario(backend: FakeBackend, app: Any) -> None:
        backend.hold()
        connection = Connection(app, "/", b'{"inputs": "a"}')
        await until(lambda: backend.jobs)
        await asyncio.sleep(0.08)
        connection.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.task

    assert run(scenario).cancelled == 1


def test_a_slow_answer_still_arrives_after_the_watching_began(serve: Serve) -> None:
    assert serve(FakeBackend(delay_s=0.15)).post("/", json={"inputs": "a"}).status_code == 200


def test_the_backend_is_told_the_deadline(serve: Serve) -> None:
    backend = FakeBackend()
    serve(backend, request_timeout_s=50).post("/", json={"inputs": "a"})
    deadline = backend.jobs[0].deadline
    assert deadline is not None
    assert 45 < deadline - time.monotonic() <= 50


@pytest.mark.parametrize(("path", "field"), [("/", "inputs"), ("/v1/embeddings", "input")])
def test_a_request_that_takes_too_long_is_a_504(serve: Serve, path: str, field: str) -> None:
    """Not a 503, which one client repeats without a pause."""
    backend = FakeBackend()
    backend.hold()
    response = serve(backend, request_timeout_s=0.1).post(path, json={field: "a"})
    assert response.status_code == 504


def test_a_backend_that_forgets_the_deadline_is_torn_down() -> None:
    class Forgetful(FakeBackend):
        async def embed(self, job: EmbedJob) -> EmbedResult:
            self.jobs.append(job)
            await asyncio.sleep(60)
            raise AssertionError

    async def main() -> None:
        settings = Settings(request_timeout_s=0.1)
        connection = Connection(
            create_app(Service.over([Forgetful()], settings), settings), "/", b'{"inputs": "a"}'
        )
        await connection.task
        assert connection.sent[0]["status"] == 504
        assert b"no answer within 0.1 s" in connection.sent[1]["body"]

    asyncio.run(main())
