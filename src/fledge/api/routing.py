"""Routes whose handlers take the request as it is, and the answers when no route fits."""

from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import FastAPI
from fastapi.routing import APIRoute, APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from fledge.api.bodies import ClientLeft
from fledge.api.errors import (
    Dialect,
    Failure,
    dialect_of_path,
    error_response,
    failure_response,
    hold_back,
)
from fledge.api.middleware.observe import REQUEST_ID
from fledge.errors import FledgeError, ModelLoading

Endpoint: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

# What others log for a client that left; it is never seen by anybody else.
_CLIENT_LEFT_STATUS = 499
_ERROR_TYPES = {404: "NotFound", 405: "MethodNotAllowed"}


class LeanRoute(APIRoute):
    """A documented route without FastAPI's own parsing: the handler is called with the request.

    Dialects parse bodies themselves, for the sake of their own error bodies and of speed;
    `openapi_extra` documents them.
    """

    def __init__(self, path: str, endpoint: Endpoint, **arguments: Any) -> None:
        super().__init__(path, endpoint, **arguments)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        # In place of the stacks for dependencies and uploads, which no handler has.
        self.app = app

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or say which methods the path takes."""
        if scope["method"] in (self.methods or ()):
            await self.app(scope, receive, send)
        else:
            await answer_unrouted(scope, receive, send)


class LeanApp(FastAPI):
    """FastAPI for its routes and their document, in our layers alone.

    Its own ones are for dependencies, debugging pages and exceptions by class, none of which there
    are here, and take as long as the answer to a request that came before.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """Our layers, around the routes."""
        self.router.default = answer_unrouted
        app: ASGIApp = Shortcut(self.router)
        for layer in reversed(self.user_middleware):
            app = layer.cls(app, *layer.args, **layer.kwargs)
        return app


class Shortcut:
    """The routes, of which those without parameters are found by a look-up.

    A router tries its routes one after another, by regular expressions.
    """

    def __init__(self, router: APIRouter) -> None:
        self._router = router
        self._routes: dict[tuple[str, str], LeanRoute] = {}
        for route in router.routes:
            if isinstance(route, LeanRoute) and not route.param_convertors:
                for method in route.methods or ():
                    self._routes.setdefault((method, route.path), route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI asks."""
        route = None
        if scope["type"] == "http":
            route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            await self._router(scope, receive, send)
        else:
            scope["route"], scope["path_params"] = route, {}
            await route.app(scope, receive, send)


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
        await hold_back(response, dialect)
        return response

    return answer


def unless_client_leaves(endpoint: Endpoint) -> Endpoint:
    """The endpoint, for bodies whose sender may go away."""

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientLeft:
            return Response(status_code=_CLIENT_LEFT_STATUS)

    return answer


async def answer_unrouted(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer where no route has the path, or none of them the method."""
    if scope["type"] != "http":
        return
    request = Request(scope)
    methods = _methods_of(request)
    status = HTTPStatus.METHOD_NOT_ALLOWED if methods else HTTPStatus.NOT_FOUND
    phrase = status.phrase.lower()
    failure = Failure(
        status=status,
        code=phrase.replace(" ", "_"),
        error_type=_ERROR_TYPES[status],
        message=f"{phrase}: {request.method} {request.url.path[:200]}; /docs lists the routes",
    )
    allow = {"allow": ", ".join(methods)} if methods else None
    response = failure_response(failure, dialect_of_path(request.url.path), allow)
    await response(scope, receive, send)


def _methods_of(request: Request) -> list[str]:
    """Every method that some route of this path takes."""
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches(dict(request.scope))[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods)
