"""A collector of OpenTelemetry on this machine, and its ways to be out of order."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_S = 30


class Collector:
    """Takes spans over HTTP.

    Attributes:
        url: where it listens.
        paths: of every request.
        headers: of every request.
        resources: what senders say of themselves.
        status: what it answers.
        bodies: every request as it came.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.resources: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.status = 200
        self.asked = threading.Event()
        self._spans: Queue[Span] = Queue()
        self._may_go = threading.Event()
        self._may_go.set()

    def hold(self) -> None:
        """Take requests and answer none."""
        self._may_go.clear()

    def release(self) -> None:
        self._may_go.set()

    def take(self, count: int) -> list[Span]:
        """The next spans that arrive."""
        return [self._spans.get(timeout=WAIT_S) for _ in range(count)]

    def rest(self) -> list[Span]:
        """What has arrived besides."""
        return [self._spans.get_nowait() for _ in range(self._spans.qsize())]

    def receive(self, path: str, headers: dict[str, str], body: bytes) -> int:
        self.paths.append(path)
        self.headers.append(headers)
        self.bodies.append(body)
        self.asked.set()
        self._may_go.wait(WAIT_S)
        if self.status == 200:
            for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(values(resource_spans.resource.attributes))
                for scope_spans in resource_spans.scope_spans:
                    for span in scope_spans.spans:
                        self._spans.put(span)
        return self.status


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = collector.receive(self.path, dict(self.headers.items()), body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: Any) -> None:
            """Not on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        collector = Collector(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield collector
        finally:
            collector.release()
            server.shutdown()
            thread.join()
