"""Limits of keys as clients meet them: what is left, when to come back, and in which words."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from fledge.accounts.limits import Holder, Reservation
from fledge.errors import LimitsUnavailable
from tests.keyed import Keyed

LONG = "w " * 14
"""9 tokens by its estimate, 16 by the backend's count."""

DIALECTS = pytest.mark.parametrize("path", ["/v1/embeddings", "/"])
# What is read across origins without being named.
SAFELISTED = {"content-length", "content-type"}
OF_CORS = ("access-control-", "vary")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Keyed]:
    with Keyed(tmp_path) as place:
        yield place


def post(client: TestClient, path: str = "/v1/embeddings", text: str = "a") -> Any:
    return client.post(path, json={"input": text, "inputs": text})


def limit_headers(response: Any) -> dict[str, str]:
    """What an answer says of limits."""
    prefixes = ("x-ratelimit-", "ratelimit", "retry-after", "x-should-retry")
    return {name: value for name, value in response.headers.items() if name.startswith(prefixes)}


def error_of(response: Any, path: str) -> Any:
    """The parts of an error's body that are not its message, which comes last."""
    error = response.json()["error"]
    if path == "/":
        return response.json()["error_type"], error
    assert error["param"] is None
    return error["type"], error["code"], error["message"]


@DIALECTS
def test_an_answer_says_what_is_left(place: Keyed, path: str) -> None:
    secret = place.key(requests_per_minute=60, tokens_per_minute=6000)
    with place.client(secret) as client:
        assert limit_headers(post(client, path, LONG)) == {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-limit-tokens": "6000",
            "x-ratelimit-remaining-tokens": "5984",
            "x-ratelimit-reset-tokens": "160ms",
            "ratelimit": '"api";r=59;t=1, "tokens";r=5984;t=1',
            "ratelimit-policy": '"api";q=60;w=60, "tokens";q=6000;w=60',
        }


def test_without_limits_nothing_is_said_of_them(place: Keyed) -> None:
    with place.client() as client:
        assert limit_headers(post(client)) == {}
    with place.client(place.key()) as client:
        assert limit_headers(post(client)) == {}


@DIALECTS
def test_too_many_requests_are_told_when_to_come_back(place: Keyed, path: str) -> None:
    with place.client(place.key(requests_per_minute=2)) as client:
        assert [post(client, path).status_code for _ in range(2)] == [200, 200]
        response = post(client, path)
        assert response.status_code == 429
        said = (
            "Rate limit reached. This key may use 2 requests a minute; 0 are left now; try again "
            "in 30.0 s"
        )
        assert error_of(response, path) == (
            ("Overloaded", said)
            if path == "/"
            else ("rate_limit_error", "rate_limit_exceeded", said)
        )
        assert limit_headers(response) == {
            "retry-after": "30",
            "retry-after-ms": "30000",
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "1m0s",
            "ratelimit": '"api";r=0;t=30',
            "ratelimit-policy": '"api";q=2;w=60',
        }
        assert len(place.backend.jobs) == 2
        place.clock.time += 29.9
        assert post(client, path).status_code == 429
        place.clock.time += 0.1
        assert post(client, path).status_code == 200


@DIALECTS
def test_too_many_tokens_are_told_when_to_come_back(place: Keyed, path: str) -> None:
    with place.client(place.key(tokens_per_minute=20)) as client:
        assert post(client, path, LONG).status_code == 200
        response = post(client, path, LONG)
        assert response.status_code == 429
        said = (
            "Rate limit reached. This key may use 20 tokens a minute; 4 are left now; this request "
            "has about 9: try again in 15.0 s"
        )
        assert error_of(response, path)[-1] == said
        assert limit_headers(response) == {
            "retry-after": "15",
            "retry-after-ms": "15000",
            "x-ratelimit-limit-tokens": "20",
            "x-ratelimit-remaining-tokens": "4",
            "x-ratelimit-reset-tokens": "48s",
            "ratelimit": '"tokens";r=0;t=15',
            "ratelimit-policy": '"tokens";q=20;w=60',
        }


@DIALECTS
def test_what_will_never_pass_is_not_to_be_tried_again(place: Keyed, path: str) -> None:
    with place.client(place.key(tokens_per_minute=20)) as client:
        response = post(client, path, "x" * 100)
        assert response.status_code == 429
        assert error_of(response, path)[-1] == (
            "Rate limit reached. This key may use 20 tokens a minute; this request has about 27 "
            "tokens: send it in parts"
        )
        assert limit_headers(response) == {
            "x-should-retry": "false",
            "x-ratelimit-limit-tokens": "20",
            "x-ratelimit-remaining-tokens": "20",
            "x-ratelimit-reset-tokens": "0s",
            "ratelimit": '"tokens";r=20;t=0',
            "ratelimit-policy": '"tokens";q=20;w=60',
        }


