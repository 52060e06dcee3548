"""Refusals by a layer, which nobody has read the body for yet."""

import asyncio
from contextlib import suppress

from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from fledge.api.errors import dialect_of_path, error_response, hold_back
from fledge.api.middleware.observe import REQUEST_ID
from fledge.errors import FledgeError

# More than any body that a server takes with its settings as they come; nothing of it is kept.
_MOST_BYTES = 64 * 2**20
_PATIENCE_S = 10.0


async def refuse(error: FledgeError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error, in the dialect of the path."""
    note_route(scope)
    await take_body(scope, receive)
    dialect = dialect_of_path(scope["path"])
    response = error_response(error, dialect, scope[REQUEST_ID])
    await hold_back(response, dialect)
    await response(scope, receive, send)


def note_route(scope: Scope) -> None:
    """Find the route that a request was for, which logs and metrics tell and nobody else needs."""
    for route in scope["app"].routes if "app" in scope else ():
        match, found = route.matches(scope)
        if match is Match.FULL:
            scope["route"] = found.get("route", route)
            return


async def take_body(scope: Scope, receive: Receive) -> None:
    """Read the body and forget it: with bytes unread, closing would reset the connection, and
    the client might never see its answer. One that is too large, or too slow, is left."""
    if any(name == b"expect" for name, _ in scope["headers"]):
        return  # it waits for leave to send one
    left = _MOST_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            while left > 0 and (message := await receive())["type"] == "http.request":
                if not message.get("more_body"):
                    return
                left -= len(message.get("body", b""))
