"""Servers that are told to stop: what becomes of requests, connections, and the exit code."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import require
from tests.tiny import save_bert

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30
OPENAI, HUGGING_FACE = "/v1/embeddings", "/"
CLIENTS = 16

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


class Server:
    """A running `tests.processes.stopping`; what was opened on it is closed by the stack."""

    def __init__(self, process: subprocess.Popen[str], log: Path, stack: ExitStack) -> None:
        self.process = process
        self._log = log
        self._stack = stack
        url = self._line().split(" on ")[1].split(",")[0].split(";")[0]
        self._line()  # a command to try
        self.address = urlsplit(url).hostname or "", urlsplit(url).port or 0

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def stop_and_wait_until_refused(self, number: int = signal.SIGTERM) -> None:
        self.stop(number)
        while True:
            try:
                socket.create_connection(self.address, timeout=PATIENCE_S).close()
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                pass  # begun at the very moment of the closing
            time.sleep(0.005)

    def release(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def expect(self, word: str) -> None:
        assert self._line() == f"{word}\n", self.log()

    def rest(self) -> str:
        """What it says until it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def log(self) -> str:
        return self._log.read_text()

    def connect(self, *, is_slow: bool = False) -> socket.socket:
        """A bare connection; a slow one takes but a few bytes at a time."""
        connection = self._stack.enter_context(socket.socket())
        connection.settimeout(PATIENCE_S)
        if is_slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(self.address)
        return connection

    def client(self) -> HTTPConnection:
        """A client that never opens a second connection by itself."""
        client = HTTPConnection(*self.address, timeout=PATIENCE_S)
        self._stack.callback(client.close)
        client.connect()
        client.auto_open = 0
        return client

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server, with what `tests.processes.stopping` takes and a time to drain."""
    with ExitStack() as stack:

        def start(*, drain_timeout_s: float = PATIENCE_S, **choices: Any) -> Server:
            log = tmp_path / "log"
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.processes.stopping", json.dumps(choices)],
                cwd=ROOT,
                env={**os.environ, "FLEDGE_DRAIN_TIMEOUT_S": str(drain_timeout_s)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(log.open("w")),
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return Server(process, log, stack)

        yield start


Serve = Callable[..., Server]


def ask(client: HTTPConnection, text: str = "a", path: str = OPENAI) -> None:
    body = json.dumps({"inputs" if path == HUGGING_FACE else "input": text})
    client.request("POST", path, body, {"Content-Type": "application/json"})


def answer(client: HTTPConnection) -> tuple[int, bool, Any]:
    """Status, whether the connection is to be closed, and body."""
    response = client.getresponse()
    return response.status, response.getheader("connection") == "close", json.load(response)


def request(text: str | list[str], *, more: bytes = b"") -> bytes:
    body = json.dumps({"input": text}).encode()
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" % len(body)
    return head + more + b"\r\n" + body


def read(connection: socket.socket) -> tuple[int, bool, Any]:
    """As `answer`, on a bare connection; not a byte more is read."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    status_line, *lines = head.decode().lower().splitlines()
    headers = dict(line.split(": ", 1) for line in lines if line)
    body = b""
    while len(body) < int(headers["content-length"]):
        body += connection.recv(int(headers["content-length"]) - len(body))
    return int(status_line.split()[1]), headers.get("connection") == "close", json.loads(body)


# --- under load


def test_under_load_every_request_is_answered(serve: Serve) -> None:
    server = serve()
    answered = threading.Semaphore(0)

    def talk(path: str) -> list[int]:
        client = server.client()
        statuses: list[int] = []
        is_last = False
        while not is_last:
            ask(client, path=path)
            status, is_last, _ = answer(client)
            statuses.append(status)
            answered.release()
        return statuses

    with ThreadPoolExecutor(CLIENTS) as threads:
        talks = [threads.submit(talk, (OPENAI, HUGGING_FACE)[n % 2]) for n in range(CLIENTS)]
        for _ in range(25 * CLIENTS):
            assert answered.acquire(timeout=PATIENCE_S)
        server.stop()
        said = [talk.result(PATIENCE_S) for talk in talks]

    assert server.wait() == 0
    assert {status for statuses in said for status in statuses[:-1]} == {200}
    assert {statuses[-1] for statuses in said} <= {200, 503}


def test_connections_that_wait_to_be_accepted_are_answered(serve: Serve) -> None:
    server = serve()
    busy = server.client()
    ask(busy, "block")
    server.expect("blocked")
    waiting = [server.client() for _ in range(100)]
    for client in waiting:
        ask(client)

    server.stop()
    server.release()

    assert answer(busy)[0] == 200
    said = [answer(client)[:2] for client in waiting]
    assert set(said) <= {(200, True), (200, False), (503, True)}
    assert server.wait() == 0


# --- while draining


def test_new_requests_are_refused_and_running_ones_end(serve: Serve) -> None:
    server = serve()
    running, openai, hugging_face, health = (server.client() for _ in range(4))
    for client in (openai, hugging_face, health):
        ask(client)
        assert answer(client)[:2] == (200, False)
    ask(running, "hold")
    server.expect("held")

    server.stop_and_wait_until_refused()

    ask(openai, path=OPENAI)
    status, is_closing, body = answer(openai)
    assert (status, is_closing, body["error"]["code"]) == (503, True, "stopping")
    ask(hugging_face, path=HUGGING_FACE)
    status, is_closing, body = answer(hugging_face)
    assert (status, is_closing, body["error"]) == (503, True, "the server is stopping")
    health.request("GET", "/health")
    assert answer(health) == (503, True, {"status": "draining"})
    server.release()
    assert answer(running)[:2] == (200, True)
    server.expect("closing")
    server.expect("closed")
    assert server.wait() == 0


