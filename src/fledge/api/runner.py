"""The one way from a request to its answer, the same for every dialect: parse, serve, render.

A dialect gives an `Operation`: how to parse a body into a `Plan`. The plan carries the service's
request and how to render its answer. Time limits, clients that leave, fields that were ignored
and the headers about them are handled here, once.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fledge.accounts.callers import Caller
from fledge.accounts.limit_fields import limit_fields
from fledge.api.bodies import parse_json, read_in_time
from fledge.api.disconnect import DisconnectWatch
from fledge.api.errors import Dialect
from fledge.api.fields import refuse_if_strict
from fledge.api.middleware.authenticate import caller_of
from fledge.api.rendering import JsonResponse, header_names, header_value
from fledge.api.repeats import Given, Repeats, shown
from fledge.api.routing import Endpoint, speaking, unless_client_leaves
from fledge.money import NANOS
from fledge.prompts import Prompt
from fledge.requests import Answer, CompareRequest, EmbedRequest
from fledge.service import Service
from fledge.settings import Settings
from fledge.telemetry.metrics import Metrics
from fledge.telemetry.notes import request_notes
from fledge.types import LOCAL

# What `x-fledge-prompt` says of a prompt that has no name.
_OWN_TEXT = "custom"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as a dialect sees it.

    Attributes:
        data: the JSON value of the body.
        path: the parameters in the route's path.
        headers: those of `READ_HEADERS` that the request has, by lower-case name.
        settings: the settings in force.
        caller: whose account it is on.
    """

    data: Any
    path: Mapping[str, str]
    headers: Mapping[str, str]
    settings: Settings
    caller: Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a dialect made of a call.

    Attributes:
        request: what the service is asked.
        render: the body of the answer.
        headers: the dialect's own headers, from the answer and the seconds it took.
        ignored: fields of the body that have no effect here.
    """

    request: EmbedRequest | CompareRequest
    render: Callable[[Any], Awaitable[bytes]]
    headers: Callable[[Answer, float], dict[str, str]]
    ignored: list[str]


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a dialect can be asked."""

    dialect: Dialect
    parse: Callable[[Call], Plan]


class Runner:
    """Runs operations against a service."""

    def __init__(self, service: Service, settings: Settings, metrics: Metrics) -> None:
        self.service = service
        self.settings = settings
        self.metrics = metrics
        self._repeats = Repeats(settings.cache_answers_bytes)

    def endpoint(self, operation: Operation) -> Endpoint:
        """The function that a route calls."""

        async def endpoint(request: Request) -> Response:
            return await self._answer(operation, request)

        return speaking(operation.dialect, unless_client_leaves(endpoint))

    async def _answer(self, operation: Operation, request: Request) -> Response:
        started = time.monotonic()
        body, caller = await self._body(request), caller_of(request.scope)
        key = self._repeats.key(operation, body, request.headers, request.path_params)
        if key is not None and (given := self._repeats.get(key)) is not None:
            standing = await self.service.repeat(given.model, given.answer, caller)
            if standing is not None:
                self._note(given.answer)
                return given.response.with_headers(limit_fields(standing))
            self._repeats.drop(key)
        call = Call(
            data=parse_json(body),
            path=request.path_params,
            headers=dict(shown(request.headers)),
            settings=self.settings,
            caller=caller,
        )
        plan = operation.parse(call)
        refuse_if_strict(plan.ignored, self.settings)
        request_notes().began_s = time.perf_counter()
        with DisconnectWatch(request.receive):
            answer = await self._serve(plan.request)
            content = await plan.render(answer)
        if not plan.request.use_cache:
            self._repeats.clear()
        notes = _notes(plan, answer)
        if key is not None and answer.is_kept and answer.card.deployment == LOCAL:
            again = answer.again()
            response = _response(plan, again, content, 0.0).with_headers(notes)
            self._repeats.put(key, Given(again, plan.request.model, response))
        self._note(answer)
        response = _response(plan, answer, content, time.monotonic() - started)
        return response.with_headers(notes | limit_fields(answer.standing))

    def _note(self, answer: Answer) -> None:
        notes = request_notes()
        notes.model, notes.dimension = answer.card.id, answer.card.dimension
        notes.input_count, notes.hit_count = len(answer.token_counts), answer.hit_count
        notes.tokens, notes.timings = sum(answer.token_counts), answer.timings
        self.metrics.observe_answer(notes, answer.truncated_count)

    async def _body(self, request: Request) -> bytes:
        settings = self.settings
        return await read_in_time(request, settings.request_timeout_s, settings.max_body_bytes)

    async def _serve(self, request: EmbedRequest | CompareRequest) -> Answer:
        if isinstance(request, EmbedRequest):
            return await self.service.embed(request)
        return await self.service.compare(request)


def _response(plan: Plan, answer: Answer, content: bytes, elapsed_s: float) -> JsonResponse:
    return JsonResponse(content, headers=plan.headers(answer, elapsed_s))


def _prompt_label(prompt: Prompt) -> str | None:
    """A prompt for a header: its name, never its text."""
    if prompt.name is None:
        return None if prompt.text is None else _OWN_TEXT
    name = header_names([prompt.name])
    # Percent-encoded, as any name may be: the plain word is kept for texts of the caller's own.
    return "%63ustom" if name == _OWN_TEXT else name


def _notes(plan: Plan, answer: Answer) -> dict[str, str]:
    """The headers that say what was done to the request, each only if there is something to say."""
    notes: dict[str, str] = {}
    if answer.hit_count:
        notes["x-fledge-cache-hits"] = str(answer.hit_count)
    if (label := _prompt_label(answer.prompt)) is not None:
        notes["x-fledge-prompt"] = label
    if answer.cost_nanos is not None:
        notes["x-fledge-provider"] = answer.card.deployment
        notes["x-fledge-cost"] = f"{answer.cost_nanos / NANOS:.9f}"
    if answer.truncated_count:
        notes["x-fledge-truncated"] = str(answer.truncated_count)
    if answer.warnings:
        notes["x-fledge-warning"] = header_value("; ".join(answer.warnings))
    if plan.ignored:
        notes["x-fledge-ignored"] = header_names(plan.ignored)
    return notes