@DIALECTS
def test_one_request_too_many_at_a_time_is_told_as_featherless_tells_it(
    place: Keyed, path: str
) -> None:
    secret = place.key(concurrent_requests=1)
    body, headers = {"input": "a", "inputs": "a"}, {"authorization": f"Bearer {secret}"}
    place.backend.hold()

    async def main() -> None:
        transport = httpx2.ASGITransport(place.app)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=headers
        ) as client:
            first = asyncio.create_task(client.post(path, json=body))
            while not place.backend.jobs:
                assert not first.done()
                await asyncio.sleep(0)
            second = await client.post(path, json=body)
            assert second.status_code == 429
            said = (
                "Concurrency limit exceeded. This key may have 1 requests running at the same "
                "time, and has 1: try again when one of them is over"
            )
            assert error_of(second, path) == (
                ("Overloaded", said)
                if path == "/"
                else ("rate_limit_error", "concurrency_limit_exceeded", said)
            )
            assert limit_headers(second) == {"retry-after": "1", "retry-after-ms": "1000"}
            place.backend.release()
            assert (await first).status_code == 200
            assert (await client.post(path, json=body)).status_code == 200

    asyncio.run(main())


NINE_DAYS_AND_TEN_SECONDS = "777610"


def test_a_used_up_budget_is_a_429_of_its_own_code_for_openai_s_clients(place: Keyed) -> None:
    with place.client(place.key(monthly_token_budget=20)) as client:
        assert post(client, text=LONG).status_code == 200
        response = post(client, text=LONG)
        assert response.status_code == 429
        assert response.json()["error"] == {
            "message": "You exceeded your current quota, please check your plan and billing "
            "details. This key may use 20 tokens a calendar month (UTC), and 16 are used or "
            "reserved; this request has about 9; a new month begins in 9 days",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_quota",
        }
        assert limit_headers(response) == {
            "retry-after": NINE_DAYS_AND_TEN_SECONDS,
            "retry-after-ms": f"{NINE_DAYS_AND_TEN_SECONDS}000",
            "x-should-retry": "false",
        }
        place.clock.time += int(NINE_DAYS_AND_TEN_SECONDS)
        place.accounts.keyring.refresh()
        assert post(client, text=LONG).status_code == 200


def test_a_used_up_budget_is_the_402_of_used_up_credits_for_hugging_face_s_clients(
    place: Keyed,
) -> None:
    with place.client(place.key(monthly_token_budget=20)) as client:
        assert post(client, "/", LONG).status_code == 200
        response = post(client, "/", LONG)
        assert response.status_code == 402
        assert response.json() == {
            "error": "You have exceeded your monthly included credits. This key may use 20 tokens "
            "a calendar month (UTC), and 16 are used or reserved; this request has about 9; a new "
            "month begins in 9 days",
            "error_type": "Quota",
        }
        assert response.headers["x-fledge-error"] == "insufficient_quota"
        assert response.headers["retry-after"] == NINE_DAYS_AND_TEN_SECONDS


def test_a_request_larger_than_the_budget_names_no_time(place: Keyed) -> None:
    with place.client(place.key(monthly_token_budget=20)) as client:
        response = post(client, text="x" * 100)
        assert response.status_code == 429
        assert limit_headers(response) == {"x-should-retry": "false"}


def test_limits_are_each_key_s_own(place: Keyed) -> None:
    with place.client(place.key("a", requests_per_minute=1)) as client:
        assert [post(client).status_code for _ in range(2)] == [200, 429]
    other = place.key("b", requests_per_minute=1)
    headers = {"authorization": f"Bearer {other}"}
    assert place.client().post("/", json={"inputs": "a"}, headers=headers).status_code == 200


def test_what_is_only_read_is_not_limited(place: Keyed) -> None:
    with place.client(place.key(requests_per_minute=1)) as client:
        assert post(client).status_code == 200
        assert {client.get("/v1/models").status_code for _ in range(5)} == {200}


class Unreachable:
    """Limits whose books cannot be reached."""

    are_shared = False

    async def reserve(self, holder: Holder, tokens: int) -> Reservation:
        raise LimitsUnavailable(
            "the limits of this key cannot be checked now; try again", retry_after_s=2.5
        )

    async def aclose(self) -> None:
        """Nothing is open."""


@DIALECTS
def test_limits_that_cannot_be_looked_up_are_told_when_to_come_back(
    tmp_path: Path, path: str
) -> None:
    with (
        Keyed(tmp_path, limits=Unreachable()) as place,
        place.client(place.key(requests_per_minute=1)) as client,
    ):
        response = post(client, path)
    assert response.status_code == 503
    assert limit_headers(response) == {"retry-after": "3", "retry-after-ms": "2500"}
    said = "the limits of this key cannot be checked now; try again"
    assert error_of(response, path) == (
        ("Unhealthy", said) if path == "/" else ("server_error", "limits_unavailable", said)
    )


@DIALECTS
def test_a_page_may_read_every_header(tmp_path: Path, path: str) -> None:
    with Keyed(tmp_path, cors_allow_origins=("*",)) as place:
        keys = [
            place.key("a", requests_per_minute=1, tokens_per_minute=20),
            place.key("b", monthly_token_budget=1),
            place.key("c", "admin"),
            "wrong",
        ]
        for secret in keys:
            with place.client(secret) as client:
                client.headers["origin"] = "https://app.example"
                for _ in range(2):
                    response = post(client, path, "a b")
                    sent = {name for name in response.headers if not name.startswith(OF_CORS)}
                    exposed = response.headers["access-control-expose-headers"]
                    assert sent - SAFELISTED <= set(exposed.split(", "))
