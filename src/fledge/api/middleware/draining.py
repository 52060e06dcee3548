"""What requests see of a server that stops: new ones are refused, running ones end or are cut.

Who stops the server turns the two switches of `Drain`; the sockets and the time are its affair.
"""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fledge.api.errors import dialect_of_path, error_response
from fledge.api.middleware.observe import REQUEST_ID
from fledge.api.middleware.refusing import note_route, take_body
from fledge.api.middleware.sending import Sending
from fledge.api.rendering import JsonResponse, dump
from fledge.errors import Stopping

# Whoever was told that this process is not even live would kill it too early.
_HEALTH = {
    "/health": (HTTPStatus.SERVICE_UNAVAILABLE, {"status": "draining"}),
    "/health/ready": (
        HTTPStatus.SERVICE_UNAVAILABLE,
        {"status": "draining", "reasons": {"server": "it is being stopped"}},
    ),
    "/health/live": (HTTPStatus.OK, {"status": "ok"}),
}


@dataclass(slots=True)
class Drain:
    """How far stopping has come.

    Attributes:
        has_begun: requests that begin from now on are refused.
        is_over: what is still running is cancelled, and its clients are told so.
    """

    has_begun: bool = False
    is_over: bool = False


class RefuseWhileDraining:
    """Answers 503 and `Connection: close`, in the dialect of the path, while the server stops."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self.app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI asks."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sending = Sending(send)
        try:
            if self._drain.has_begun:
                note_route(scope)
                await take_body(scope, receive)
                await _refusal(scope, "the server is stopping")(scope, receive, sending)
            else:
                await self.app(scope, receive, sending)
        except asyncio.CancelledError:
            if not self._drain.is_over:
                raise
            # Of an answer that has begun, the rest is missing: all that is left is to hang up.
            if not sending.has_started:
                message = "the server stopped before this request was answered"
                await _refusal(scope, message)(scope, receive, send)


def _refusal(scope: Scope, message: str) -> Response:
    response: Response
    if (health := _HEALTH.get(scope["path"])) is not None:
        status, body = health
        response = JsonResponse(dump(body), status_code=status)
    else:
        dialect = dialect_of_path(scope["path"])
        response = error_response(Stopping(message), dialect, scope[REQUEST_ID])
    response.headers["connection"] = "close"
    return response
