"""What requests leave in the metrics of a server with keys and a cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fledge.cache.cache import Cache
from fledge.cache.memory import MemoryTier
from tests.keyed import Keyed


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Keyed]:
    with Keyed(tmp_path, cache=Cache(MemoryTier(2**20)), open_routes=("metrics",)) as one:
        yield one


def of(place: Keyed, name: str, label: str | None = None) -> dict[str, float]:
    """A metric's values by one of its labels; those of 0 left out."""
    with place.client() as client:
        text = client.get("/metrics").text
    return {
        one.labels[label] if label else "": one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == name and one.value
    }


def test_each_refusal_is_counted_under_its_reason(place: Keyed) -> None:
    place.key("first")
    by_requests = place.key("a", requests_per_minute=1)
    by_tokens = place.key("b", tokens_per_minute=5)
    by_budget = place.key("c", monthly_token_budget=5)
    with place.client() as client:
        for secret, path in (
            (None, "/"),
            ("fl-wrong", "/"),
            (by_requests, "/admin/models/x/load"),
            *[(by_requests, "/")] * 2,
            *[(by_tokens, "/")] * 2,
            *[(by_budget, "/v1/embeddings")] * 2,
        ):
            headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
            client.post(path, json={"inputs": "a b c", "input": "a b c"}, headers=headers)
        assert of(place, "fledge_requests_refused_total", "reason") == {
            "unauthorized": 2,
            "forbidden": 1,
            "requests": 1,
            "tokens": 1,
            "budget": 1,
        }


def test_what_is_refused_at_the_door_is_told_by_its_route_and_key(
    place: Keyed, caplog: pytest.LogCaptureFixture
) -> None:
    admin = {"authorization": f"Bearer {place.key('a', 'admin')}"}
    (key,) = place.store.listed()
    with caplog.at_level("INFO", "fledge.access"), place.client() as client:
        client.post("/models/org/secret-name", json={"inputs": "a"})
        client.get("/secret-path")
        client.post("/v1/embeddings", json={"input": "a"}, headers=admin)
        counted = of(place, "fledge_requests_total", "route")
    assert counted == {"/models/{model_id}": 1, "unmatched": 1, "/v1/embeddings": 1}
    assert f"key_id={key.id}" in caplog.messages[-1]
    assert "secret" not in caplog.text


def test_answers_are_counted_by_where_they_came_from(place: Keyed) -> None:
    with place.client() as client:
        client.post("/", json={"inputs": ["a", "a", "b"]})
        client.post("/", json={"inputs": ["b", "c"]})
        assert of(place, "fledge_cache_answers_total", "origin") == {
            "computed": 3,
            "joined": 1,
            "memory": 1,
        }
        assert of(place, "fledge_cache_memory_bytes")[""] > 0


def test_keys_and_what_is_not_written_yet_are_shown(place: Keyed) -> None:
    secret = place.key("a")
    place.key("b")
    place.revoke("b")
    with place.client(secret) as client:
        client.post("/", json={"inputs": "a"})
        assert of(place, "fledge_keys") == {"": 1}
        assert set(of(place, "fledge_usage_unwritten_seconds")) == {""}


def test_no_key_is_a_label(place: Keyed) -> None:
    new = place.new_key("canary", requests_per_minute=1)
    with place.client(new.secret) as client:
        for _ in range(2):
            client.post("/", json={"inputs": "a"}, headers={"x-hf-bill-to": "canary"})
        text = client.get("/metrics").text
    for word in ("canary", new.key.id, new.secret, new.key.prefix):
        assert word not in text
