"""Every error in the words of its dialect: the table, and what never reaches a client."""

import logging
import time
from typing import Any

import pytest

from fledge import errors
from fledge.api.errors import HUGGING_FACE, OPENAI, error_response, failure_of, row_of
from fledge.testing import FakeBackend
from tests.unit.api.conftest import Serve

EVERY_CLASS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.FledgeError)
]


def an_error(kind: type[errors.FledgeError]) -> errors.FledgeError:
    if issubclass(kind, errors.LimitExceeded):
        return kind("all used up", limit="requests", allowed=1, used=1, retry_after_s=1.0)
    if issubclass(kind, errors.TryLater):
        return kind("busy", retry_after_s=2.25)
    if issubclass(kind, errors.ModelLoading):
        return kind("org/name", estimated_time_s=3.5)
    if issubclass(kind, errors.ProviderError):
        return kind("what happened at /secret/path", provider="far", status=500)
    return kind("what happened at /secret/path")


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_every_error_has_a_row_and_a_body_in_each_dialect(kind: type[errors.FledgeError]) -> None:
    for dialect in (HUGGING_FACE, OPENAI):
        failure = failure_of(an_error(kind), dialect)
        assert 400 <= failure.status < 600
        assert dialect.error_body(failure)["error"]


def test_a_class_without_a_row_is_answered_as_its_ancestor() -> None:
    class Narrow(errors.EmptyInput):
        pass

    assert row_of(Narrow) is row_of(errors.EmptyInput)


STATUSES = [
    (errors.InvalidRequest, 400, 400, "Validation", "invalid_request_error"),
    (errors.EmptyInput, 400, 400, "Empty", "invalid_request_error"),
    (errors.InputTooLong, 400, 422, "Validation", "invalid_request_error"),
    (errors.TooManyInputs, 400, 400, "Validation", "invalid_request_error"),
    (errors.BodyTooLarge, 413, 413, "Validation", "invalid_request_error"),
    (errors.CannotCarry, 400, 400, "Validation", "invalid_request_error"),
    (errors.ProviderUnavailable, 503, 503, "Unhealthy", "server_error"),
    (errors.ProviderRefused, 400, 400, "Validation", "invalid_request_error"),
    (errors.ProviderDenied, 502, 502, "Backend", "server_error"),
    (errors.UnknownModel, 404, 404, "NotFound", "invalid_request_error"),
    (errors.Unauthorized, 401, 401, "Unauthorized", "invalid_request_error"),
    (errors.KeyMissing, 401, 401, "Unauthorized", "invalid_request_error"),
    (errors.Forbidden, 403, 403, "Forbidden", "permission_error"),
    (errors.NotAllowed, 403, 403, "Forbidden", "permission_error"),
    (errors.KeyNotFound, 404, 404, "NotFound", "invalid_request_error"),
    (errors.LimitExceeded, 429, 429, "Overloaded", "rate_limit_error"),
    (errors.ConcurrencyExceeded, 429, 429, "Overloaded", "rate_limit_error"),
    (errors.BudgetExceeded, 429, 402, "Quota", "insufficient_quota"),
    (errors.LimitsUnavailable, 503, 503, "Unhealthy", "server_error"),
    (errors.DatabaseUnavailable, 503, 503, "Unhealthy", "server_error"),
    (errors.Overloaded, 429, 429, "Overloaded", "rate_limit_error"),
    (errors.DeadlineExceeded, 504, 504, "Timeout", "server_error"),
    (errors.ComputeError, 500, 500, "Backend", "server_error"),
    (errors.ModelOffline, 503, 503, "Unhealthy", "server_error"),
    (errors.SettingsError, 500, 500, "Internal", "server_error"),
]


