"""`GET /v1/models` in OpenAI's shape: what an entry says, what can be asked for, pages."""

import time
from typing import Any

import pytest
from inline_snapshot import snapshot
from starlette.testclient import TestClient

from fledge.testing import FakeBackend, fake_card
from fledge.types import ModelEntry
from tests.unit.api.catalogue import FOLDER, IDS, KNOWN, LARGE, PLAIN, Catalogue
from tests.unit.api.conftest import Serve


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [entry["id"] for entry in response.json()["data"]]


def error(response: Any) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    found: dict[str, Any] = response.json()["error"]
    return found


def test_models_are_listed_with_and_without_the_prefix(client: TestClient) -> None:
    listed = client.get("/v1/models")
    assert listed.json().keys() == {"object", "data"}
    assert listed.json()["object"] == "list"
    assert ids(listed) == ids(client.get("/models")) == IDS


@pytest.mark.parametrize(
    "path", ["/v1/models/org/known", "/models/org%2Fknown", "/v1/models/KNOWN", "/models/old-name"]
)
def test_one_model_is_found_by_any_of_its_names(client: TestClient, path: str) -> None:
    assert client.get(path).json() == client.get("/v1/models").json()["data"][0]


@pytest.mark.parametrize("path", ["/v1/models/other", "/models/other"])
def test_an_unknown_model_is_not_found(serve: Serve, path: str) -> None:
    response = serve().get(path)
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": 'the model "other" is not served here; served: fledge/fake',
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_a_warm_model_tells_what_its_card_and_the_catalogue_know(client: TestClient) -> None:
    assert client.get("/v1/models/org/known").json() == snapshot(
        {
            "id": "org/known",
            "object": "model",
            "created": 1694476800,
            "owned_by": "org",
            "name": "known",
            "status": "warm",
            "pinned": False,
            "recommended": True,
            "gated": False,
            "architecture": {
                "modality": "text->embedding",
                "input_modalities": ["text"],
                "output_modalities": ["embedding"],
            },
            "context_length": 256,
            "parameters": 33000000,
            "languages": ["en", "de"],
            "license": "apache-2.0",
            "summary": "A small model for search.",
            "aliases": ["old-name"],
            "memory_bytes": 87000000,
            "users": 0,
            "idle_s": 0.0,
            "revision": "0123abc",
            "precision": "fp32",
            "family": "fake",
            "dimension": 384,
            "matryoshka_dimensions": [256, 128],
            "prompts": {"query": "query: ", "document": "document: "},
            "pooling": ["mean"],
            "similarity": "cosine",
            "normalizes": True,
        }
    )


def test_a_model_of_which_nothing_is_known_claims_nothing(client: TestClient) -> None:
    before = int(time.time())
    described = client.get("/v1/models/org/plain").json()
    assert before - 60 < described.pop("created") <= before
    assert described == snapshot(
        {
            "id": "org/plain",
            "object": "model",
            "owned_by": "org",
            "name": "plain",
            "status": "cold",
            "pinned": False,
            "recommended": False,
            "gated": False,
            "architecture": {
                "modality": "text->embedding",
                "input_modalities": ["text"],
                "output_modalities": ["embedding"],
            },
            "memory_bytes": 0,
        }
    )


def test_a_cold_model_tells_what_the_catalogue_knows(place: Catalogue, client: TestClient) -> None:
    place.deployments.set(KNOWN.id, state="cold")
    described = client.get("/v1/models/org/known").json()
    assert {name: described.get(name) for name in ("dimension", "context_length", "pooling")} == {
        "dimension": 384,
        "context_length": 512,
        "pooling": ["cls"],
    }
    assert (described["status"], described["memory_bytes"]) == ("cold", 0)
    assert described.keys().isdisjoint(("revision", "precision", "error", "loading"))


