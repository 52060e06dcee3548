"""Admin routes for keys: make, list, show, revoke, rotate. A secret is in one answer, once."""

from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Literal
from urllib.parse import quote

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from fledge.accounts.keys import ANY_MODEL, Key, KeySpec, NewKey, budget_nanos, describe
from fledge.accounts.moments import moment
from fledge.api.admins import check_admin
from fledge.api.bodies import Body, BodyT, parse_fields, parse_json, read_in_time
from fledge.api.queries import Flag, Query, parse_query
from fledge.api.rendering import JsonResponse, dump
from fledge.errors import UnknownField
from fledge.names import quoted
from fledge.service import Service
from fledge.settings import Settings

_SECRET = {"cache-control": "no-store"}


class KeyBody(Body):
    """The body of `POST /admin/keys`."""

    name: str = Field(description="Who or what it is for; no other living key may have it.")
    scopes: list[Literal["inference", "admin"]] | None = Field(
        None,
        description="inference embeds and lists models; admin manages models, keys and usage. "
        "Absent: inference.",
    )
    models: list[str] | None = Field(
        None, description="Patterns of the models that it may use, as `BAAI/*`. Absent: all."
    )
    expires: str | None = Field(
        None,
        description="When it ends by itself: a duration as `30d` or `12h`, a day, or a moment with "
        "its time zone. Absent: never.",
    )
    requests_per_minute: int | None = Field(None, description="Most requests a minute.")
    tokens_per_minute: int | None = Field(None, description="Most tokens a minute.")
    concurrent_requests: int | None = Field(
        None, description="Most requests running at the same time."
    )
    monthly_token_budget: int | None = Field(
        None, description="Most tokens of a calendar month, UTC."
    )
    monthly_budget: float | None = Field(
        None,
        description="Most money of a calendar month, UTC, as `20` or `2.5`, in the currency of the "
        "providers' prices.",
    )


class RotateBody(Body):
    """The body of `POST /admin/keys/{key}/rotate`."""

    grace_s: float = Field(
        0.0, description="Seconds for which the secret before is accepted as well."
    )


class KeysQuery(Query):
    """The parameters of `GET /admin/keys`."""

    all: Flag = Field(None, description="`true`: also keys that were revoked or have expired.")


class KeyQuery(Query):
    """The other routes have no parameters."""


class Keys:
    """The keys of the accounts, for admins."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._accounts = service.accounts
        self._settings = settings

    async def create(self, request: Request) -> Response:
        """Make a key."""
        notes = self._checked(request)
        spec = _spec(await self._body(KeyBody, request))
        made = await self._accounts.with_keys(lambda store: store.create(spec))
        headers = notes | {"location": f"/admin/keys/{quote(made.key.id)}"}
        return _secret_answer(made, HTTPStatus.CREATED, headers)

    async def list_keys(self, request: Request) -> Response:
        """The keys that are accepted, oldest first."""
        check_admin(request, self._settings)
        query = parse_query(KeysQuery, request)
        notes = query.notes(self._settings)
        keys = await self._accounts.with_keys(
            lambda store: store.listed(with_ended=query.all is True)
        )
        now = datetime.now(UTC)
        body = {"object": "list", "data": [describe(key, now) for key in keys]}
        return JsonResponse(dump(body), headers=notes)

    async def show(self, request: Request) -> Response:
        """One key, also one that has ended."""
        notes, name = self._checked(request), request.path_params["key"]
        return _answer(await self._accounts.with_keys(lambda store: store.show(name)), notes)

    async def revoke(self, request: Request) -> Response:
        """End a key for ever; the answer is the key as it is then."""
        notes, name = self._checked(request), request.path_params["key"]
        return _answer(await self._accounts.with_keys(lambda store: store.revoke(name)), notes)

    async def rotate(self, request: Request) -> Response:
        """Give a key a new secret."""
        notes, name = self._checked(request), request.path_params["key"]
        grace_s = (await self._body(RotateBody, request, may_be_empty=True)).grace_s
        made = await self._accounts.with_keys(lambda store: store.rotate(name, grace_s=grace_s))
        return _secret_answer(made, HTTPStatus.OK, notes)

    def _checked(self, request: Request) -> dict[str, str]:
        check_admin(request, self._settings)
        return parse_query(KeyQuery, request).notes(self._settings)

    async def _body(
        self, kind: type[BodyT], request: Request, *, may_be_empty: bool = False
    ) -> BodyT:
        """The fields of a body.

        Raises:
            UnknownField: it has others. Elsewhere those are ignored, but a limit with a slip in
                its name would be none.
        """
        settings = self._settings
        data = await read_in_time(request, settings.request_timeout_s, settings.max_body_bytes)
        body = parse_fields(kind, parse_json(data) if data or not may_be_empty else {})
        if unknown := body.unknown_fields():
            raise UnknownField(
                f"{quoted(unknown[0])} is no field here; there are {', '.join(kind.model_fields)}",
                field=unknown[0],
            )
        return body


def _spec(body: KeyBody) -> KeySpec:
    return KeySpec(
        name=body.name,
        scopes=frozenset(body.scopes if body.scopes is not None else ["inference"]),
        models=ANY_MODEL if body.models is None else tuple(body.models),
        expires=None
        if body.expires is None
        else moment(body.expires, datetime.now(UTC), "expires"),
        requests_per_minute=body.requests_per_minute,
        tokens_per_minute=body.tokens_per_minute,
        concurrent_requests=body.concurrent_requests,
        monthly_token_budget=body.monthly_token_budget,
        monthly_budget_nanos=budget_nanos(body.monthly_budget),
    )


def _answer(key: Key, notes: Mapping[str, str]) -> Response:
    return JsonResponse(dump(describe(key, datetime.now(UTC))), headers=dict(notes))


def _secret_answer(made: NewKey, status: HTTPStatus, headers: Mapping[str, str]) -> Response:
    body = describe(made.key, datetime.now(UTC)) | {"secret": made.secret}
    return JsonResponse(dump(body), status_code=status, headers=_SECRET | dict(headers))
