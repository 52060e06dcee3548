"""The hub's API, as far as its clients list and resolve models: `/api/models`, `/api/tasks`.

With `HF_ENDPOINT` set to this server, `huggingface_hub` finds the models of this catalogue. A model
that loads when it is asked for counts as live, since it answers; only a warm one is `warm`.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from fledge.api.errors import HUGGING_FACE, Failure, failure_response
from fledge.api.listing import LIBRARY, PROVIDER, Selection, following, known, select, tags
from fledge.api.queries import (
    MOST_PER_PAGE,
    Count,
    Flag,
    Query,
    Text,
    Words,
    bad_value,
    parse_query,
)
from fledge.api.rendering import JsonResponse, dump
from fledge.api.tasks import TASKS
from fledge.catalog.listed import Listed
from fledge.errors import UnknownModel
from fledge.names import quoted
from fledge.service import Service
from fledge.settings import Settings

_TASK = TASKS[0]
_MAPPING = "inferenceProviderMapping"
_MAIN = "main"
# What may be asked for, also where nothing is known here that could be answered.
_EXPANDABLE = frozenset(
    (
        *("author", "baseModels", "cardData", "childrenModelCount", "config", "createdAt"),
        *("disabled", "downloads", "downloadsAllTime", "evalResults", "gated", "gguf"),
        *("inference", _MAPPING, "lastModified", "library_name", "likes", "mask_token"),
        *("model-index", "pipeline_tag", "private", "resourceGroup", "safetensors", "sha"),
        *("siblings", "spaces", "tags", "transformersInfo", "trendingScore", "usedStorage"),
        "widgetData",
    )
)
_EXPAND = Field(
    (),
    description="Fields to answer with, beside the id, in place of all: as `inference`, "
    "`inferenceProviderMapping`, `tags`, `downloads`.",
)


class HubQuery(Selection):
    """The parameters of `GET /api/models`."""

    expand: Words = _EXPAND
    limit: Count = Field(
        None,
        description=f"Most models of one answer, at most {MOST_PER_PAGE}; the header `link` leads "
        "to the rest.",
    )
    cursor: Text = Field(None, description="Where the answer before ended, as its `link` says it.")
    full: Flag = Field(None, description="Accepted: every answer has all that is known.")
    config: Flag = Field(None, description="Likewise.")
    cardData: Flag = Field(None, description="Likewise.")


class HubModelQuery(Query):
    """The parameters of `GET /api/models/{id}`."""

    expand: Words = _EXPAND


class Hub:
    """What clients of the hub ask about models."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings

    async def list_models(self, request: Request) -> Response:
        """The models that the parameters ask for, in the shape of the hub."""
        query = parse_query(HubQuery, request)
        headers = query.notes(self._settings)
        expand = _checked(query.expand)
        listed = query.ordered(self._service.models())
        if query.cursor is not None:
            listed = _behind(listed, query.cursor)
        found = select(listed, query.conditions())
        shown = found[: min(query.limit or MOST_PER_PAGE, MOST_PER_PAGE)]
        if len(shown) < len(found):
            headers["link"] = f'<{_address_behind(request, shown[-1])}>; rel="next"'
        body = [_expanded(one, expand, _mappings) if expand else _whole(one) for one in shown]
        return JsonResponse(dump(body), headers=headers)

    async def retrieve_model(self, request: Request) -> Response:
        """One model, by its id; by any other name of it, the way there."""
        query = parse_query(HubModelQuery, request)
        headers = query.notes(self._settings)
        expand = _checked(query.expand)
        name = request.path_params["model_id"]
        revision = request.path_params.get("revision")
        try:
            one = self._service.model(name)
        except UnknownModel as error:
            return _not_found("RepoNotFound", "Repository not found", str(error))
        if one.id != name:
            return _redirect(request, one.id, revision)
        if revision not in (None, _MAIN, one.card and one.card.revision):
            message = f"{one.id} has no revision {quoted(revision)} here"
            return _not_found("RevisionNotFound", message, message)
        body = _expanded(one, expand, _mapping) if expand else _whole(one)
        return JsonResponse(dump(body), headers=headers)

    async def tasks(self, _: Request) -> Response:
        """What models are asked to do here, and with which to begin: the first is the default."""
        listed = self._service.models()
        good = [*listed[:1], *(one for one in listed[1:] if one.entry.is_recommended)]
        about = {
            "widgetModels": [one.id for one in listed[:1]],
            "models": [{"id": one.id, "description": one.entry.summary} for one in good],
        }
        return JsonResponse(dump({task: {"id": task, **about} for task in TASKS}))