def test_a_failed_model_tells_why_and_for_how_long(place: Catalogue, client: TestClient) -> None:
    place.deployments.set(
        PLAIN.id, state="failed", failure="gated", reason="accept its terms first", retry_in_s=12.5
    )
    described = client.get("/v1/models/org/plain").json()
    assert described["status"] == "failed"
    assert described["error"] == {
        "kind": "gated",
        "message": "accept its terms first",
        "retry_in_s": 12.5,
    }


def test_a_loading_model_tells_how_far_it_is(place: Catalogue, client: TestClient) -> None:
    place.deployments.set(
        PLAIN.id, state="loading", stage="downloading", remaining_s=7.5, memory_bytes=5, users=2
    )
    described = client.get("/v1/models/org/plain").json()
    assert described["status"] == "loading"
    assert described["loading"] == {"stage": "downloading", "remaining_s": 7.5}
    assert described["memory_bytes"] == 5


def test_a_model_in_memory_tells_who_uses_it(place: Catalogue, client: TestClient) -> None:
    place.deployments.set(PLAIN.id, state="warm", memory_bytes=5, users=2)
    place.deployments.set(LARGE.id, state="warm", memory_bytes=5, idle_s=12.3456)
    use = {
        one["id"]: (one["users"], one["idle_s"])
        for one in client.get("/v1/models?status=warm").json()["data"]
    }
    assert use == {"org/known": (0, 0.0), "org/plain": (2, 0.0), "Other/Large-Model": (0, 12.346)}
    cold = client.get("/v1/models/my-folder").json()
    assert cold.keys().isdisjoint(("users", "idle_s"))


def test_a_running_model_of_unknown_size_claims_none(serve: Serve) -> None:
    described = serve(FakeBackend(fake_card(id="org/name"))).get("/v1/models/name").json()
    assert (described["status"], described["pinned"]) == ("warm", True)
    assert described.keys().isdisjoint(("memory_bytes", "users", "idle_s"))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("modalities=embedding", IDS),
        ("modalities=text,Embedding", IDS),
        ("output_modalities=embedding", IDS),
        ("modalities=text", []),
        ("output_modalities=image", []),
        ("status=warm", ["org/known"]),
        ("status=WARM,loading", ["org/known", "org/plain"]),
        ("status=warm&status=failed", ["org/known", "Other/Large-Model"]),
        ("status[]=cold", ["my-folder"]),
        ("status=active", ["org/known"]),
        ("status=pending_deploy", ["org/plain"]),
        ("status=not_deployed", ["my-folder"]),
        ("inference=warm", ["org/known"]),
        ("inference=cold", ["org/plain", "Other/Large-Model", "my-folder"]),
        ("search=ORG/", ["org/known", "org/plain"]),
        ("search=texts%20large", ["Other/Large-Model"]),
        ("q=old-name", ["org/known"]),
        ("q=multilingual", ["Other/Large-Model"]),
        ("search=org&q=search", ["org/known"]),
        ("search=absent", []),
        ("family=BERT", ["org/known", "my-folder"]),
        ("family=bert,qwen3", ["org/known", "Other/Large-Model", "my-folder"]),
        ("languages=de,fr", ["org/known"]),
        ("languages=multilingual", ["Other/Large-Model"]),
        ("license=MIT", ["Other/Large-Model"]),
        ("recommended=true", ["org/known", "Other/Large-Model"]),
        ("recommended=false", ["org/plain", "my-folder"]),
        ("gated=true", ["Other/Large-Model"]),
        ("author=other", ["Other/Large-Model"]),
        ("num_parameters=min:1B", ["Other/Large-Model"]),
        ("pipeline_tag=feature-extraction", IDS),
        ("pipeline_tag=sentence-similarity", IDS),
        ("pipeline_tag=text-generation", []),
        ("inference=warm&pipeline_tag=feature-extraction&sort=trending", ["org/known"]),
        ("inference_provider=all", IDS),
        ("inference_provider=together", []),
        ("search=&status=&sort=", IDS),
    ],
)
def test_models_are_chosen(place: Catalogue, query: str, expected: list[str]) -> None:
    # Of a warm one the card's family counts, and a fake's is another.
    place.deployments.set(KNOWN.id, state="warm", card=fake_card(id=KNOWN.id, family="bert"))
    place.deployments.set(PLAIN.id, state="loading")
    place.deployments.set(LARGE.id, state="failed")
    for path in ("/v1/models", "/models"):
        assert ids(place.client().get(f"{path}?{query}")) == expected