def test_an_idle_connection_is_open_a_while_longer(serve: Serve) -> None:
    server = serve(LINGER_S=PATIENCE_S)
    client = server.client()
    ask(client)
    assert answer(client)[0] == 200

    server.stop_and_wait_until_refused()

    ask(client)
    assert answer(client)[:2] == (503, True)
    assert server.wait() == 0


def test_an_idle_connection_does_not_keep_the_server_for_long(serve: Serve) -> None:
    server = serve()
    never_used, used = server.connect(), server.connect()
    used.sendall(request("a"))
    assert read(used)[0] == 200

    server.stop()

    assert used.recv(1) == never_used.recv(1) == b""
    assert server.wait() == 0


def test_a_large_body_that_comes_too_late_is_refused_not_reset(serve: Serve) -> None:
    server = serve(LINGER_S=PATIENCE_S)
    client = server.client()

    server.stop_and_wait_until_refused()

    ask(client, "a" * 10_000_000)
    assert answer(client)[:2] == (503, True)
    assert server.wait() == 0


def test_a_request_that_is_being_received_is_answered(serve: Serve) -> None:
    server = serve()
    head, _, body = request("a", more=b"Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    connection = server.connect()
    connection.sendall(head + b"\r\n\r\n")
    assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"  # it is running

    server.stop_and_wait_until_refused()

    connection.sendall(body)
    assert read(connection)[:2] == (200, True)
    assert server.wait() == 0


def test_an_answer_that_is_being_sent_is_sent_to_its_end(serve: Serve) -> None:
    server = serve(dimension=1024)
    connection = server.connect(is_slow=True)
    connection.sendall(request(["a"] * 1000))
    assert connection.recv(1, socket.MSG_PEEK)

    server.stop_and_wait_until_refused()

    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
    assert len(read(connection)[2]["data"]) == 1000
    assert server.wait() == 0


def test_a_pipelined_request_is_refused_after_the_answer_to_the_one_before(serve: Serve) -> None:
    server = serve()
    connection = server.connect()
    connection.sendall(request("hold") + request("a"))
    server.expect("held")

    server.stop_and_wait_until_refused()
    server.release()

    assert read(connection)[:2] == (200, False)
    assert read(connection)[:2] == (503, True)
    assert connection.recv(1) == b""
    assert server.wait() == 0


# --- ends


@pytest.mark.parametrize("path", [OPENAI, HUGGING_FACE])
def test_a_request_that_does_not_end_is_cut_and_told(serve: Serve, path: str) -> None:
    server = serve(drain_timeout_s=0.3)
    client = server.client()
    ask(client, "hold", path)
    server.expect("held")

    server.stop()

    status, is_closing, body = answer(client)
    assert (status, is_closing) == (503, True)
    assert "stopped before this request was answered" in str(body["error"])
    server.expect("closing")
    assert server.wait() == 0
    assert "requests still running after 0.3 s, now cut: 1" in server.log()
    assert "Traceback" not in server.log()


def test_a_client_that_does_not_read_is_cut_too(serve: Serve) -> None:
    server = serve(drain_timeout_s=0.3, CUT_S=0.1, dimension=1024)
    connection = server.connect(is_slow=True)
    connection.sendall(request(["a"] * 1000))
    assert connection.recv(1)

    server.stop()

    assert server.wait() == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_at_once(serve: Serve, first: int, second: int, code: int) -> None:
    server = serve()
    client = server.client()
    ask(client, "hold")
    server.expect("held")

    server.stop_and_wait_until_refused(first)
    server.stop(second)

    assert server.wait() == code


@pytest.mark.parametrize("on_close", ["wait", "block"])
def test_a_second_signal_ends_the_unloading_too(serve: Serve, on_close: str) -> None:
    server = serve(on_close=on_close)
    server.stop()
    server.expect("closing")
    server.stop()
    assert server.wait() == 143


@pytest.mark.parametrize("on_close", ["wait", "block"])
def test_a_model_that_does_not_unload_is_left_behind(serve: Serve, on_close: str) -> None:
    server = serve(on_close=on_close, UNLOAD_S=0.1)
    server.stop()
    assert server.wait() == 0
    assert "the models are not unloaded after 0.1 s" in server.log()


def test_a_thread_that_never_ends_does_not_keep_the_process(serve: Serve) -> None:
    server = serve(EXIT_S=0.1)
    client = server.client()
    ask(client, "stick")
    assert answer(client)[0] == 200
    server.stop()
    assert server.wait() == 0
    assert "a thread is still busy" in server.log()


def test_a_server_that_is_building_a_model_stops_with_0_under_it(
    serve: Serve, tmp_path: Path
) -> None:
    require("openvino", "OpenVINO is not installed")
    folder = save_bert(tmp_path / "model")
    server = serve(drain_timeout_s=0.3, builds=str(folder))
    client = server.client()
    ask(client)
    server.expect("building")
    server.stop()
    assert server.wait() == 0, server.log()
    # native code does not survive what the interpreter does at its end: it never gets there
    assert server.rest() == ""
    assert "Traceback" not in server.log()
