"""A load generator for `POST /v1/embeddings`, in a process of its own: `python -m benchmarks.load`.

It shares the machine with the server that it measures, so it does as little as it can: bodies are
built beforehand, one thread waits for all sockets at once, an answer is read by its
Content-Length and not parsed. Connections are kept alive; each client sends its next request when
its last one is answered. Its own CPU time is reported with every measurement.
"""

import json
import random
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from benchmarks.worker import serve

NEW_VECTORS: Mapping[str, str] = {"x-use-cache": "false"}
"""What keeps a server from answering with what it computed for the same text before."""

PAUSES_S = (0.005, 0.05)
"""Between queries beside a bulk job, at random: else each would meet the start of a batch."""

SILENCE_S = 60.0
"""Of all connections, after which the server is taken for dead."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request's place in its list, and when it was sent and answered."""

    index: int
    sent: float
    answered: float


@dataclass(slots=True)
class Client:
    """One keep-alive connection.

    Attributes:
        index: the request under way, None while there is none.
        left: bytes of the body that are still to come, None before its headers were read.
    """

    host: str
    port: int
    index: int | None = None
    sent: float = 0.0
    left: int | None = None
    head: bytes = b""
    connection: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.connection = socket.create_connection((self.host, self.port))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, index: int, request: bytes) -> None:
        """Begin a request. Bodies are small enough for the socket's buffer, or the wait is due."""
        self.index, self.left, self.head = index, None, b""
        self.sent = time.perf_counter()
        self.connection.sendall(request)

    def receive(self) -> Answered | None:
        """Take what has arrived; something once the answer is complete."""
        data = self.connection.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        if self.left is None:
            self.head += data
            head, end, body = self.head.partition(b"\r\n\r\n")
            if not end:
                return None
            self.left = _body_length(head) - len(body)
        else:
            self.left -= len(data)
        if self.left > 0 or self.index is None:
            return None
        done = Answered(self.index, self.sent, time.perf_counter())
        self.index = None
        return done


def _body_length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    if lines[0].split()[1] != b"200":
        raise RuntimeError(f"the server answered {lines[0].decode()}")
    for line in lines:
        if line.startswith(b"content-length:"):
            return int(line[15:])
    raise RuntimeError("an answer without Content-Length")


