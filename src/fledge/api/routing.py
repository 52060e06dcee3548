"""Routes whose handlers take the request as it is, and the answers when no route fits."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from fledge.api.errors import Dialect, Failure, dialect_of_path, error_response, failure_response
from fledge.api.middleware.observe import REQUEST_ID
from fledge.errors import FledgeError, ModelLoading

Endpoint: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

_ERROR_TYPES = {404: "NotFound", 405: "MethodNotAllowed"}


class LeanRoute(APIRoute):
    """A documented route without FastAPI's own parsing: the handler is called with the request.

    Dialects parse bodies themselves, for the sake of their own error bodies and of speed;
    `openapi_extra` documents them.
    """

    def get_route_handler(self) -> Endpoint:
        """The handler itself."""
        return self.endpoint


def add_routes(
    app: FastAPI,
    method: str,
    paths: Sequence[str],
    endpoint: Endpoint,
    *,
    tag: str | None = None,
    openapi: dict[str, Any] | None = None,
) -> None:
    """One endpoint under several paths, of which the first is documented, if it has a tag."""
    for index, path in enumerate(paths):
        app.router.add_api_route(
            path,
            endpoint,
            methods=[method],
            include_in_schema=index == 0 and tag is not None,
            tags=[tag] if tag else None,
            openapi_extra=openapi,
            route_class_override=LeanRoute,
        )
        if method == "GET":
            app.router.add_api_route(
                path,
                endpoint,
                methods=["HEAD"],
                include_in_schema=False,
                route_class_override=LeanRoute,
            )


def speaking(dialect: Dialect, endpoint: Endpoint) -> Endpoint:
    """The endpoint, with its errors told in the dialect."""

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ModelLoading as error:
            # Held already, for as long as the client or the settings said.
            return error_response(error, dialect, request.scope[REQUEST_ID])
        except FledgeError as error:
            response = error_response(error, dialect, request.scope[REQUEST_ID])
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            await asyncio.sleep(dialect.hold_503_s)
        return response

    return answer


async def answer_unrouted(request: Request, error: Exception) -> Response:
    """The answer when no route has the path, or none of them the method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    dialect = dialect_of_path(request.url.path)
    phrase = HTTPStatus(status).phrase.lower()
    failure = Failure(
        status=status,
        code=phrase.replace(" ", "_"),
        error_type=_ERROR_TYPES.get(status, "Validation"),
        message=f"{phrase}: {request.method} {request.url.path[:200]}; /docs lists the routes",
    )
    allowed = _methods_of(request) if status == HTTPStatus.METHOD_NOT_ALLOWED else ()
    return failure_response(failure, dialect, {"allow": ", ".join(allowed)} if allowed else None)


def _methods_of(request: Request) -> list[str]:
    """Every method that some route of this path takes."""
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches(dict(request.scope))[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods)