def _checked(expand: Sequence[str]) -> Sequence[str]:
    for word in expand:
        if word not in _EXPANDABLE:
            raise bad_value("expand", f"one of {', '.join(sorted(_EXPANDABLE))}", word)
    return expand


def _whole(one: Listed) -> dict[str, Any]:
    """A model with all that is known of it, as the hub has it where nothing is asked for."""
    return {"_id": _number_of(one.id), "id": one.id, "modelId": one.id} | _details(one)


def _expanded(
    one: Listed, expand: Sequence[str], mapping: Callable[[Listed], Any]
) -> dict[str, Any]:
    """A model with what was asked for, as far as it is known."""
    details = _details(one) | {_MAPPING: mapping(one)}
    asked = {name: details[name] for name in expand if name in details}
    return {"_id": _number_of(one.id), "id": one.id} | asked


def _details(one: Listed) -> dict[str, Any]:
    entry, card = one.entry, one.card
    return {
        "private": False,
        "gated": "auto" if entry.is_gated else False,
        "disabled": False,
        "pipeline_tag": _TASK,
        "library_name": LIBRARY,
        "tags": tags(one),
        "downloads": one.request_count,
        "likes": 0,
        "trendingScore": round(one.trending),
        **known(
            author=one.owner,
            sha=card and card.revision,
            inference="warm" if one.state == "warm" else None,
            createdAt=entry.created and f"{entry.created.isoformat()}T00:00:00.000Z",
            cardData=known(license=entry.license, language=list(entry.languages)),
            # How many numbers of each type they are, only the files say.
            safetensors=entry.parameters and {"parameters": {}, "total": entry.parameters},
        ),
    }


def _mapping(one: Listed) -> dict[str, Any]:
    """Who serves a model, as a single one tells it.

    First this server, under the name that its clients know, since they take the first one; then
    the providers, whose names are paths here.
    """
    others = {
        at.name: _deployment(at.provider_id, is_live=at.is_live)
        for at in one.providers
        if at.name != PROVIDER
    }
    return {PROVIDER: _deployment(one.id, is_live=one.is_live), **others}


def _mappings(one: Listed) -> Sequence[Mapping[str, Any]]:
    """The same, as lists tell it."""
    return [{"provider": name, **deployment} for name, deployment in _mapping(one).items()]


def _deployment(provider_id: str, *, is_live: bool) -> dict[str, str]:
    status = "live" if is_live else "error"
    return {"status": status, "providerId": provider_id, "task": _TASK}


def _number_of(id: str) -> str:
    """Twenty-four hexadecimal digits, which are the same wherever the model is listed."""
    return hashlib.sha256(id.encode()).hexdigest()[:24]


def _address_behind(request: Request, last: Listed) -> str:
    """Where the rest is, as a whole address: clients follow it as it stands."""
    query = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
    query.append(("cursor", urlsafe_b64encode(last.id.encode()).decode()))
    return f"{request.base_url}api/models?{urlencode(query)}"


def _behind(listed: Sequence[Listed], cursor: str) -> Sequence[Listed]:
    try:
        id = urlsafe_b64decode(cursor.encode()).decode()
    except ValueError:
        id = ""
    rest = following(listed, id)
    if rest is None:
        raise bad_value("cursor", "where an earlier answer ended", cursor)
    return rest


def _not_found(code: str, message: str, reason: str) -> Response:
    """The 404 that the hub's own clients tell from others by its headers."""
    failure = Failure(
        status=HTTPStatus.NOT_FOUND,
        code="model_not_found",
        error_type="NotFound",
        message=message,
        field="model",
    )
    headers = {"x-error-code": code, "x-error-message": reason}
    return failure_response(failure, HUGGING_FACE, headers)


def _redirect(request: Request, id: str, revision: str | None) -> Response:
    path = f"/api/models/{quote(id)}"
    if revision is not None:
        path += f"/revision/{quote(revision, safe='')}"
    if query := urlencode(request.query_params.multi_items()):
        path += f"?{query}"
    return Response(
        f"Temporary Redirect. Redirecting to {path}",
        status_code=HTTPStatus.TEMPORARY_REDIRECT,
        headers={"location": path},
        media_type="text/plain",
    )
