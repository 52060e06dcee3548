"""The outermost layer: a request's id, its metrics and its line in the log."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fledge.telemetry import Metrics, request_id

_log = logging.getLogger("fledge.access")

REQUEST_ID = "fledge.request_id"
"""The key of the request's id in an ASGI scope."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observe:
    """Gives each request an id, and counts and logs it: method, route, status and time."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI asks."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        scope[REQUEST_ID] = request_id(
            headers.get(b"x-request-id"), headers.get(b"x-amzn-trace-id")
        )
        status = 500
        own_header = (b"x-request-id", scope[REQUEST_ID].encode("ascii"))

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], own_header]
                self._count_error(message["headers"])
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, send_observed)
        finally:
            self.metrics.in_flight.dec()
            self._note(scope, status, time.perf_counter() - started)

    def _count_error(self, headers: list[tuple[bytes, bytes]]) -> None:
        for name, value in headers:
            if name == b"x-fledge-error":
                self.metrics.observe_error(value.decode("ascii"))

    def _note(self, scope: Scope, status: int, duration_s: float) -> None:
        # Templates and known methods only: a label of a client's choosing would grow for ever.
        route = getattr(scope.get("route"), "path_format", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self.metrics.observe_request(route, method, status, duration_s)
        level = logging.DEBUG if status < 400 else logging.INFO
        if _log.isEnabledFor(level):
            _log.log(
                level,
                "%s %s %d %.1f ms (request %s)",
                method,
                route,
                status,
                duration_s * 1000,
                scope[REQUEST_ID],
            )
