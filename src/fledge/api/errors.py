"""The one table from an error's class to a status, and each dialect's body for it.

A class that is not in the table is answered as its nearest ancestor that is. Messages of errors
that are the server's own fault stay in its log: they may name files and addresses.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from fledge.accounts.limit_fields import limit_fields
from fledge.api.rendering import JsonResponse, dump, header_value
from fledge.errors import (
    BackendUnavailable,
    BatchEnded,
    BodyTooLarge,
    BudgetExceeded,
    ComputeError,
    ConcurrencyExceeded,
    DatabaseUnavailable,
    DeadlineExceeded,
    EmptyInput,
    FileInUse,
    FledgeError,
    Forbidden,
    InputTooLong,
    InvalidRequest,
    KeyMissing,
    KeyNotFound,
    LimitExceeded,
    LimitsUnavailable,
    ModelLoadError,
    ModelLoading,
    ModelNotFound,
    NotAllowed,
    Overloaded,
    ProviderDenied,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    Stopping,
    StorageQuotaExceeded,
    StorageUnavailable,
    TryLater,
    Unauthorized,
    UnknownBatch,
    UnknownFile,
    UnknownModel,
)
from fledge.telemetry.notes import request_notes
from fledge.types import Standing

_log = logging.getLogger(__name__)

# A guess: a model that is being unloaded is back in seconds, and a database may be; one that died
# needs an operator.
_RETRY_AFTER_S = 10.0
# A guess: a restart takes longer, but behind a load balancer another instance answers at once.
_STOPPING_RETRY_AFTER_S = 1.0

# The estimate of a download is rough, and grows where the network is slow: a client that slept for
# all of it would come back long after the model is warm.
_MOST_LOADING_RETRY_AFTER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How one class of error is answered.

    Attributes:
        status: the HTTP status.
        error_type: the word for it in Hugging Face bodies, in the spelling of its servers.
        hugging_face_status: where those routes differ.
        safe_message: what is said in place of the error's own message; None: that one.
    """

    status: HTTPStatus
    error_type: str
    hugging_face_status: HTTPStatus | None = None
    safe_message: str | None = None