@pytest.mark.parametrize("sort", ["trending", "trendingScore", "trending_score", "downloads"])
def test_models_are_sorted_by_this_server_s_own_traffic(client: TestClient, sort: str) -> None:
    for model in ("my-folder", "org/plain", "my-folder"):
        client.post("/v1/embeddings", json={"model": model, "input": "a"}).raise_for_status()
    popular = ["my-folder", "org/plain", "org/known", "Other/Large-Model"]
    assert ids(client.get("/v1/models", params={"sort": sort})) == popular
    assert ids(client.get("/v1/models", params={"sort": sort, "direction": "-1"})) == popular
    least = ["org/known", "Other/Large-Model", "org/plain", "my-folder"]
    assert ids(client.get("/v1/models", params={"sort": sort, "direction": "1"})) == least


@pytest.mark.parametrize("sort", ["createdAt", "created_at", "lastModified"])
def test_models_are_sorted_by_their_day_and_those_without_come_last(
    client: TestClient, sort: str
) -> None:
    newest = ["Other/Large-Model", "my-folder", "org/known", "org/plain"]
    assert ids(client.get(f"/v1/models?sort={sort}")) == newest
    oldest = ["org/known", "my-folder", "Other/Large-Model", "org/plain"]
    assert ids(client.get(f"/v1/models?sort={sort}&direction=1")) == oldest


def test_nobody_likes_models_here_so_their_order_stays(client: TestClient) -> None:
    assert ids(client.get("/v1/models?sort=likes")) == IDS


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "status=hot",
            'cold, loading, warm, failed, active, pending_deploy or not_deployed, not "hot"',
        ),
        ("inference=lukewarm", 'warm or cold, not "lukewarm"'),
        (
            "sort=size",
            'trendingScore, trending, downloads, likes, createdAt or lastModified, not "size"',
        ),
        ("direction=2&sort=likes", '-1 or 1, not "2"'),
        ("page=0", 'at least 1, not "0"'),
        ("page=one", 'a whole number, not "one"'),
        ("per_page=1001", 'at most 1000, not "1001"'),
        ("limit=5000", 'at most 1000, not "5000"'),
        ("limit=-1", 'at least 1, not "-1"'),
        ("after=nobody", 'the id of a model of this listing, not "nobody"'),
        ("recommended=perhaps", 'true or false, not "perhaps"'),
        ("num_parameters=1B-2B", 'a range as min:100M,max:1.5B, not "1B-2B"'),
    ],
)
def test_a_value_that_means_nothing_is_named_with_those_that_do(
    client: TestClient, query: str, expected: str
) -> None:
    field = query.partition("=")[0]
    found = error(client.get(f"/v1/models?{query}"))
    assert (found["param"], found["message"]) == (field, f"`{field}` must be {expected}")


@pytest.mark.parametrize(
    ("path", "name"), [("/v1/models", "search"), ("/v1/models", "q"), ("/api/models", "search")]
)
def test_more_words_than_anybody_looks_for_are_refused(
    client: TestClient, path: str, name: str
) -> None:
    words = [f"w{number}" for number in range(17)]
    assert client.get(path, params={name: " ".join(words[:16])}).status_code == 200
    response = client.get(path, params={name: " ".join(words)})
    assert response.status_code == 400
    assert f"`{name}` must be at most 16 words, not " in response.text
    assert len(response.text) < 400


