"""The lines of a batch, answered as `POST /v1/embeddings` answers: parsed, served and rendered by
the same functions, with the same bodies for errors."""

import logging
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

from fledge.accounts.callers import NOBODY, Caller
from fledge.accounts.charges import estimate_tokens
from fledge.api.errors import OPENAI, Failure, failure_of, row_of
from fledge.api.fields import refuse_if_strict
from fledge.api.openai import parse_embeddings
from fledge.api.rendering import dump
from fledge.api.runner import Call, Plan
from fledge.batches.answers import Rendering
from fledge.batches.results import Reply
from fledge.errors import FledgeError
from fledge.requests import EmbedRequest, EmbedResponse
from fledge.service import Service
from fledge.settings import Settings
from fledge.telemetry.notes import Notes

_log = logging.getLogger(__name__)

BULK_PRIORITY = 1
"""Behind everything that somebody waits for."""


class EmbeddingLines:
    """Answers the requests of batches for `/v1/embeddings`."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings

    def parse(self, body: dict[str, Any]) -> "EmbeddingWork":
        """A body as work. See `Answerer.parse`."""
        plan = parse_embeddings(
            Call(data=body, path={}, headers={}, settings=self._settings, caller=NOBODY)
        )
        refuse_if_strict(plan.ignored, self._settings)
        return EmbeddingWork(self._service, plan)

    def failure(self, error: Exception) -> Reply:
        """What HTTP would have answered. What callers are not told goes to the log."""
        if isinstance(error, FledgeError):
            failure = failure_of(error, OPENAI)
            if row_of(type(error)).safe_message is not None:
                _log.error("a line of a batch: %s", error.code, exc_info=error)
        else:
            failure = Failure(
                status=HTTPStatus.INTERNAL_SERVER_ERROR,
                code="internal_error",
                error_type="Internal",
                message="the server failed on this request; its log says why",
            )
        return Reply(int(failure.status), dump(OPENAI.error_body(failure)))


class EmbeddingWork:
    """One request, understood. See `Work`."""

    def __init__(self, service: Service, plan: Plan) -> None:
        self._service = service
        self._plan = plan
        self.tokens = estimate_tokens(plan.request.items)
        self.inputs = len(plan.request.items)

    async def compute(self, caller: Caller) -> Rendering:
        """Compute it. It has no time-out of its own: nobody waits, and its batch has one."""
        request = self._plan.request
        if not isinstance(request, EmbedRequest):
            raise TypeError(f"a batch has no {type(request).__name__}")
        answer = await self._service.embed(
            replace(request, priority=BULK_PRIORITY, caller=caller, timeout_s=None)
        )
        notes = Notes("")
        notes.model, notes.timings = answer.card.id, answer.timings
        notes.input_count, notes.tokens = len(answer.token_counts), sum(answer.token_counts)
        self._service.metrics.observe_answer(notes, answer.truncated_count)
        return partial(_reply, self._plan, answer)


async def _reply(plan: Plan, answer: EmbedResponse) -> Reply:
    return Reply(HTTPStatus.OK, await plan.render(answer), sum(answer.token_counts))
