"""The server about itself: health, info, metrics, docs, ids."""

import logging
import re
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from fledge.api.app import create_app
from fledge.errors import Overloaded
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, fake_card
from fledge.types import Health
from tests.unit.api.conftest import Serve


def test_health_is_ok_while_every_model_can_take_work(serve: Serve) -> None:
    response = serve().get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (Health("failed", "the files are gone"), "the files are gone"),
        (Health("loading"), "loading"),
    ],
)
def test_health_says_why_not(serve: Serve, state: Health, reason: str) -> None:
    backend = FakeBackend()
    backend.state = state
    response = serve(backend).get("/health")
    assert response.status_code == 503
    assert response.json() == {"status": "unavailable", "reasons": {"fledge/fake": reason}}


def test_info_tells_the_cards_and_the_limits_but_not_where_files_lie(serve: Serve) -> None:
    response = serve(FakeBackend(fake_card(origin="/home/me/model")), max_body_bytes=2048).get(
        "/info"
    )
    (model,) = response.json()["models"]
    assert model["id"] == "fledge/fake"
    assert model["precision"] == "fp32"
    assert model["dimension"] == 8
    assert model["prompts"] == {"query": "query: ", "document": "document: "}
    assert model["state"] == "warm"
    assert response.json()["limits"]["max_body_bytes"] == 2048
    assert "/home/me" not in response.text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_root_says_who_is_there(serve: Serve, method: str) -> None:
    response = serve().request(method, "/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    if method == "GET":
        assert response.json()["name"] == "fledge"


@pytest.mark.parametrize("path", ["/health", "/info", "/metrics", "/docs", "/v1/models"])
def test_every_page_answers_head(serve: Serve, path: str) -> None:
    assert serve().head(path).status_code == 200


def test_metrics_count_requests_by_template_and_work_by_model(serve: Serve) -> None:
    client = serve()
    client.post("/models/fledge/fake", json={"inputs": ["a", "word " * 30]})
    client.post("/models/secret-name", json={"inputs": "a"})
    client.get("/secret-path")
    client.request("SECRET", "/health")
    text = client.get("/metrics").text
    assert 'fledge_requests_total{method="POST",route="/models/{model_id}",status="200"} 1' in text
    assert 'fledge_requests_total{method="GET",route="unmatched",status="404"} 1' in text
    assert 'fledge_inputs_total{model="fledge/fake"} 2' in text
    assert 'fledge_tokens_total{model="fledge/fake"} 19' in text
    assert 'fledge_truncated_inputs_total{model="fledge/fake"} 1' in text
    assert 'fledge_errors_total{code="model_not_found"} 1' in text
    assert 'stage="queue"' in text
    assert "fledge_requests_in_flight 1" in text
    assert "secret" not in text.lower()


def test_two_applications_do_not_share_their_metrics(serve: Serve) -> None:
    first, second = serve(), serve()
    first.post("/", json={"inputs": "a"})
    assert "fledge_inputs_total{" not in second.get("/metrics").text


def test_docs_load_nothing_from_elsewhere(serve: Serve) -> None:
    response = serve().get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers["content-security-policy"].startswith("default-src 'none'; style-src")
    assert "<script" not in response.text
    assert not re.search(r'(src|href)="(?!openapi\.json)', response.text)
    for url in re.findall(r"https?://[^\s<&'\"]+", response.text):
        assert urlsplit(url).hostname == "127.0.0.1"


def test_docs_and_openapi_list_the_routes_with_their_fields(serve: Serve) -> None:
    client = serve()
    document = client.get("/openapi.json").json()
    paths = document["paths"]
    assert {"/v1/embeddings", "/", "/rerank", "/v1/models", "/health"} <= set(paths)
    body = paths["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]
    assert {"input", "model", "encoding_format", "truncate"} <= set(body["schema"]["properties"])
    page = client.get("/docs").text
    for name in (*paths, "truncation_direction", "source_sentence", "return_documents"):
        assert name in page or name == "source_sentence"


def test_the_examples_of_the_docs_work_as_they_stand(serve: Serve) -> None:
    client = serve(FakeBackend(fake_card(id="sentence-transformers/all-MiniLM-L6-v2")))
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        if "requestBody" in methods.get("post", {}) and not path.startswith("/admin/"):
            content = methods["post"]["requestBody"]["content"]["application/json"]
            place = path.format(model_id="all-MiniLM-L6-v2", task="feature-extraction")
            assert client.post(place, json=content["example"]).status_code == 200


def test_a_sane_request_id_comes_back(serve: Serve) -> None:
    response = serve().get("/health", headers={"x-request-id": "Root=1-2;a/b"})
    assert response.headers["x-request-id"] == "Root=1-2;a/b"


def test_a_trace_id_stands_in_for_a_request_id(serve: Serve) -> None:
    response = serve().get("/nope", headers={"x-amzn-trace-id": "fd6ef0b8-f767"})
    assert response.headers["x-request-id"] == "fd6ef0b8-f767"


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, 'a"b', "caf\xe9", "a,b"])
def test_a_request_id_that_is_not_sane_is_replaced(serve: Serve, bad: str) -> None:
    headers = {b"x-request-id": bad.encode("latin-1")}
    response = serve().get("/health", headers=headers)
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


def test_neither_texts_nor_keys_are_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    backend = FakeBackend()
    client = serve(backend)
    headers = {"authorization": "Bearer sk-private"}
    client.post("/", json={"inputs": "private words"}, headers=headers)
    client.post("/", json={"inputs": "private", "normalize": "private"}, headers=headers)
    backend.error = Overloaded("busy", retry_after_s=1)
    client.post("/v1/embeddings", json={"input": ["private"]}, headers=headers)
    ours = [record for record in caplog.records if record.name.startswith("fledge")]
    assert any("/v1/embeddings 429" in record.getMessage() for record in ours)
    assert not any("private" in record.getMessage() for record in ours)


def test_the_end_of_the_application_closes_the_service() -> None:
    backend, settings = FakeBackend(), Settings()
    with TestClient(create_app(Service.over([backend], settings), settings)):
        assert not backend.is_closed
    assert backend.is_closed