@pytest.mark.parametrize(("kind", "openai", "hugging_face", "error_type", "openai_type"), STATUSES)
def test_each_error_has_its_status_and_body(
    serve: Serve,
    kind: type[errors.FledgeError],
    openai: int,
    hugging_face: int,
    error_type: str,
    openai_type: str,
) -> None:
    backend = FakeBackend()
    backend.error = an_error(kind)
    client = serve(backend)
    first = client.post("/v1/embeddings", json={"input": "a"})
    assert first.status_code == openai
    assert set(first.json()) == {"error"}
    assert set(first.json()["error"]) == {"message", "type", "param", "code"}
    assert first.json()["error"]["type"] == openai_type
    assert first.json()["error"]["code"] == kind.code == first.headers["x-fledge-error"]
    second = client.post("/", json={"inputs": "a"})
    assert second.status_code == hugging_face
    assert set(second.json()) == {"error", "error_type"}
    assert isinstance(second.json()["error"], str)
    assert second.json()["error_type"] == error_type
    for response in (first, second):
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "kind",
    [
        errors.ComputeError,
        errors.BackendUnavailable,
        errors.ProviderDenied,
        errors.SettingsError,
    ],
)
def test_the_servers_own_faults_are_told_to_the_log_alone(
    serve: Serve, kind: type[errors.FledgeError], caplog: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend()
    backend.error = an_error(kind)
    headers = {"x-request-id": "abc-1"}
    response = serve(backend).post("/v1/embeddings", json={"input": "a"}, headers=headers)
    assert "/secret/path" not in response.text
    assert "/secret/path" in caplog.text
    assert "abc-1" in caplog.text


WORDS = [
    (
        errors.Unauthorized,
        "Incorrect API key provided. ",
        "Invalid credentials in Authorization header. ",
    ),
    (errors.KeyMissing, "You didn't provide an API key. ", "Invalid username or password. "),
    (
        errors.Forbidden,
        "You have insufficient permissions for this operation. ",
        "This authentication method does not have sufficient permissions. ",
    ),
    (errors.LimitExceeded, "Rate limit reached. ", "Rate limit reached. "),
    (errors.ConcurrencyExceeded, "Concurrency limit exceeded. ", "Concurrency limit exceeded. "),
    (
        errors.BudgetExceeded,
        "You exceeded your current quota, please check your plan and billing details. ",
        "You have exceeded your monthly included credits. ",
    ),
]


@pytest.mark.parametrize(("kind", "openai", "hugging_face"), WORDS)
def test_a_message_begins_with_the_words_of_the_official_server(
    kind: type[errors.FledgeError], openai: str, hugging_face: str
) -> None:
    error = an_error(kind)
    own = str(error)
    said = own[0].upper() + own[1:]
    assert failure_of(error, OPENAI).message == openai + said
    assert failure_of(error, HUGGING_FACE).message == hugging_face + said


@pytest.mark.parametrize("kind", [errors.NotAllowed, errors.Forbidden])
def test_the_hub_s_client_is_told_of_a_403_where_it_looks(
    kind: type[errors.FledgeError],
) -> None:
    """It shows the header `x-error-message`, and `None` without it; see `huggingface_hub`."""
    response = error_response(kind('a "strange" one\n\x00é'), HUGGING_FACE, "r-1")
    assert response.headers["x-error-message"].endswith("%22strange%22 one%0A%00%C3%A9")
    assert "x-error-message" not in error_response(kind("a"), OPENAI, "r-1").headers


def test_overload_says_when_to_come_back(serve: Serve) -> None:
    backend = FakeBackend()
    backend.error = errors.Overloaded("busy", retry_after_s=2.25)
    headers = serve(backend).post("/", json={"inputs": "a"}).headers
    assert headers["retry-after"] == "3"
    assert headers["retry-after-ms"] == "2250"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/"])
def test_a_model_that_is_not_found_is_nothing_to_try_again(serve: Serve, path: str) -> None:
    backend = FakeBackend()
    backend.error = errors.ModelNotFound("the hub has no such repository", retry_after_s=600)
    response = serve(backend).post(path, json={"input": "a", "inputs": "a"})
    assert (response.status_code, response.headers["x-fledge-error"]) == (
        404,
        errors.ModelNotFound.code,
    )
    assert not [name for name in response.headers if name.startswith("retry-after")]


def test_a_long_download_is_asked_after_once_a_minute(serve: Serve) -> None:
    backend = FakeBackend()
    backend.error = errors.ModelLoading("org/name", estimated_time_s=3600)
    response = serve(backend).post("/", json={"inputs": "a"})
    assert response.headers["retry-after"] == "60"
    assert response.headers["retry-after-ms"] == "60000"
    assert response.json()["estimated_time"] == 3600, "the estimate is told as it is"


def test_coming_back_at_once_is_still_a_second_in_whole_seconds(serve: Serve) -> None:
    backend = FakeBackend()
    backend.error = errors.Overloaded("busy", retry_after_s=0.0)
    headers = serve(backend).post("/", json={"inputs": "a"}).headers
    assert headers["retry-after"] == "1"
    assert headers["retry-after-ms"] == "1"


def test_a_503_is_never_fast_on_hugging_face_routes(serve: Serve) -> None:
    """The hub's JavaScript client repeats a 503 without a pause, about 900 times a second."""
    backend = FakeBackend()
    backend.error = errors.ModelLoadError("no memory", retry_after_s=9.5)
    client = serve(backend)
    started = time.monotonic()
    response = client.post("/", json={"inputs": "a"})
    assert time.monotonic() - started >= 1
    assert response.status_code == 503
    assert response.headers["retry-after"] == "10"


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        (
            "GET",
            "/nothing/here",
            404,
            {
                "error": "not found: GET /nothing/here; /docs lists the routes",
                "error_type": "NotFound",
            },
        ),
        (
            "POST",
            "/v1/nothing",
            404,
            {
                "error": {
                    "message": "not found: POST /v1/nothing; /docs lists the routes",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": "not_found",
                }
            },
        ),
        (
            "PUT",
            "/models/a/b",
            405,
            {
                "error": "method not allowed: PUT /models/a/b; /docs lists the routes",
                "error_type": "MethodNotAllowed",
            },
        ),
        (
            "GET",
            "/v1/embeddings",
            405,
            {
                "error": {
                    "message": "method not allowed: GET /v1/embeddings; /docs lists the routes",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": "method_not_allowed",
                }
            },
        ),
    ],
)
def test_a_route_that_is_not_there_is_told_in_the_dialect_of_its_path(
    serve: Serve, method: str, path: str, status: int, body: Any
) -> None:
    response = serve().request(method, path)
    assert (response.status_code, response.json()) == (status, body)
    assert response.headers["content-type"] == "application/json"


def test_a_wrong_method_is_answered_with_all_the_right_ones(serve: Serve) -> None:
    assert serve().delete("/models/a/b").headers["allow"] == "GET, HEAD, POST"
    assert serve().get("/rerank").headers["allow"] == "POST"


def test_a_path_that_is_no_utf8_is_just_not_found(serve: Serve) -> None:
    assert serve().post("/models/%ff%fe", json={"inputs": "a"}).status_code == 404


@pytest.mark.parametrize(("path", "field"), [("/", "inputs"), ("/v1/embeddings", "input")])
def test_a_failure_nobody_foresaw_is_answered_safely_and_raised_on(
    serve: Serve, path: str, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend()
    backend.error = ZeroDivisionError("in /secret/path")
    client = serve(backend)
    response = client.post(path, json={field: "a"}, headers={"x-request-id": "abc-2"})
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "abc-2"
    error = response.json()["error"]
    message = error if path == "/" else error["message"]
    assert message == "the server failed on request abc-2; its log says why"
    assert "request abc-2 failed: ZeroDivisionError" in caplog.text

    caplog.set_level(logging.CRITICAL)
    with pytest.raises(ZeroDivisionError):
        type(client)(client.app, base_url="http://127.0.0.1").post(path, json={field: "a"})
