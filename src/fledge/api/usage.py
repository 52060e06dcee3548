"""Routes about what was used: everybody's for admins, and each caller's own."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from fledge.accounts.moments import day
from fledge.accounts.usage import KEYLESS, month_of
from fledge.accounts.usage_query import GROUPS, Group, UsageQuery, as_csv, columns
from fledge.api.admins import check_admin
from fledge.api.middleware.authenticate import caller_of
from fledge.api.queries import Count, Query, Text, Words, bad_value, parse_query
from fledge.api.rendering import JsonResponse, dump
from fledge.service import Service
from fledge.settings import Settings

MOST_ROWS = 10_000
"""Of one answer, unless the caller says otherwise."""

_CSV = "text/csv"
_NO_GROUPS = "none"
_DEFAULT_GROUPS: tuple[Group, ...] = ("key", "model")


class OwnUsageQuery(Query):
    """The parameters of `GET /v1/usage`."""

    since: Text = Field(
        None, description="The first day, UTC, as 2026-11-01. Absent: the first of the month."
    )
    until: Text = Field(None, description="The last day. Absent: today.")
    group_by: Words | None = Field(
        None,
        description=f"A row for each combination of these: {', '.join(GROUPS)}. Several with "
        "commas between, or repeated; `none` for a single sum. Absent: key and model.",
    )
    model: Text = Field(None, description="Of the model with this id alone.")
    deployment: Text = Field(None, description="Of this deployment alone.")
    bill_to: Text = Field(None, description="Of what was asked to be billed to this name alone.")
    limit: Count = Field(None, description=f"Most rows. Absent: {MOST_ROWS:,}.")
    format: Text = Field(
        None, description="`json` or `csv`. Absent: as the header Accept says, else JSON."
    )


class UsageOfAllQuery(OwnUsageQuery):
    """The parameters of `GET /admin/usage`."""

    key: Text = Field(
        None, description="Of the key with this id or name alone; `keyless`: without a key."
    )


class Usage:
    """What was used, as JSON and as CSV."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._accounts = service.accounts
        self._settings = settings

    async def of_all(self, request: Request) -> Response:
        """What was used by everybody, or by one key."""
        check_admin(request, self._settings)
        asked = parse_query(UsageOfAllQuery, request)
        notes = asked.notes(self._settings)
        query = _query(asked)
        if asked.key is not None:
            query = replace(query, key_id=await self._key_id(asked.key))
        return await self._answer(query, notes, is_csv=_is_csv(asked, request))

    async def of_caller(self, request: Request) -> Response:
        """What the caller's own key used; without keys, what was used without one."""
        asked = parse_query(OwnUsageQuery, request)
        notes = asked.notes(self._settings)
        query = replace(_query(asked), key_id=caller_of(request.scope).key_id)
        return await self._answer(query, notes, is_csv=_is_csv(asked, request))

    async def _key_id(self, id_or_name: str) -> str:
        if id_or_name == KEYLESS:
            return KEYLESS
        key = await self._accounts.with_keys(lambda store: store.show(id_or_name))
        return key.id

    async def _answer(self, query: UsageQuery, notes: dict[str, str], *, is_csv: bool) -> Response:
        limit = query.limit or MOST_ROWS
        # One more, to know whether there are more.
        rows = await self._accounts.usage(replace(query, limit=limit + 1))
        has_more, rows = len(rows) > limit, rows[:limit]
        if not is_csv:
            return JsonResponse(dump(_body(query, rows, has_more=has_more)), headers=notes)
        if has_more:
            notes = notes | {"x-fledge-warning": f"cut after {limit} rows; `limit` says how many"}
        headers = notes | {"content-disposition": 'attachment; filename="usage.csv"'}
        text = as_csv(rows, columns(query)).encode("utf-8", "replace")
        return Response(text, media_type=_CSV, headers=headers)


def _body(query: UsageQuery, rows: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "since": query.since.isoformat(),
        "until": query.until.isoformat(),
        "group_by": list(query.group_by),
        "data": rows,
        "has_more": has_more,
    }


def _query(asked: OwnUsageQuery) -> UsageQuery:
    until = datetime.now(UTC).date() if asked.until is None else day(asked.until, "until")
    query = UsageQuery(
        since=month_of(until) if asked.since is None else day(asked.since, "since"),
        until=until,
        group_by=_DEFAULT_GROUPS if asked.group_by is None else _groups(asked.group_by),
        model=asked.model,
        deployment=asked.deployment,
        bill_to=asked.bill_to,
        limit=asked.limit,
    )
    query.check()
    return query


def _groups(words: tuple[str, ...]) -> tuple[Group, ...]:
    if words == (_NO_GROUPS,):
        return ()
    for word in words:
        if word not in GROUPS:
            raise bad_value("group_by", f"some of {', '.join(GROUPS)}, or none", word)
    return tuple(name for name in GROUPS if name in words)


def _is_csv(asked: OwnUsageQuery, request: Request) -> bool:
    if asked.format is None:
        return _CSV in request.headers.get("accept", "")
    if asked.format not in ("json", "csv"):
        raise bad_value("format", "json or csv", asked.format)
    return asked.format == "csv"
