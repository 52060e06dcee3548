"""`/admin/keys`: what it does, whom it refuses, and where secrets are not."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.keyed import Keyed
from tests.unit.api.conftest import Serve


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Keyed]:
    with Keyed(tmp_path) as place:
        place.clock.time = time.time()  # the routes go by the real one
        yield place


@pytest.fixture
def admin(place: Keyed) -> Iterator[TestClient]:
    with place.client(place.key("boss", "admin")) as client:
        yield client


def message(response: Any, status: int = 400) -> str:
    assert response.status_code == status, response.text
    text: str = response.json()["error"]["message"]
    return text


def embed(place: Keyed, secret: str) -> int:
    response = place.client(secret).post("/v1/embeddings", json={"input": "a"})
    status: int = response.status_code
    return status


def test_a_key_is_made_and_its_secret_told_once(place: Keyed, admin: TestClient) -> None:
    response = admin.post("/admin/keys", json={"name": "team"})

    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    made = response.json()
    assert response.headers["location"] == f"/admin/keys/{made['id']}"
    assert made["state"] == "active"
    assert (made["scopes"], made["models"], made["expires"]) == (["inference"], ["*"], None)
    assert embed(place, made["secret"]) == 200
    for path in ("/admin/keys", "/admin/keys?all=true", "/admin/keys/team"):
        assert made["secret"] not in admin.get(path).text


def test_every_choice_is_stored(admin: TestClient) -> None:
    choices: dict[str, Any] = {
        "name": "team",
        "scopes": ["admin", "inference"],
        "models": ["BAAI/*"],
        "expires": "2999-01-01",
        "requests_per_minute": 60,
        "tokens_per_minute": 1000,
        "concurrent_requests": 4,
        "monthly_token_budget": 10**9,
        "monthly_budget": 12.5,
    }
    admin.post("/admin/keys", json=choices)
    shown = admin.get("/admin/keys/team").json()

    assert choices | {"expires": "2999-01-01T00:00:00Z"} == {name: shown[name] for name in choices}


def test_null_is_as_absent(admin: TestClient) -> None:
    body = {"name": "a", "scopes": None, "models": None, "expires": None}
    assert admin.post("/admin/keys", json=body).status_code == 201


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "name", "`name` is required"),
        ({"name": 5}, "name", "must be a string"),
        ({"name": "fl-x"}, "name", "must not begin with fl-"),
        ({"name": "a", "scopes": ["root"]}, "scopes[0]", "'inference' or 'admin'"),
        ({"name": "a", "scopes": []}, "scopes", "must be some of"),
        ({"name": "a", "models": []}, "models", "must have 1 to 100 patterns"),
        ({"name": "a", "expires": "soon"}, "expires", "must be a duration as 30d"),
        ({"name": "a", "expires": "2020-01-01"}, "expires", "must be in the future"),
        ({"name": "a", "requests_per_minute": 0}, "requests_per_minute", "from 1 to"),
        ({"name": "a", "requests_per_minute": "9"}, "requests_per_minute", "a whole number"),
        ({"name": "a", "monthly_budget": 0}, "monthly_budget", "an amount of money above 0"),
        ({"name": "a", "monthly_budget": "9"}, "monthly_budget", "must be a number"),
        # A slip in the name of a limit would be a key without one.
        ({"name": "a", "request_per_minute": 9}, "request_per_minute", "is no field here"),
    ],
)
def test_what_no_key_can_be_names_its_field(
    admin: TestClient, body: dict[str, Any], field: str, words: str
) -> None:
    response = admin.post("/admin/keys", json=body)

    assert words in message(response)
    assert response.json()["error"]["param"] == field
    assert len(admin.get("/admin/keys").json()["data"]) == 1


def test_a_name_is_given_once(admin: TestClient) -> None:
    admin.post("/admin/keys", json={"name": "team"})
    response = admin.post("/admin/keys", json={"name": "team"})

    assert "there is a key named team already" in message(response)
    assert response.json()["error"]["code"] == "key_name_taken"


@pytest.mark.parametrize("content", [b"", b"[]", b"{"])
def test_a_body_that_is_no_object_is_refused(admin: TestClient, content: bytes) -> None:
    response = admin.post("/admin/keys", content=content)
    assert message(response).startswith("the body ")


def test_the_list_has_those_that_are_accepted(admin: TestClient) -> None:
    admin.post("/admin/keys", json={"name": "old"})
    admin.delete("/admin/keys/old")

    def names(query: str) -> list[str]:
        body = admin.get(f"/admin/keys{query}").json()
        assert body["object"] == "list"
        return [key["name"] for key in body["data"]]

    assert names("") == ["boss"]
    assert sorted(names("?all=true")) == ["boss", "old"]


def test_a_revoked_key_is_refused_at_once(place: Keyed, admin: TestClient) -> None:
    made = admin.post("/admin/keys", json={"name": "team"}).json()
    response = admin.delete(f"/admin/keys/{made['id']}")

    assert (response.status_code, response.json()["state"]) == (200, "revoked")
    assert embed(place, made["secret"]) == 401
    assert admin.delete("/admin/keys/team").json()["revoked"] == response.json()["revoked"]


def test_rotating_gives_another_secret_and_keeps_the_old_one_for_a_while(
    place: Keyed, admin: TestClient
) -> None:
    made = admin.post("/admin/keys", json={"name": "team"}).json()
    at_once = admin.post("/admin/keys/team/rotate")
    assert (at_once.status_code, at_once.headers["cache-control"]) == (200, "no-store")
    assert at_once.json()["id"] == made["id"]
    assert embed(place, made["secret"]) == 401

    later = admin.post("/admin/keys/team/rotate", json={"grace_s": 60}).json()
    assert embed(place, at_once.json()["secret"]) == embed(place, later["secret"]) == 200
    place.clock.time += 61
    place.accounts.keyring.refresh()
    assert embed(place, at_once.json()["secret"]) == 401
    assert embed(place, later["secret"]) == 200


@pytest.mark.parametrize(
    ("grace_s", "said"),
    [
        (-1, "must be from 0 to 31536000, not -1"),
        ("1h", 'must be a number, not the string "1h"'),
        (1e12, "must be from 0 to 31536000"),
        (None, "must be a number, not null"),
    ],
)
def test_a_grace_that_is_none_is_refused(admin: TestClient, grace_s: Any, said: str) -> None:
    response = admin.post("/admin/keys/boss/rotate", json={"grace_s": grace_s})
    assert f"`grace_s` {said}" in message(response)


def test_a_revoked_key_is_not_rotated(admin: TestClient) -> None:
    admin.post("/admin/keys", json={"name": "team"})
    admin.delete("/admin/keys/team")
    assert "team is revoked" in message(admin.post("/admin/keys/team/rotate"))


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "nobody"), ("DELETE", "nobody"), ("POST", "nobody/rotate"), ("GET", "a/b%20%00")],
)
def test_a_key_that_is_not_there_is_not_found(admin: TestClient, method: str, path: str) -> None:
    response = admin.request(method, f"/admin/keys/{path}")

    assert message(response, 404) == "there is no key of that id or name"
    assert response.json()["error"]["code"] == "key_not_found"


def test_a_name_may_have_a_slash_and_other_letters(admin: TestClient) -> None:
    for name in ("team/a", "Équipe 2", "x/rotate"):
        assert admin.post("/admin/keys", json={"name": name}).status_code == 201
        assert admin.get(f"/admin/keys/{name}").json()["name"] == name
    assert admin.post("/admin/keys/x/rotate/rotate").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/admin/keys"),
        ("GET", "/admin/keys"),
        ("GET", "/admin/keys/boss"),
        ("DELETE", "/admin/keys/boss"),
        ("POST", "/admin/keys/boss/rotate"),
    ],
)
def test_a_key_for_inference_may_not(place: Keyed, method: str, path: str) -> None:
    place.key("boss", "admin")
    body = {"name": "mine"}
    client = place.client(place.key("user"))
    assert "admin is needed" in message(client.request(method, path, json=body), 403)
    assert place.client().request(method, path, json=body).status_code == 401
    assert {key.name for key in place.store.listed()} == {"boss", "user"}


def test_without_any_key_a_caller_on_this_machine_makes_the_first(place: Keyed) -> None:
    client = place.client()
    made = client.post("/admin/keys", json={"name": "boss", "scopes": ["admin"]})

    assert made.status_code == 201
    assert client.get("/admin/keys").status_code == 401
    assert place.client(made.json()["secret"]).get("/admin/keys").status_code == 200


def test_without_any_key_a_caller_behind_a_proxy_makes_none(place: Keyed) -> None:
    headers = {"x-forwarded-for": "203.0.113.5"}
    response = place.client().post("/admin/keys", json={"name": "boss"}, headers=headers)
    assert "for callers on this machine" in message(response, 403)
    assert place.store.listed() == []


def test_admin_routes_that_are_switched_off_are_for_nobody(tmp_path: Path) -> None:
    with Keyed(tmp_path, admin_routes=False) as place:
        client = place.client(place.key("boss", "admin"))
        assert "switched off" in message(client.get("/admin/keys"), 403)


def test_unknown_parameters_are_named(admin: TestClient) -> None:
    response = admin.get("/admin/keys?page=2")
    assert response.headers["x-fledge-ignored"] == "page"
    assert "`all` must be true or false" in message(admin.get("/admin/keys?all=maybe"))


def test_a_key_is_not_changed_in_place(admin: TestClient) -> None:
    response = admin.patch("/admin/keys/boss", json={"requests_per_minute": 5})
    assert response.status_code == 405


def test_a_server_without_a_database_says_so(serve: Serve) -> None:
    client = serve()
    assert "keeps no keys (database_url is none)" in message(client.get("/admin/keys"))
    assert "counts no usage (database_url is none)" in message(client.get("/v1/usage"))


def test_secrets_are_in_no_log(
    place: Keyed, admin: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        secret = admin.post("/admin/keys", json={"name": "team"}).json()["secret"]
        embed(place, secret)
        admin.delete(f"/admin/keys/{secret}")  # pasted by mistake
        other = admin.post("/admin/keys/team/rotate").json()["secret"]
        embed(place, secret)

    # Not those of the client, which logs its own URLs.
    lines = [one.getMessage() for one in caplog.records if one.name.startswith("fledge")]
    assert any("DELETE" in line for line in lines)
    assert not any(secret in line or other in line for line in lines)
    assert secret not in place.client(other).get("/metrics").text


def test_the_reference_lists_the_routes(place: Keyed) -> None:
    client = place.client()
    paths = client.get("/openapi.json").json()["paths"]

    assert {"get", "post"} <= set(paths["/admin/keys"])
    assert {"get", "delete"} <= set(paths["/admin/keys/{key}"])
    create = paths["/admin/keys"]["post"]
    assert "requests_per_minute" in str(create["requestBody"])
    assert "201" in create["responses"]
    assert "/admin/keys/team/rotate" in client.get("/docs").text


def test_the_examples_of_the_reference_work_as_they_stand(admin: TestClient) -> None:
    paths = admin.get("/openapi.json").json()["paths"]
    for path, status in (("/admin/keys", 201), ("/admin/keys/{key}/rotate", 200)):
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        response = admin.post(path.format(key="team"), json=content["example"])
        assert response.status_code == status, response.text
