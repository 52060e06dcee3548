"""`GET /v1/models`: the catalogue in OpenAI's shape, with what Featherless and others add to it."""

import time
from calendar import timegm
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from fledge.api.listing import (
    Condition,
    Selection,
    always,
    choice,
    facts,
    following,
    is_in,
    known,
    lowered,
    mentions,
    overlaps,
    select,
)
from fledge.api.queries import Count, CountPerPage, Flag, Query, Text, Words, bad_value, parse_query
from fledge.api.rendering import JsonResponse, dump
from fledge.catalog.listed import Listed, ListedProvider
from fledge.errors import InvalidRequest
from fledge.money import money_of
from fledge.service import Service
from fledge.settings import Settings
from fledge.types import State

DEFAULT_PER_PAGE = 100

_MODALITIES = ("embedding", "embeddings")
# The last three are Featherless's words.
_STATES: Mapping[str, State] = {
    "cold": "cold",
    "loading": "loading",
    "warm": "warm",
    "failed": "failed",
    "active": "warm",
    "pending_deploy": "loading",
    "not_deployed": "cold",
}


class ModelsQuery(Selection):
    """The parameters of `GET /v1/models`."""

    q: Text = Field(None, description="Another name for `search`.")
    modalities: Words = Field(
        (), description="`embedding`, which every model gives; any other lists nothing."
    )
    output_modalities: Words = Field((), description="Another name for `modalities`.")
    status: Words = Field(
        (),
        description="States, of which a model must have one: `cold`, `loading`, `warm`, `failed`.",
    )
    family: Words = Field((), description="Architectures, of which a model must have one.")
    languages: Words = Field(
        (),
        description="ISO 639-1 codes, of which a model must name one; `multilingual` for models "
        "of more languages than they name.",
    )
    license: Words = Field((), description="Licences, of which a model must have one.")
    recommended: Flag = Field(None, description="Whether it is a good choice of its size today.")
    page: Count = Field(None, description="A page, from 1 on.")
    per_page: CountPerPage = Field(
        None, description=f"Models on a page; {DEFAULT_PER_PAGE} where only `page` is given."
    )
    limit: CountPerPage = Field(None, description="Most models of one answer.")
    after: Text = Field(None, description="The id of the last model of the answer before.")

    def conditions(self) -> list[Condition]:
        """As for every listing, and what only this one can be asked."""
        found = super().conditions()
        if self.q is not None:
            found.append(mentions("q", self.q))
        for modalities in (self.modalities, self.output_modalities):
            if modalities:
                found.append(always(overlaps(modalities, _MODALITIES)))
        if self.status:
            found.append(is_in(frozenset(choice("status", word, _STATES) for word in self.status)))
        if families := lowered(self.family):
            found.append(lambda one: (one.family or "").lower() in families)
        if languages := lowered(self.languages):
            found.append(lambda one: not languages.isdisjoint(lowered(one.entry.languages)))
        if licenses := lowered(self.license):
            found.append(lambda one: (one.entry.license or "").lower() in licenses)
        if (wanted := self.recommended) is not None:
            found.append(lambda one: one.entry.is_recommended == wanted)
        return found


class ModelQuery(Query):
    """`GET /v1/models/{id}` has no parameters."""


