"""Keys as clients meet them: how they are sent, which are valid, and the words of a refusal."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fledge.testing import FakeBackend, fake_card
from tests.keyed import Keyed
from tests.unit.api.door.asking import (
    ALLOWED,
    BODY,
    FORBIDDEN,
    HUGGING_FACE_PATHS,
    OPENAI_PATHS,
    REFUSED,
    WITHOUT,
    WRONG,
    code_of,
    post,
)

# What clients read.


@pytest.mark.parametrize("path", OPENAI_PATHS)
def test_openai_s_clients_read_that_a_key_is_missing_or_wrong(
    client: TestClient, path: str
) -> None:
    response = client.post(path, json=BODY)
    assert response.json() == {
        "error": {
            "message": "You didn't provide an API key. This server needs a key: send it as "
            "`Authorization: Bearer KEY`",
            "type": "invalid_request_error",
            "param": None,
            "code": "missing_api_key",
        }
    }
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    response = post(client, WRONG, path)
    assert response.json() == {
        "error": {
            "message": "Incorrect API key provided. This server has no such key, or it was "
            "revoked, or has expired",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", HUGGING_FACE_PATHS)
def test_hugging_face_s_clients_read_that_a_key_is_missing_or_wrong(
    client: TestClient, path: str
) -> None:
    response = client.post(path, json=BODY)
    assert response.json() == {
        "error": "Invalid username or password. This server needs a key: send it as "
        "`Authorization: Bearer KEY`",
        "error_type": "Unauthorized",
    }
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    response = post(client, WRONG, path)
    assert response.json() == {
        "error": "Invalid credentials in Authorization header. This server has no such key, or it "
        "was revoked, or has expired",
        "error_type": "Unauthorized",
    }
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    # By these very words huggingface_hub tells it from a repository that does not exist.
    assert response.headers["x-error-message"] == "Invalid credentials in Authorization header"
    assert response.headers["x-request-id"]


def test_a_key_that_is_not_for_inference_is_told_in_each_dialect(
    place: Keyed, client: TestClient
) -> None:
    secret = place.key("boss", "admin")
    said = "This key may not do that: it has the scope admin, and inference is needed"
    response = post(client, secret)
    assert response.status_code == 403
    assert response.json()["error"] == {
        "message": f"You have insufficient permissions for this operation. {said}",
        "type": "permission_error",
        "param": None,
        "code": "forbidden",
    }
    assert "www-authenticate" not in response.headers
    response = post(client, secret, "/")
    message = f"This authentication method does not have sufficient permissions. {said}"
    assert response.status_code == 403
    assert response.json() == {"error": message, "error_type": "Forbidden"}
    assert response.headers["x-error-message"] == message, "the only one that is shown of a 403"
    assert place.backend.jobs == []


def test_a_model_that_is_not_the_key_s_is_told_in_each_dialect(tmp_path: Path) -> None:
    backends = [FakeBackend(fake_card(id=id)) for id in ("org/one", "org/two", "other/one")]
    with Keyed(tmp_path, backends) as place, place.client() as client:
        secret = place.key(models=("org/*", "nobody/x"))
        headers = {"authorization": f"Bearer {secret}"}
        for name in ("org/one", "org/two", "two"):
            body = {"model": name, "input": "a"}
            assert client.post("/v1/embeddings", json=body, headers=headers).is_success
            assert post(client, secret, f"/models/{name}").is_success
        said = "This key may not use other/one: it is limited to org/*, nobody/x"
        body = {"model": "other/one", "input": "a"}
        response = client.post("/v1/embeddings", json=body, headers=headers)
        assert code_of(response) == FORBIDDEN
        assert response.json()["error"]["message"].endswith(f"operation. {said}")
        response = post(client, secret, "/models/other/one")
        assert code_of(response) == FORBIDDEN
        assert response.json()["error"].endswith(f"permissions. {said}")
        assert backends[2].jobs == []


# How a key may be sent.


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("Authorization", "Bearer {}"),
        ("authorization", "bearer {}"),
        ("Authorization", "BEARER {}"),
        ("Authorization", "  Bearer   {}  "),
        ("Authorization", "Bearer\t{}"),
        ("Authorization", "Bearer: {}"),
        ("Authorization", "bearer :{}"),
        ("Authorization", "Bearer:{}"),
        ("x-api-key", "{}"),
        ("X-API-Key", " {} "),
        ("api-key", "{}"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/"])
def test_a_key_is_found_however_clients_send_it(
    place: Keyed, client: TestClient, name: str, form: str, path: str
) -> None:
    headers = {name: form.format(place.key())}
    assert client.post(path, json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("Authorization", ""),
        ("Authorization", "Bearer"),
        ("Authorization", "Bearer "),
        ("Authorization", "Bearer: "),
        ("Authorization", "{}"),
        ("Authorization", "Bearer{}"),
        ("Authorization", "Basic {}"),
        ("Authorization", "Token {}"),
        ("x-api-key", ""),
        ("cookie", "key={}"),
    ],
)
def test_what_is_no_bearer_is_no_key(
    place: Keyed, client: TestClient, name: str, form: str
) -> None:
    headers = {name: form.format(place.key())}
    assert code_of(client.post("/", json=BODY, headers=headers)) == WITHOUT


@pytest.mark.parametrize("form", ["{}x", "x{}", "{} x", "{}\t{}", "fl-{}"])
def test_nearly_the_key_is_not_the_key(place: Keyed, client: TestClient, form: str) -> None:
    secret = place.key()
    assert code_of(post(client, form.format(secret, secret))) == REFUSED
    assert code_of(post(client, secret.swapcase())) == REFUSED


def test_bytes_that_are_no_text_are_not_the_key(client: TestClient) -> None:
    headers = {b"authorization": b"Bearer \xff\x80\xed\xa0"}
    assert code_of(client.post("/", json=BODY, headers=headers)) == REFUSED


def test_any_of_several_that_opens_will_do(place: Keyed, client: TestClient) -> None:
    """As behind a gateway, whose own key stands beside the caller's."""
    secret = place.key()
    assert code_of(post(client, secret, **{"x-api-key": "the-gateway-s"})) == ALLOWED
    assert code_of(post(client, "hf_saved_token", **{"x-api-key": secret})) == ALLOWED
    assert code_of(post(client, WRONG, **{"api-key": WRONG})) == REFUSED