def test_a_word_that_is_repeated_is_looked_for_once(client: TestClient) -> None:
    assert ids(client.get("/v1/models", params={"search": "org " * 1000})) == IDS[:2]


def test_two_ways_through_one_listing_are_one_too_many(client: TestClient) -> None:
    found = error(client.get("/v1/models?page=1&limit=2"))
    assert found["param"] == "page"
    assert "`limit` and `after` another: give those of one" in found["message"]


@pytest.mark.parametrize("digits", [10, 30, 5000])
def test_a_number_of_any_size_is_refused_by_name(client: TestClient, digits: int) -> None:
    assert error(client.get(f"/v1/models?page={'9' * digits}"))["param"] == "page"


def test_parameters_without_effect_are_named(client: TestClient) -> None:
    response = client.get("/v1/models?concurrency=1&status=warm&x%0Ay=2")
    assert ids(response) == ["org/known"]
    assert response.headers["x-fledge-ignored"] == "concurrency,x%0Ay"
    assert client.get("/v1/models/known?x=1").headers["x-fledge-ignored"] == "x"
    assert "x-fledge-ignored" not in client.get("/v1/models?status=warm").headers


def test_strict_fields_refuses_them() -> None:
    client = Catalogue(strict_fields=True).client()
    assert error(client.get("/v1/models?concurrency=1"))["code"] == "unknown_field"
    assert error(client.get("/v1/models/known?concurrency=1"))["param"] == "concurrency"


def test_pages_have_numbers(client: TestClient) -> None:
    first = client.get("/v1/models?per_page=3")
    assert ids(first) == IDS[:3]
    assert first.json()["pagination"] == {"current_page": 1, "total_pages": 2, "total_items": 4}
    assert ids(client.get("/v1/models?per_page=3&page=2")) == IDS[3:]
    beyond = client.get("/v1/models?page=3")
    assert ids(beyond) == []
    assert beyond.json()["pagination"] == {"current_page": 3, "total_pages": 1, "total_items": 4}


def test_pages_follow_the_last_model_shown(client: TestClient) -> None:
    first = client.get("/v1/models?limit=3").json()
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, IDS[0], IDS[2])
    rest = client.get(f"/v1/models?limit=3&after={first['last_id']}").json()
    assert [entry["id"] for entry in rest["data"]] == IDS[3:]
    assert (rest["has_more"], rest["last_id"]) == (False, IDS[3])
    end = client.get(f"/v1/models?after={IDS[3]}").json()
    assert (end["data"], end["has_more"], end["first_id"]) == ([], False, None)


def test_a_model_that_left_the_selection_does_not_end_the_way_through_it(
    place: Catalogue, client: TestClient
) -> None:
    shown = ids(client.get("/v1/models?status=warm&limit=1"))
    place.deployments.set(shown[0], state="cold")
    place.deployments.set(FOLDER.id, state="warm")
    assert ids(client.get(f"/v1/models?status=warm&limit=1&after={shown[0]}")) == ["my-folder"]


@pytest.mark.parametrize("path", ["/v1/models?status=warm", "/models", "/v1/models/org/known"])
def test_listings_answer_head(client: TestClient, path: str) -> None:
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")


def test_a_thousand_models_come_in_one_answer() -> None:
    entries = [ModelEntry(id=f"org/model-{n}", summary="one of many") for n in range(1000)]
    client = Catalogue(*entries).client()
    listed = ids(client.get("/v1/models?modalities=embedding&search=many&sort=trending"))
    assert listed == [entry.id for entry in entries]


def test_the_parameters_are_in_the_openapi_document(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    parameters = {one["name"]: one for one in paths["/v1/models"]["get"]["parameters"]}
    assert {"status", "search", "sort", "page", "per_page", "limit", "after"} <= set(parameters)
    assert parameters["per_page"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000}
    assert all(one["description"] and one["in"] == "query" for one in parameters.values())
