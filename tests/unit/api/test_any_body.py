"""Whatever JSON comes, on whatever route: an answer or a 4xx, never a 5xx, never a NaN."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fledge.api.huggingface import InferenceBody, SimilarityInputs
from fledge.api.openai import EmbeddingsBody
from fledge.api.rerank import RerankBody
from fledge.testing import FakeBackend, fake_card
from tests.unit.api.conftest import Serve

# One application serves all examples of a test: it keeps nothing from one to the next.
SHARED_CLIENT = [HealthCheck.function_scoped_fixture]

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
NAMES = [*EmbeddingsBody.model_fields, *InferenceBody.model_fields, *RerankBody.model_fields]
NAMES += SimilarityInputs.model_fields
likely = st.sampled_from(
    ["a", ["a", "b"], [5, 6], [[5], "a"], {"source_sentence": "a", "sentences": ["b"]}, "query", 3]
)
bodies = values | st.dictionaries(
    st.sampled_from(NAMES) | st.text(max_size=6), values | likely, max_size=6
)
paths = st.sampled_from(
    [
        "/v1/embeddings",
        "/",
        "/models/fledge/fake",
        "/models/fake/pipeline/sentence-similarity",
        "/pipeline/feature-extraction/fake",
        "/rerank",
        "/v1/rerank",
    ]
)


@pytest.fixture
def client(serve: Serve) -> TestClient:
    return serve(FakeBackend(fake_card(dimension=4)))


@settings(max_examples=300, deadline=None, suppress_health_check=SHARED_CLIENT)
@given(path=paths, body=bodies)
def test_any_json_is_answered_or_refused(client: TestClient, path: str, body: Any) -> None:
    check(client.post(path, content=json.dumps(body).encode()))


@settings(max_examples=150, deadline=None, suppress_health_check=SHARED_CLIENT)
@given(path=paths, body=st.binary(max_size=40))
def test_any_bytes_are_answered_or_refused(client: TestClient, path: str, body: bytes) -> None:
    check(client.post(path, content=body))


@settings(max_examples=100, deadline=None, suppress_health_check=SHARED_CLIENT)
@given(name=st.text(min_size=1, max_size=90))
def test_any_field_name_is_safe_in_a_header(client: TestClient, name: str) -> None:
    body = orjson.dumps({"inputs": "a", f"x{name}": 1}) if encodable(name) else b'{"inputs": "a"}'
    response = client.post("/", content=body)
    assert response.status_code == 200
    ignored = response.headers.get("x-fledge-ignored", "")
    assert ignored.isprintable()
    assert ignored.isascii()
    assert "," not in ignored
    assert len(ignored) <= 200


def encodable(text: str) -> bool:
    return not any(0xD800 <= ord(character) < 0xE000 for character in text)


def check(response: Any) -> None:
    assert response.status_code < 500
    assert response.headers["content-type"] == "application/json"
    # orjson refuses NaN and infinity, which the standard library would let pass.
    body = orjson.loads(response.content)
    assert response.status_code == 200 or "error" in body
