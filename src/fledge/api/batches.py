"""OpenAI's `/v1/batches` for `/v1/embeddings`: create, list, retrieve, cancel."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from fledge.api.batch_lines import EmbeddingLines
from fledge.api.bodies import Body, parse_fields, parse_json, read_in_time, wrong_type
from fledge.api.fields import refuse_if_strict
from fledge.api.files import check_kept_s, list_object
from fledge.api.middleware.authenticate import caller_of
from fledge.api.queries import Query, Text, last, parse_query
from fledge.api.rendering import JsonResponse, dump, header_names
from fledge.batches.files import KEPT_S
from fledge.batches.paging import page_of
from fledge.batches.records import Batch, Status
from fledge.batches.runner import Runner
from fledge.batches.store import BatchSpec, BatchStore
from fledge.errors import InvalidRequest
from fledge.names import quoted
from fledge.service import Service
from fledge.settings import Settings

ENDPOINT = "/v1/embeddings"
WINDOW = "24h"

_MOST_BODY_BYTES = 2**16
_MOST_METADATA = 16
_LONGEST_METADATA_NAME = 64
_LONGEST_METADATA_VALUE = 512
_MOMENTS: tuple[Status, ...] = (
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
)


class BatchBody(Body):
    """The body of `POST /v1/batches`."""

    input_file_id: str = Field(description="An uploaded file with one request a line.")
    endpoint: str = Field(description="Where the requests go: `/v1/embeddings`.")
    completion_window: str = Field(description="`24h`: what is not done by then expires.")
    metadata: dict[str, Any] | None = Field(
        None, description="Up to 16 texts of your own, by name; they are shown with the batch."
    )
    output_expires_after: dict[str, Any] | None = Field(
        None,
        description="How long the results are kept: `anchor`, which is `created_at`, and "
        "`seconds`. 30 days if absent.",
    )


class BatchesQuery(Query):
    """The parameters of `GET /v1/batches`."""

    after: Text = Field(None, description="The id of the last batch of the page before.")
    limit: Annotated[Annotated[int, Field(ge=1, le=100)] | None, BeforeValidator(last)] = Field(
        None, description="Most batches of a page; 20 if absent."
    )


class BatchQuery(Query):
    """The other routes have no parameters."""


class Batches:
    """Answers for the batches of a store, and runs them.

    Args:
        store: the batches.
        service: what their requests are answered by.
        settings: the settings in force.
        is_draining: whether the server is about to stop.
    """

    def __init__(
        self,
        store: BatchStore,
        service: Service,
        settings: Settings,
        is_draining: Callable[[], bool],
    ) -> None:
        self._store = store
        self._service = service
        self._settings = settings
        self._is_draining = is_draining
        self._runner: Runner | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run batches until the block ends; what is unfinished then goes on another time."""
        self._runner = Runner(
            self._store,
            EmbeddingLines(self._service, self._settings),
            self._service.accounts.key_of,
            max_line_bytes=self._settings.max_body_bytes,
            max_queued_tokens=self._settings.max_queued_tokens,
            is_draining=self._is_draining,
        )
        self._runner.start()
        try:
            yield
        finally:
            await self._runner.aclose()

    async def create(self, request: Request) -> Response:
        """Make a batch of an uploaded file. It is looked at after the answer."""
        notes = self._notes(request)
        timeout_s = self._settings.request_timeout_s
        data = parse_json(await read_in_time(request, timeout_s, _MOST_BODY_BYTES))
        body = parse_fields(BatchBody, data)
        if unknown := body.unknown_fields():
            refuse_if_strict(unknown, self._settings)
            notes |= {"x-fledge-ignored": header_names(unknown)}
        caller = caller_of(request.scope)
        batch = await asyncio.to_thread(self._store.create, _spec(body), caller)
        self._poke()
        return JsonResponse(dump(batch_object(batch)), headers=notes)

    async def list_batches(self, request: Request) -> Response:
        """A page of the caller's batches, the newest first."""
        query = parse_query(BatchesQuery, request)
        batches = await asyncio.to_thread(self._store.listed, caller_of(request.scope))
        page = page_of(batches[::-1], after=query.after, limit=query.limit or 20)
        listed = list_object([batch_object(one) for one in page.records], has_more=page.has_more)
        return JsonResponse(dump(listed), headers=query.notes(self._settings))

    async def retrieve(self, request: Request) -> Response:
        """How far a batch is."""
        notes = self._notes(request)
        batch_id, caller = request.path_params["batch_id"], caller_of(request.scope)
        batch = await asyncio.to_thread(self._store.find, batch_id, caller)
        return JsonResponse(dump(batch_object(batch)), headers=notes)

    async def cancel(self, request: Request) -> Response:
        """End a batch; what it has answered is kept."""
        notes = self._notes(request)
        batch_id, caller = request.path_params["batch_id"], caller_of(request.scope)
        batch = await asyncio.to_thread(self._store.cancel, batch_id, caller)
        self._poke()
        return JsonResponse(dump(batch_object(batch)), headers=notes)

    def _poke(self) -> None:
        if self._runner is not None:
            self._runner.poke()

    def _notes(self, request: Request) -> dict[str, str]:
        return parse_query(BatchQuery, request).notes(self._settings)


