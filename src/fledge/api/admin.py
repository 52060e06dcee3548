"""Admin routes: load, unload, pin and unpin a model. Answers are entries of `GET /v1/models`."""

import asyncio
from http import HTTPStatus
from urllib.parse import urlsplit

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from fledge.api.models import Models
from fledge.api.queries import Flag, Query, parse_query
from fledge.api.rendering import JsonResponse, dump
from fledge.catalog.listed import Listed
from fledge.errors import NotAllowed
from fledge.names import is_loopback, quoted
from fledge.service import Service
from fledge.settings import Settings

# What proxies add of their own accord, or where they are told to by the usual recipes.
_ADDED_BY_PROXIES = ("forwarded", "via", "x-real-ip")
_PREFIX_OF_PROXIES = "x-forwarded-"


class LoadQuery(Query):
    """The parameters of `POST /admin/models/{id}/load`."""

    wait: Flag = Field(
        None, description="`false`: answer at once, with a 202 while the model is loading."
    )


class AdminQuery(Query):
    """The other routes have no parameters."""


class Admin:
    """What changes which models are loaded.

    No key tells an admin from anybody else yet, so these routes are for callers on this machine,
    as far as that can be seen. Where a proxy on it hides what it is, it cannot: there the setting
    `admin_routes` switches them off.
    """

    def __init__(self, service: Service, settings: Settings, models: Models) -> None:
        self._service = service
        self._settings = settings
        self._models = models
        # The event loop keeps no task alive by itself.
        self._loads: set[asyncio.Task[Listed]] = set()

    async def load(self, request: Request) -> Response:
        """Load a model; the answer comes when it is warm, unless `wait` is false."""
        self._check(request)
        query = parse_query(LoadQuery, request)
        notes = query.notes(self._settings)
        name = request.path_params["model_id"]
        if query.wait is not False:
            return self._answer(await self._service.load(name), notes)
        task = asyncio.create_task(self._service.load(name))
        await asyncio.sleep(0)  # for one step, after which the model is loading, or refused
        if task.done():
            return self._answer(await task, notes)
        self._loads.add(task)
        task.add_done_callback(self._forget)
        return self._answer(self._service.model(name), notes)

    async def unload(self, request: Request) -> Response:
        """Let a model's requests end, then give its memory back."""
        notes = self._checked(request)
        return self._answer(await self._service.unload(request.path_params["model_id"]), notes)

    async def pin(self, request: Request) -> Response:
        """Keep a model from leaving by itself once it is loaded."""
        return self._pinned(request, is_pinned=True)

    async def unpin(self, request: Request) -> Response:
        """Let it leave by itself again."""
        return self._pinned(request, is_pinned=False)

    def _pinned(self, request: Request, *, is_pinned: bool) -> Response:
        notes = self._checked(request)
        return self._answer(
            self._service.pin(request.path_params["model_id"], is_pinned=is_pinned), notes
        )

    def _answer(self, one: Listed, notes: dict[str, str]) -> Response:
        status = HTTPStatus.ACCEPTED if one.status.state == "loading" else HTTPStatus.OK
        return JsonResponse(dump(self._models.described(one)), status_code=status, headers=notes)

    def _forget(self, task: asyncio.Task[Listed]) -> None:
        self._loads.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: it is in the listing, and in the log of who loads

    def _checked(self, request: Request) -> dict[str, str]:
        self._check(request)
        return parse_query(AdminQuery, request).notes(self._settings)

    def _check(self, request: Request) -> None:
        """Refuse whoever may be elsewhere.

        Raises:
            NotAllowed: the settings say so, or the caller is not on this machine, as far as can be
                seen.
        """
        if self._settings.admin_routes is False:
            raise NotAllowed("admin routes are switched off here (admin_routes)")
        if not is_loopback(self._settings.host):
            raise NotAllowed(
                "admin routes need an admin key, and this server has none; bind it to 127.0.0.1 "
                "and call them there"
            )
        # A proxy on this machine makes everybody a caller on it. Most give themselves away by the
        # name that they were asked for, or by a header; one that rewrites Host and adds nothing,
        # as nginx does with a bare `proxy_pass`, looks like any caller here.
        host = request.headers.get("host", self._settings.host)
        if not is_loopback(_name_of(host)) or _is_forwarded(request):
            raise NotAllowed(
                "admin routes without a key are for callers on this machine; call them at "
                "127.0.0.1, not through a proxy"
            )
        # Where the settings let any page in, that was not meant for these.
        origin = request.headers.get("origin", "").lower()
        named = self._settings.cors_allow_origins
        is_known = origin in ("", *named) or origin.partition("://")[2] == host.lower()
        if "*" in named and not is_known:
            raise NotAllowed(
                f"pages of the origin {quoted(origin)} may not call admin routes; the setting "
                "cors_allow_origins must name it for that"
            )


def _is_forwarded(request: Request) -> bool:
    return any(
        name in _ADDED_BY_PROXIES or name.startswith(_PREFIX_OF_PROXIES) for name in request.headers
    )


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
