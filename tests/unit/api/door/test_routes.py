"""What a key is for, and what needs none."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.keyed import Keyed
from tests.unit.api.door.asking import (
    ALLOWED,
    BODY,
    FORBIDDEN,
    WITHOUT,
    WRONG,
    code_of,
    post,
)

# What which key is for.

READ_WITH_ANY_KEY = (
    "/v1/models",
    "/models",
    "/v1/models/fake",
    "/models/fledge/fake",
    "/models/fledge/fake/info",
    "/api/models",
    "/api/models/fledge/fake",
    "/api/tasks",
    "/status/fledge/fake",
    "/framework/sentence-transformers",
    "/info",
    "/metrics",
)


@pytest.mark.parametrize("path", READ_WITH_ANY_KEY)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_only_read_is_for_every_key(
    place: Keyed, client: TestClient, method: str, path: str
) -> None:
    assert code_of(client.request(method, path)) == WITHOUT
    for scope in ("inference", "admin"):
        headers = {"authorization": f"Bearer {place.key(scope, scope)}"}
        assert code_of(client.request(method, path, headers=headers)) == ALLOWED


@pytest.mark.parametrize("path", ["/v1/embeddings", "/", "/models/fledge/fake", "/rerank"])
def test_inference_is_for_keys_with_that_scope(place: Keyed, client: TestClient, path: str) -> None:
    assert code_of(post(client, place.key("a", "inference"), path)) == ALLOWED
    assert code_of(post(client, place.key("b", "inference", "admin"), path)) == ALLOWED
    assert code_of(post(client, place.key("c", "admin"), path)) == FORBIDDEN


@pytest.mark.parametrize("path", ["/v1/files", "/v1/files/file-1/content", "/v1/batches/batch-1"])
def test_files_and_batches_are_of_inference_also_to_read(
    place: Keyed, client: TestClient, path: str
) -> None:
    headers = {"authorization": f"Bearer {place.key('c', 'admin')}"}
    for method in ("GET", "DELETE"):
        assert code_of(client.request(method, path, headers=headers)) == FORBIDDEN


@pytest.mark.parametrize("path", ["/admin/models/fake/pin", "/admin/anything/else"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_everything_under_admin_needs_an_admin_key(
    place: Keyed, client: TestClient, method: str, path: str
) -> None:
    assert code_of(client.request(method, path)) == WITHOUT
    headers = {"authorization": f"Bearer {place.key()}"}
    assert code_of(client.request(method, path, headers=headers)) == FORBIDDEN
    headers = {"authorization": f"Bearer {place.key('boss', 'admin')}"}
    assert client.request(method, path, headers=headers).status_code != 403


# What needs no key.


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/health", "/health/live", "/health/ready"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_and_page_are_open(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 200


def test_the_page_names_no_model_to_who_has_no_key(place: Keyed) -> None:
    with place.client() as client:
        assert client.get("/").json()["models"] == ["fledge/fake"]
        place.key()
        assert "fake" not in client.get("/").text


def test_metrics_are_open_where_the_settings_say_so(tmp_path: Path) -> None:
    with Keyed(tmp_path, open_routes=("metrics",)) as place, place.client() as client:
        place.key()
        assert client.get("/metrics").status_code == 200
        for path in ("/", "/docs", "/openapi.json", "/health"):
            assert code_of(client.get(path)) == WITHOUT


def test_nothing_is_open_where_the_settings_say_so(tmp_path: Path) -> None:
    with Keyed(tmp_path, open_routes=()) as place, place.client() as client:
        secret = place.key()
        for path in ("/", "/docs", "/openapi.json", "/health", "/metrics"):
            assert code_of(client.get(path)) == WITHOUT
            headers = {"authorization": f"Bearer {secret}"}
            assert code_of(client.get(path, headers=headers)) == ALLOWED


def test_an_open_route_is_open_to_who_sends_what_is_no_key(client: TestClient) -> None:
    assert client.get("/health", headers={"authorization": f"Bearer {WRONG}"}).is_success


@pytest.mark.parametrize("path", ["/health/", "/Health", "/docs/x", "/metrics", "/health/other"])
def test_what_only_looks_open_is_not(client: TestClient, path: str) -> None:
    assert code_of(client.get(path)) == WITHOUT


def test_to_post_to_the_address_of_the_page_needs_a_key(client: TestClient) -> None:
    assert code_of(client.post("/", json=BODY)) == WITHOUT
