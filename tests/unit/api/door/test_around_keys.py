"""Around keys: a database that is away, browsers, accounts, what nobody is told, unread bodies."""

import asyncio
import logging
from datetime import date
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from fledge.accounts.usage import KEYLESS, OTHER
from fledge.accounts.usage_query import UsageQuery
from fledge.api.middleware.refusing import take_body
from fledge.errors import KeyMissing
from tests.keyed import MAX_STALE_S, Keyed
from tests.unit.api.conftest import Serve
from tests.unit.api.door.asking import (
    ALLOWED,
    BODY,
    HUGGING_FACE_PATHS,
    OPENAI_PATHS,
    REFUSED,
    WITHOUT,
    WRONG,
    code_of,
    post,
)

# While nobody can say which keys are valid.


def test_keys_that_nobody_can_check_any_more_are_the_server_s_own_fault(
    place: Keyed, client: TestClient
) -> None:
    secret = place.key()
    place.clock.time += MAX_STALE_S
    assert code_of(post(client, secret)) == ALLOWED
    place.clock.time += 1
    response = post(client, secret)
    assert code_of(response) == (503, "database_unavailable")
    assert response.headers["retry-after"] == "10"
    assert response.json() == {
        "error": {
            "message": "the accounts' database does not answer now; the server's log says why",
            "type": "server_error",
            "param": None,
            "code": "database_unavailable",
        }
    }
    assert client.get("/health").status_code == 200
    place.accounts.keyring.refresh()
    assert code_of(post(client, secret)) == ALLOWED


def test_that_503_is_not_fast_on_hugging_face_routes(place: Keyed, client: TestClient) -> None:
    """Their JavaScript client repeats one without a pause; see `Dialect.hold_503_s`."""
    place.clock.time += MAX_STALE_S + 1
    response = post(client, WRONG, "/")
    assert code_of(response) == (503, "database_unavailable")
    assert response.json()["error_type"] == "Unhealthy"
    assert response.elapsed.total_seconds() >= 1


# Browsers.

APP = {"origin": "https://app.example"}


def test_a_preflight_needs_no_key_and_a_refusal_can_be_read(tmp_path: Path) -> None:
    with Keyed(tmp_path, cors_allow_origins=("https://app.example",)) as place:
        secret = place.key()
        with place.client() as client:
            for method in ("GET", "POST", "DELETE"):
                asking = APP | {
                    "access-control-request-method": method,
                    "access-control-request-headers": "authorization, content-type",
                }
                answer = client.options("/v1/embeddings", headers=asking)
                assert answer.status_code == 200
                assert "authorization" in answer.headers["access-control-allow-headers"]
            refused = post(client, WRONG, **APP)
            assert code_of(refused) == REFUSED
            assert refused.headers["access-control-allow-origin"] == "https://app.example"
            assert code_of(post(client, secret, **APP)) == ALLOWED


@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_a_page_of_an_origin_that_is_not_listed_needs_more_than_a_key(
    place: Keyed, client: TestClient, method: str
) -> None:
    headers = {"authorization": f"Bearer {place.key()}", **APP}
    response = client.request(method, "/v1/embeddings", json=BODY, headers=headers)
    assert code_of(response) == (403, "not_allowed")
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("host", ["embed.example.org", "192.168.1.5:8080", "rebound.example"])
def test_a_server_that_needs_keys_answers_under_any_name(place: Keyed, host: str) -> None:
    with place.client() as client:
        assert code_of(client.post("/", json=BODY, headers={"host": host})) == (403, "not_allowed")
        secret = place.key()
        assert code_of(post(client, secret, host=host)) == ALLOWED
        assert code_of(client.post("/", json=BODY, headers={"host": host})) == WITHOUT


# On whose account.


def test_requests_are_on_the_account_of_their_key(place: Keyed, client: TestClient) -> None:
    new = place.new_key()
    post(client, new.secret, **{"X-HF-Bill-To": " an-org "})
    post(client, new.secret, "/", **{"x-hf-bill-to": "an-org"})
    odd = {b"authorization": f"Bearer {new.secret}".encode(), b"x-hf-bill-to": b"b\xe9b\xe9"}
    client.post("/", json=BODY, headers=odd)
    post(client, new.secret)
    assert {job.tenant for job in place.backend.jobs} == {new.key.id}
    today = date(2026, 11, 21)
    query = UsageQuery(since=today, until=today, group_by=("key", "bill_to"))
    rows = asyncio.run(place.accounts.usage(query))
    found = {(row["key_id"], row["bill_to"]): row["requests"] for row in rows}
    assert found == {
        (new.key.id, "an-org"): 2,
        (new.key.id, ""): 1,
        (new.key.id, OTHER): 1,
    }


