"""Admin routes: load, unload, pin and unpin a model. Answers are entries of `GET /v1/models`."""

import asyncio
from http import HTTPStatus

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from fledge.api.admins import check_admin
from fledge.api.middleware.authenticate import caller_of
from fledge.api.models import Models
from fledge.api.queries import Flag, Query, parse_query
from fledge.api.rendering import JsonResponse, dump
from fledge.catalog.listed import Listed
from fledge.service import Service
from fledge.settings import Settings


class LoadQuery(Query):
    """The parameters of `POST /admin/models/{id}/load`."""

    wait: Flag = Field(
        None, description="`false`: answer at once, with a 202 while the model is loading."
    )


class AdminQuery(Query):
    """The other routes have no parameters."""


class Admin:
    """What changes which models are loaded. Who may is for `check_admin` to say."""

    def __init__(self, service: Service, settings: Settings, models: Models) -> None:
        self._service = service
        self._settings = settings
        self._models = models
        # The event loop keeps no task alive by itself.
        self._loads: set[asyncio.Task[Listed]] = set()

    async def load(self, request: Request) -> Response:
        """Load a model; the answer comes when it is warm, unless `wait` is false."""
        check_admin(request, self._settings)
        query = parse_query(LoadQuery, request)
        notes = query.notes(self._settings)
        name, caller = request.path_params["model_id"], caller_of(request.scope)
        if query.wait is not False:
            return self._answer(await self._service.load(name, caller), notes)
        task = asyncio.create_task(self._service.load(name, caller))
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
        check_admin(request, self._settings)
        return parse_query(AdminQuery, request).notes(self._settings)