class Models:
    """`GET /v1/models` and `GET /v1/models/{id}`."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._started = int(time.time())

    async def list_models(self, request: Request) -> Response:
        """The models that the parameters ask for; without any, all of them."""
        query = parse_query(ModelsQuery, request)
        headers = query.notes(self._settings)
        listed = query.ordered(self._service.models())
        conditions = query.conditions()
        if query.page is None and query.per_page is None:
            found, about = _limited(listed, conditions, query)
        elif query.limit is None and query.after is None:
            found, about = _paged(select(listed, conditions), query)
        else:
            raise InvalidRequest(
                "`page` and `per_page` are one way through a listing, `limit` and `after` another: "
                "give those of one",
                field="page" if query.page is not None else "per_page",
            )
        data = [self.described(one) for one in found]
        return JsonResponse(dump({"object": "list", "data": data} | about), headers=headers)

    async def retrieve_model(self, request: Request) -> Response:
        """One model, by any name that requests may use for it."""
        headers = parse_query(ModelQuery, request).notes(self._settings)
        one = self._service.model(request.path_params["model_id"])
        return JsonResponse(dump(self.described(one)), headers=headers)

    def described(self, one: Listed) -> dict[str, Any]:
        """A model as an entry of the listing: what OpenAI's clients need, then all that is known.

        `created` is when the server started where the model's own day is not known.
        """
        entry, status = one.entry, one.status
        created = self._started if entry.created is None else _unix_time(entry.created)
        return {
            "id": one.id,
            "object": "model",
            "created": created,
            "owned_by": one.owner or "fledge",
            "name": one.id.rpartition("/")[2],
            "status": one.state,
            "pinned": status.is_pinned,
            "recommended": entry.is_recommended,
            "gated": entry.is_gated,
            "architecture": {
                "modality": "text->embedding",
                "input_modalities": ["text"],
                "output_modalities": ["embedding"],
            },
            **known(
                context_length=one.max_seq_length,
                parameters=entry.parameters,
                languages=list(entry.languages),
                license=entry.license,
                summary=entry.summary,
                aliases=list(entry.aliases),
                memory_bytes=_memory_bytes(one),
                **_use(one),
                loading=_loading(one),
                error=_error(one),
                providers=[_provider(at) for at in one.providers],
            ),
            **facts(one),
        }


def _limited(
    listed: Sequence[Listed], conditions: Sequence[Condition], query: ModelsQuery
) -> tuple[list[Listed], dict[str, Any]]:
    """All that are wanted, or OpenAI's way through them: so many, behind the last one shown."""
    rest = listed if query.after is None else following(listed, query.after)
    if rest is None:
        raise bad_value("after", "the id of a model of this listing", query.after or "")
    found = select(rest, conditions)
    if query.limit is None and query.after is None:
        return found, {}
    shown = found[: query.limit]
    return shown, {
        "has_more": len(shown) < len(found),
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
    }


def _paged(found: list[Listed], query: ModelsQuery) -> tuple[list[Listed], dict[str, Any]]:
    """Featherless's way: a page of so many; one behind the last page is empty."""
    page, per_page = query.page or 1, query.per_page or DEFAULT_PER_PAGE
    shown = found[(page - 1) * per_page : page * per_page]
    pagination = {
        "current_page": page,
        "total_pages": -(-len(found) // per_page),
        "total_items": len(found),
    }
    return shown, {"pagination": pagination}


def _unix_time(day: date) -> int:
    return timegm(day.timetuple())


def _provider(at: ListedProvider) -> dict[str, Any]:
    """A provider as the Hugging Face router lists it, and what is known besides.

    Prices are of a million tokens; vectors cost nothing to give out.
    """
    nanos = at.price_nanos_per_million_tokens
    return {
        "provider": at.name,
        "status": "live" if at.is_live else "error",
        "provider_id": at.provider_id,
        **known(
            pricing=None if nanos is None else {"input": money_of(nanos), "output": 0},
            is_free=None if nanos is None else not nanos,
            latency_ms=None if at.latency_ms is None else round(at.latency_ms, 1),
            space=at.space,
            cosine=None if at.least_cosine is None else round(at.least_cosine, 5),
            error=at.reason,
        ),
    }


def _memory_bytes(one: Listed) -> int | None:
    """None for a model that runs and takes nobody knows how much."""
    status = one.status
    return None if status.state == "warm" and not status.memory_bytes else status.memory_bytes


def _use(one: Listed) -> dict[str, Any]:
    """Of a model in memory, who uses it; of one that is here to stay, nobody counts."""
    status = one.status
    if status.state != "warm" or not status.memory_bytes:
        return {}
    return {"users": status.users, "idle_s": round(status.idle_s, 3)}


def _loading(one: Listed) -> dict[str, Any] | None:
    status = one.status
    if status.state != "loading":
        return None
    return known(stage=status.stage, remaining_s=status.remaining_s)


def _error(one: Listed) -> dict[str, Any] | None:
    status = one.status
    if status.state != "failed":
        return None
    return {
        "kind": status.failure or "unknown",
        "message": status.reason,
        "retry_in_s": status.retry_in_s,
    }