class Generator:
    """The handlers of the worker: connect to a server, keep requests, measure."""

    def __init__(self) -> None:
        self._host, self._port, self._model, self._headers = "", 0, "", ""
        self._requests: dict[str, list[bytes]] = {}

    def connect(
        self, host: str, port: int, model: str, headers: Mapping[str, str] = NEW_VECTORS
    ) -> None:
        """The server and the model that later requests are for, and what they say beside it."""
        self._host, self._port, self._model = host, port, model
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    def texts(self, name: str, texts: Sequence[str], per_request: int = 1) -> None:
        """Build requests of `per_request` texts each."""
        self._requests[name] = [
            self._request(texts[start : start + per_request])
            for start in range(0, len(texts), per_request)
        ]

    def _request(self, texts: Sequence[str]) -> bytes:
        body = {"model": self._model, "input": list(texts), "encoding_format": "base64"}
        data = json.dumps(body | {"truncate": True}).encode()
        head = (
            f"POST /v1/embeddings HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"{self._headers}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data

    def throughput(
        self, name: str, clients: int, seconds: float, spread_s: float = 0.0
    ) -> dict[str, Any]:
        """Send for so long, then wait for what is under way: all that is counted is answered.

        The clients begin one after another within `spread_s`.
        """
        requests = self._requests[name]
        places = cycle(range(len(requests)))
        with Crowd(self._clients(clients)) as crowd:
            start, cpu = time.perf_counter(), time.process_time()
            answers: list[Answered] = []

            def go_on(timeout: float) -> None:
                for client, answer in crowd.answers(timeout):
                    answers.append(answer)
                    if answer.answered - start < seconds:
                        client.send(place := next(places), requests[place])

            for number, client in enumerate(crowd.clients, 1):
                client.send(place := next(places), requests[place])
                due = start + spread_s * number / clients
                while spread_s and (left := due - time.perf_counter()) > 0:
                    go_on(left)
            while crowd.busy:
                go_on(SILENCE_S)
            elapsed = answers[-1].answered - start
        return {
            "indexes": [answer.index for answer in answers],
            "seconds": elapsed,
            "milliseconds": [(a.answered - a.sent) * 1000 for a in answers],
            "own_cpu_share": (time.process_time() - cpu) / elapsed,
        }

    def latency(self, name: str, seconds: float, least: int = 20) -> list[float]:
        """Milliseconds of one request after another, nothing else going on."""
        requests, samples = self._requests[name], list[float]()
        with Crowd(self._clients(1)) as crowd:
            client, end = crowd.clients[0], time.perf_counter() + seconds
            while len(samples) < least or time.perf_counter() < end:
                client.send(0, requests[len(samples) % len(requests)])
                samples.append(crowd.wait_for(client))
        return samples

    def beside(self, name: str, bulk: str, seconds: float) -> dict[str, Any]:
        """Milliseconds of single requests while another client sends bulk without a pause."""
        requests, bulks = self._requests[name], self._requests[bulk]
        pauses, samples, bulk_count = random.Random(0), list[float](), 0  # noqa: S311 - no secret

        with Crowd(self._clients(2)) as crowd:
            single, heavy = crowd.clients

            def again(client: Client) -> None:
                nonlocal bulk_count
                bulk_count += 1
                client.send(0, bulks[bulk_count % len(bulks)])

            again(heavy)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                crowd.rest(pauses.uniform(*PAUSES_S), again)
                single.send(0, requests[len(samples) % len(requests)])
                samples.append(crowd.wait_for(single, again))
        return {"milliseconds": samples, "bulk_requests": bulk_count}

    def _clients(self, count: int) -> list[Client]:
        return [Client(self._host, self._port) for _ in range(count)]


class Crowd:
    """Clients, and the one wait for all of them. Leaving it closes their connections."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self.clients = list(clients)
        self._selector = selectors.DefaultSelector()
        for client in self.clients:
            self._selector.register(client.connection, selectors.EVENT_READ, client)

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for client in self.clients:
            client.connection.close()

    @property
    def busy(self) -> bool:
        """Whether any client waits for an answer."""
        return any(client.index is not None for client in self.clients)

    def answers(self, timeout: float = SILENCE_S) -> list[tuple[Client, Answered]]:
        """The answers that were completed by the next bytes to arrive."""
        events = self._selector.select(timeout)
        if not events and timeout == SILENCE_S:
            raise TimeoutError("the server has been silent for a minute")
        done: list[tuple[Client, Answered]] = []
        for key, _ in events:
            client: Client = key.data
            if client.index is None:  # the server closes connections that have been idle
                self._selector.unregister(client.connection)
            elif (answer := client.receive()) is not None:
                done.append((client, answer))
        return done

    def rest(self, seconds: float, others: Callable[[Client], None]) -> None:
        """Let time pass, serving the others meanwhile."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            for client, _ in self.answers(left):
                others(client)

    def wait_for(self, one: Client, others: Callable[[Client], None] | None = None) -> float:
        """Milliseconds that this client's answer took, serving the others meanwhile."""
        while True:
            taken = None
            for client, answer in self.answers():
                if client is one:
                    taken = (answer.answered - answer.sent) * 1000
                elif others is not None:
                    others(client)
            if taken is not None:
                return taken


def main() -> None:
    generator = Generator()
    serve(
        {
            "connect": generator.connect,
            "texts": generator.texts,
            "throughput": generator.throughput,
            "latency": generator.latency,
            "beside": generator.beside,
        }
    )


if __name__ == "__main__":
    main()