# Which keys are valid.


def test_a_revoked_key_is_refused(place: Keyed, client: TestClient) -> None:
    secret = place.key()
    assert code_of(post(client, secret)) == ALLOWED
    place.revoke()
    assert code_of(post(client, secret)) == REFUSED
    assert code_of(post(client, secret, "/")) == REFUSED


def test_an_expired_key_is_refused(place: Keyed, client: TestClient) -> None:
    secret = place.key(expires=place.clock.after(30))
    place.clock.time += 29
    assert code_of(post(client, secret)) == ALLOWED
    place.clock.time += 1
    assert code_of(post(client, secret)) == REFUSED


def test_both_secrets_of_a_rotated_key_are_valid_for_its_grace(
    place: Keyed, client: TestClient
) -> None:
    old = place.key()
    new = place.store.rotate("app", grace_s=30).secret
    place.accounts.keyring.refresh()
    assert {code_of(post(client, secret)) for secret in (old, new)} == {ALLOWED}
    place.clock.time += 30
    assert [code_of(post(client, secret)) for secret in (old, new)] == [REFUSED, ALLOWED]


def test_the_first_key_closes_the_door_and_its_end_does_not_open_it(place: Keyed) -> None:
    with place.client() as client:
        assert client.post("/", json=BODY).status_code == 200
        assert post(client, "anything").status_code == 200
        secret = place.key()
        assert code_of(client.post("/", json=BODY)) == WITHOUT
        assert code_of(post(client, secret)) == ALLOWED
        place.revoke()
        assert code_of(client.post("/", json=BODY)) == WITHOUT


def test_where_nobody_is_asked_for_a_key_any_authorization_is_ignored(tmp_path: Path) -> None:
    with Keyed(tmp_path, no_auth=True) as place, place.client() as client:
        secret = place.key(models=("nothing",))
        for sent in (secret, WRONG, ""):
            assert code_of(post(client, sent)) == ALLOWED