def test_without_keys_who_is_to_be_billed_is_noted_all_the_same(place: Keyed) -> None:
    with place.client() as client:
        post(client, "hf_any", **{"X-HF-Bill-To": "an-org"})
        today = date(2026, 11, 21)
        query = UsageQuery(since=today, until=today, group_by=("key", "bill_to"))
        (row,) = asyncio.run(place.accounts.usage(query))
    assert (row["key_id"], row["bill_to"], row["requests"]) == (KEYLESS, "an-org", 1)


# What is told to nobody.


def test_no_secret_and_no_text_is_in_a_log_a_header_an_error_or_a_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    text = "a text that is nobody else's affair"
    body = BODY | {"input": text, "inputs": text, "query": text, "documents": [text]}
    answers = []
    with Keyed(tmp_path, cors_allow_origins=("*",)) as place, place.client() as client:
        small = place.key("small", requests_per_minute=1)
        ended, boss = place.key("ended", expires=place.clock.after(1)), place.key("boss", "admin")
        place.clock.time += 2
        secrets = [small, ended, boss, WRONG]
        for path in (*OPENAI_PATHS, *HUGGING_FACE_PATHS):
            for secret in secrets:
                for form in ({"authorization": f"Bearer: {secret}"}, {"x-api-key": secret}):
                    headers = {**form, "origin": "https://app.example", "x-request-id": "r-1"}
                    answers.append(client.post(path, json=body, headers=headers))
        place.clock.time += MAX_STALE_S + 1
        answers.append(post(client, small))
        metrics = client.get("/metrics", headers={"authorization": f"Bearer {small}"})
        assert metrics.status_code == 503
        place.accounts.keyring.refresh()
        metrics = client.get("/metrics", headers={"authorization": f"Bearer {small}"})
    assert {answer.status_code for answer in answers} >= {200, 401, 403, 404, 429, 503}
    told = [caplog.text, metrics.text, *(repr(vars(record)) for record in caplog.records)]
    told += [answer.text + str(answer.headers) for answer in answers]
    for secret in secrets:
        hidden = secret.removeprefix("fl-")
        assert not [one for one in told if secret in one or hidden[:8] in one or hidden[-8:] in one]
    assert not [one for one in told if text in one]


# A body that nobody reads.


class Sending:
    """A client that sends its body in parts; it waits for ever after the last one that is here."""

    def __init__(self, *parts: bytes, is_complete: bool = True) -> None:
        last = len(parts) - is_complete
        self.unread = [
            {"type": "http.request", "body": part, "more_body": n < last}
            for n, part in enumerate(parts)
        ]

    async def __call__(self) -> Message:
        if not self.unread:
            await asyncio.Event().wait()
        return self.unread.pop(0)


def test_a_refused_body_is_read_to_its_end() -> None:
    sending = Sending(b"a", b"b", b"c")
    asyncio.run(take_body({"headers": []}, sending))
    assert sending.unread == []


def test_a_refused_body_is_not_read_for_ever() -> None:
    sending = Sending(*[bytes(2**20)] * 100)
    asyncio.run(take_body({"headers": []}, sending))
    assert len(sending.unread) == 36


def test_a_client_that_asks_before_it_sends_is_not_told_to_go_on() -> None:
    sending = Sending(b"a")
    asyncio.run(take_body({"headers": [(b"expect", b"100-continue")]}, sending))
    assert len(sending.unread) == 1


def test_a_client_that_leaves_while_it_is_refused_is_no_error() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    asyncio.run(take_body({"headers": []}, receive))


def test_keys_are_not_asked_for_without_accounts(serve: Serve) -> None:
    assert serve().post("/", json=BODY).status_code == 200


def test_every_refusal_carries_the_request_s_own_id(client: TestClient) -> None:
    response = client.post("/", json=BODY, headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["x-fledge-error"] == KeyMissing.code