TABLE: dict[type[FledgeError], Row] = {
    InvalidRequest: Row(status=HTTPStatus.BAD_REQUEST, error_type="Validation"),
    EmptyInput: Row(status=HTTPStatus.BAD_REQUEST, error_type="Empty"),
    InputTooLong: Row(
        status=HTTPStatus.BAD_REQUEST,
        error_type="Validation",
        hugging_face_status=HTTPStatus.UNPROCESSABLE_ENTITY,
    ),
    BodyTooLarge: Row(status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error_type="Validation"),
    UnknownModel: Row(status=HTTPStatus.NOT_FOUND, error_type="NotFound"),
    UnknownFile: Row(status=HTTPStatus.NOT_FOUND, error_type="NotFound"),
    UnknownBatch: Row(status=HTTPStatus.NOT_FOUND, error_type="NotFound"),
    FileInUse: Row(status=HTTPStatus.CONFLICT, error_type="Validation"),
    BatchEnded: Row(status=HTTPStatus.CONFLICT, error_type="Validation"),
    StorageUnavailable: Row(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        error_type="Unhealthy",
        safe_message="files cannot be read or written now; the server's log says why",
    ),
    Unauthorized: Row(status=HTTPStatus.UNAUTHORIZED, error_type="Unauthorized"),
    Forbidden: Row(status=HTTPStatus.FORBIDDEN, error_type="Forbidden"),
    KeyNotFound: Row(status=HTTPStatus.NOT_FOUND, error_type="NotFound"),
    DatabaseUnavailable: Row(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        error_type="Unhealthy",
        safe_message="the accounts' database does not answer now; the server's log says why",
    ),
    LimitExceeded: Row(status=HTTPStatus.TOO_MANY_REQUESTS, error_type="Overloaded"),
    # OpenAI's clients know a used-up budget as a 429 of its own code, those of the hub as the 402
    # of its used-up credits. No client of either tries a 402 again.
    BudgetExceeded: Row(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        error_type="Quota",
        hugging_face_status=HTTPStatus.PAYMENT_REQUIRED,
    ),
    LimitsUnavailable: Row(status=HTTPStatus.SERVICE_UNAVAILABLE, error_type="Unhealthy"),
    NotAllowed: Row(status=HTTPStatus.FORBIDDEN, error_type="Forbidden"),
    Overloaded: Row(status=HTTPStatus.TOO_MANY_REQUESTS, error_type="Overloaded"),
    # Not 503: that one sends the JavaScript client of Hugging Face into retries without a pause.
    DeadlineExceeded: Row(status=HTTPStatus.GATEWAY_TIMEOUT, error_type="Timeout"),
    ModelLoading: Row(status=HTTPStatus.SERVICE_UNAVAILABLE, error_type="Loading"),
    ModelNotFound: Row(status=HTTPStatus.NOT_FOUND, error_type="NotFound"),
    # Its message comes from the lifecycle, which leaves out the paths of this machine.
    ModelLoadError: Row(status=HTTPStatus.SERVICE_UNAVAILABLE, error_type="Unhealthy"),
    BackendUnavailable: Row(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        error_type="Unhealthy",
        safe_message="the model cannot be reached now; the server's log says why",
    ),
    # Its message has at most a short line of the provider's own words.
    ProviderError: Row(status=HTTPStatus.BAD_GATEWAY, error_type="Backend"),
    ProviderUnavailable: Row(status=HTTPStatus.SERVICE_UNAVAILABLE, error_type="Unhealthy"),
    ProviderRefused: Row(status=HTTPStatus.BAD_REQUEST, error_type="Validation"),
    ProviderDenied: Row(
        status=HTTPStatus.BAD_GATEWAY,
        error_type="Backend",
        safe_message="the model's provider does not answer this server; the server's log says why",
    ),
    Stopping: Row(status=HTTPStatus.SERVICE_UNAVAILABLE, error_type="Unhealthy"),
    ComputeError: Row(
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        error_type="Backend",
        safe_message="the model failed to compute this request; the server's log says why",
    ),
    FledgeError: Row(
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        error_type="Internal",
        safe_message="the server failed; its log says why",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error on its way out: all that any dialect's body shows.

    Attributes:
        estimated_time_s: of a model that is loading, about how much longer it will take.
    """

    status: int
    code: str
    error_type: str
    message: str
    field: str | None = None
    estimated_time_s: float | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """The part of an API surface that errors need.

    Attributes:
        name: for people and logs.
        error_body: the JSON value of an error's body.
        own_status: the column of the table that overrides `status`, if it has one.
        words: how messages begin where its official server has words of its own, which programs
            and people look for; the message itself follows.
        own_headers: what its clients read of an error beside its body.
        hold_503_s: seconds that a 503 is held back, for clients that retry it at once.
    """

    name: str
    error_body: Callable[[Failure], dict[str, Any]]
    own_status: Callable[[Row], HTTPStatus | None]
    words: Mapping[type[FledgeError], str]
    own_headers: Callable[[Failure], dict[str, str]]
    hold_503_s: float


def _hugging_face_body(failure: Failure) -> dict[str, Any]:
    """`error` is a string and nothing else: the official clients show no other kind."""
    if failure.estimated_time_s is not None:
        return {"error": failure.message, "estimated_time": failure.estimated_time_s}
    return {"error": failure.message, "error_type": failure.error_type}


def _hugging_face_headers(failure: Failure) -> dict[str, str]:
    """What `huggingface_hub` shows of a 403, and the words by which it knows a 401: it takes one
    without them for a repository that does not exist."""
    if failure.status == HTTPStatus.UNAUTHORIZED:
        return {"x-error-message": _REFUSED_BY_THE_HUB}
    if failure.status == HTTPStatus.FORBIDDEN:
        return {"x-error-message": failure.message}
    return {}


def _openai_body(failure: Failure) -> dict[str, Any]:
    """`error` is an object: the official clients show no other kind."""
    kinds = {403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(
        failure.status, "server_error" if failure.status >= 500 else "invalid_request_error"
    )
    if failure.code == BudgetExceeded.code:
        kind = failure.code  # as OpenAI has it, in both places
    return {
        "error": {
            "message": failure.message,
            "type": kind,
            "param": failure.field,
            "code": failure.code,
        }
    }


_REFUSED_BY_THE_HUB = "Invalid credentials in Authorization header"

HUGGING_FACE = Dialect(
    "huggingface",
    _hugging_face_body,
    lambda row: row.hugging_face_status,
    words={
        KeyMissing: "Invalid username or password",
        Unauthorized: _REFUSED_BY_THE_HUB,
        Forbidden: "This authentication method does not have sufficient permissions",
        LimitExceeded: "Rate limit reached",
        ConcurrencyExceeded: "Concurrency limit exceeded",
        BudgetExceeded: "You have exceeded your monthly included credits",
    },
    own_headers=_hugging_face_headers,
    hold_503_s=1.0,
)
OPENAI = Dialect(
    "openai",
    _openai_body,
    lambda _: None,
    words={
        KeyMissing: "You didn't provide an API key",
        Unauthorized: "Incorrect API key provided",
        Forbidden: "You have insufficient permissions for this operation",
        LimitExceeded: "Rate limit reached",
        StorageQuotaExceeded: "You have exceeded your file storage quota",
        # Featherless's, where these limits come from.
        ConcurrencyExceeded: "Concurrency limit exceeded",
        BudgetExceeded: "You exceeded your current quota, please check your plan and billing "
        "details",
    },
    own_headers=lambda _: {},
    hold_503_s=0.0,
)


def dialect_of_path(path: str) -> Dialect:
    """The dialect of a request that reached no route."""
    openai = path.startswith(("/v1/", "/admin/")) or path.endswith("/embeddings")
    return OPENAI if openai and path != "/v1/" else HUGGING_FACE


def row_of(kind: type[FledgeError]) -> Row:
    """The row of the class or of its nearest ancestor."""
    return next(TABLE[ancestor] for ancestor in kind.__mro__ if ancestor in TABLE)


def failure_of(error: FledgeError, dialect: Dialect) -> Failure:
    """What a dialect tells of an error."""
    row = row_of(type(error))
    field = error.field if isinstance(error, InvalidRequest) else None
    return Failure(
        status=dialect.own_status(row) or row.status,
        code=error.code,
        error_type=row.error_type,
        message=row.safe_message or _message(error, dialect),
        field="model" if isinstance(error, UnknownModel | ModelNotFound) else field,
        estimated_time_s=error.estimated_time_s if isinstance(error, ModelLoading) else None,
    )


def _message(error: FledgeError, dialect: Dialect) -> str:
    message = str(error)
    for kind in type(error).__mro__:
        if (words := dialect.words.get(kind)) is not None:
            return f"{words}. {message[:1].upper()}{message[1:]}"
    return message


def error_response(error: FledgeError, dialect: Dialect, request_id: str) -> Response:
    """The whole answer for an error. What the client is not told goes to the log."""
    failure = failure_of(error, dialect)
    if row_of(type(error)).safe_message is not None:
        _log.error("request %s: %s", request_id, error.code, exc_info=error)
    response = failure_response(failure, dialect, dialect.own_headers(failure))
    response.headers.update(_headers(error))
    return response


async def hold_back(response: Response, dialect: Dialect) -> None:
    """Keep a 503 for as long as the dialect's clients need it."""
    if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
        await asyncio.sleep(dialect.hold_503_s)


def failure_response(
    failure: Failure, dialect: Dialect, headers: dict[str, str] | None = None
) -> Response:
    """The answer for a failure, in the words of a dialect."""
    response = JsonResponse(dump(dialect.error_body(failure)), status_code=failure.status)
    for name, value in (headers or {}).items():
        response.headers[name] = header_value(value)
    # Read by the metrics on the way out, so that every failure is counted in one place.
    response.headers["x-fledge-error"] = failure.code
    return response


def _headers(error: FledgeError) -> dict[str, str]:
    """What every dialect tells of an error beside its body; nothing in it is a client's."""
    headers: dict[str, str] = {}
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, LimitExceeded):
        request_notes().limit = error.limit
        headers |= limit_fields(error.standing or Standing(), error)
        if error.retry_after_s is None or isinstance(error, BudgetExceeded):
            # OpenAI's clients repeat any other 429 at once, whatever its code.
            headers["x-should-retry"] = "false"
    if (retry_after_s := _retry_after_s(error)) is not None:
        headers |= _retry_headers(retry_after_s)
    return headers


def _retry_after_s(error: FledgeError) -> float | None:
    """Seconds after which it may be worth trying again; None: that is not for a client to try."""
    match error:
        case ModelLoading():
            return min(error.estimated_time_s, _MOST_LOADING_RETRY_AFTER_S)
        case ModelNotFound():
            return None
        case TryLater() | LimitExceeded():
            return error.retry_after_s
        case ModelLoadError() | ProviderUnavailable() if error.retry_after_s is not None:
            return error.retry_after_s
        case ModelLoadError() | BackendUnavailable() | DatabaseUnavailable():
            return _RETRY_AFTER_S
        case ProviderUnavailable():
            return _RETRY_AFTER_S
        case Stopping():
            return _STOPPING_RETRY_AFTER_S
        case _:
            return None


def _retry_headers(retry_after_s: float) -> dict[str, str]:
    """Whole seconds, at least one, for everybody; milliseconds for clients that read them."""
    return {
        "retry-after": str(max(1, math.ceil(retry_after_s))),
        "retry-after-ms": str(max(1, math.ceil(retry_after_s * 1000))),
    }
