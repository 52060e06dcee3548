"""The outermost layer: a request's id, its metrics, its line in the log and its trace."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fledge.telemetry.logs import log_access
from fledge.telemetry.metrics import Metrics
from fledge.telemetry.notes import Notes, open_notes, request_id
from fledge.telemetry.traces import Tracing

REQUEST_ID = "fledge.request_id"
"""The key of the request's id in an ASGI scope."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observe:
    """Gives each request an id, and counts, logs and traces it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.app = app
        self.metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI asks."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        notes = Notes(request_id(headers.get(b"x-request-id"), headers.get(b"x-amzn-trace-id")))
        scope[REQUEST_ID] = notes.id
        open_notes(notes)
        trace = None
        if self._tracing is not None:
            trace = self._tracing.begin(headers, started)
            notes.trace_id = trace.id
        own_header = (b"x-request-id", notes.id.encode("ascii"))

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                notes.status = message["status"]
                message["headers"] = [*message["headers"], own_header]
                if notes.status >= 400:
                    notes.error = _code(message["headers"])
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, send_observed)
        finally:
            self.metrics.in_flight.dec()
            notes.duration_s = time.perf_counter() - started
            # Templates and known methods only: a label of a client's choosing would grow for ever.
            notes.route = getattr(scope.get("route"), "path_format", "unmatched")
            notes.method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            self.metrics.observe_request(notes)
            log_access(notes)
            if trace is not None:
                trace.end(notes)


def _code(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The code of a failure, which every dialect names in the same header."""
    for name, value in headers:
        if name == b"x-fledge-error":
            return value.decode("ascii")
    return None