def batch_object(batch: Batch) -> dict[str, Any]:
    """A batch as OpenAI shows it."""
    moments = {name: batch.moments.get(name) for name in _MOMENTS}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {
            "object": "list",
            "data": [one.model_dump() for one in batch.errors],
        }
        if batch.errors
        else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id if batch.has_ended and batch.has_output else None,
        "error_file_id": batch.error_file_id if batch.has_ended and batch.has_errors else None,
        "created_at": int(batch.created),
        "expires_at": int(batch.expires),
        **{f"{name}_at": None if at is None else int(at) for name, at in moments.items()},
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "usage": {
            "input_tokens": batch.tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": batch.tokens,
        },
        "metadata": batch.metadata,
    }


def _spec(body: BatchBody) -> BatchSpec:
    """What was chosen.

    Raises:
        InvalidRequest: it is nothing that this server does.
    """
    if body.endpoint != ENDPOINT:
        raise InvalidRequest(
            f"`endpoint` must be {ENDPOINT}, not {quoted(body.endpoint)}", field="endpoint"
        )
    if body.completion_window != WINDOW:
        raise InvalidRequest(
            f"`completion_window` must be {WINDOW}, not {quoted(body.completion_window)}",
            field="completion_window",
        )
    expiry = body.output_expires_after
    return BatchSpec(
        endpoint=body.endpoint,
        completion_window=body.completion_window,
        input_file_id=body.input_file_id,
        metadata=_metadata(body.metadata),
        output_expires_after_s=KEPT_S
        if expiry is None
        else check_kept_s(expiry.get("anchor"), expiry.get("seconds"), "output_expires_after"),
    )


def _metadata(given: dict[str, Any] | None) -> dict[str, str] | None:
    if given is None:
        return None
    if len(given) > _MOST_METADATA:
        raise InvalidRequest(
            f"`metadata` has {len(given)} entries; at most {_MOST_METADATA} are kept",
            field="metadata",
        )
    for name, value in given.items():
        if len(name) > _LONGEST_METADATA_NAME:
            raise InvalidRequest(
                f"`metadata`: a name may have {_LONGEST_METADATA_NAME} characters, not {len(name)}",
                field="metadata",
            )
        path = f"metadata.{name}"
        if not isinstance(value, str):
            raise wrong_type(path, "a string", value)
        if len(value) > _LONGEST_METADATA_VALUE:
            raise InvalidRequest(
                f"`{path}` may have {_LONGEST_METADATA_VALUE} characters, not {len(value)}",
                field=path,
            )
    return given
