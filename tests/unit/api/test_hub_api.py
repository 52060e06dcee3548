"""The hub's API: shapes, filters, pages, redirects; and what the old inference API told."""

from typing import Any
from urllib.parse import urlsplit

import pytest
from inline_snapshot import snapshot
from starlette.testclient import TestClient

from fledge.types import ModelEntry, State
from tests.unit.api.catalogue import ENTRIES, FOLDER, IDS, KNOWN, LARGE, PLAIN, Catalogue


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [item["id"] for item in response.json()]


def test_a_model_has_the_hub_s_fields_as_far_as_they_are_known(client: TestClient) -> None:
    client.post("/v1/embeddings", json={"model": "known", "input": "a"}).raise_for_status()
    whole = client.get("/api/models/org/known").json()
    assert whole == snapshot(
        {
            "_id": "c5afe1649621ea66f4437ad4",
            "id": "org/known",
            "modelId": "org/known",
            "private": False,
            "gated": False,
            "disabled": False,
            "pipeline_tag": "feature-extraction",
            "library_name": "sentence-transformers",
            "tags": [
                "sentence-transformers",
                "fake",
                "feature-extraction",
                "sentence-similarity",
                "en",
                "de",
                "license:apache-2.0",
                "text-embeddings-inference",
            ],
            "downloads": 1,
            "likes": 0,
            "trendingScore": 1,
            "author": "org",
            "sha": "0123abc",
            "inference": "warm",
            "createdAt": "2023-09-12T00:00:00.000Z",
            "cardData": {"license": "apache-2.0", "language": ["en", "de"]},
            "safetensors": {"parameters": {}, "total": 33000000},
        }
    )
    assert client.get("/api/models").json()[0] == whole


def test_a_model_of_which_nothing_is_known_claims_nothing(client: TestClient) -> None:
    assert client.get("/api/models/org/plain").json() == snapshot(
        {
            "_id": "641d976cf3d5fcb60517343b",
            "id": "org/plain",
            "modelId": "org/plain",
            "private": False,
            "gated": False,
            "disabled": False,
            "pipeline_tag": "feature-extraction",
            "library_name": "sentence-transformers",
            "tags": [
                "sentence-transformers",
                "feature-extraction",
                "sentence-similarity",
                "text-embeddings-inference",
            ],
            "downloads": 0,
            "likes": 0,
            "trendingScore": 0,
            "author": "org",
        }
    )


def test_a_gated_model_says_so_and_a_folder_has_no_author(client: TestClient) -> None:
    assert client.get("/api/models/Other/Large-Model").json()["gated"] == "auto"
    assert "author" not in client.get("/api/models/my-folder").json()


def test_the_number_of_a_model_is_the_same_everywhere(client: TestClient) -> None:
    (number,) = {
        Catalogue(*entries).client().get("/api/models/org/plain").json()["_id"]
        for entries in (ENTRIES, [PLAIN])
    }
    assert len(bytes.fromhex(number)) == 12
    assert len({item["_id"] for item in client.get("/api/models").json()}) == len(IDS)


@pytest.mark.parametrize(
    "query",
    [
        "expand=inference&expand=tags&expand=config",
        "expand[]=inference&expand[]=tags&expand[]=config",
        "expand=inference,tags,config",
    ],
)
def test_expand_gives_the_id_and_what_was_asked_for(client: TestClient, query: str) -> None:
    whole = client.get("/api/models/org/known").json()
    expected = {name: whole[name] for name in ("_id", "id", "inference", "tags")}
    assert client.get(f"/api/models/org/known?{query}").json() == expected
    assert client.get(f"/api/models?{query}&limit=1").json() == [expected]


def test_a_model_that_is_not_warm_has_no_inference(client: TestClient) -> None:
    expanded = client.get("/api/models/org/plain?expand=inference").json()
    assert expanded.keys() == {"_id", "id"}


@pytest.mark.parametrize(
    ("state", "status"),
    [("warm", "live"), ("cold", "live"), ("loading", "live"), ("failed", "error")],
)
def test_this_server_is_the_provider_of_every_model_that_answers(
    place: Catalogue, client: TestClient, state: Any, status: str
) -> None:
    place.deployments.set(KNOWN.id, state=state)
    deployment = {"status": status, "providerId": "org/known", "task": "feature-extraction"}
    query = "expand=inferenceProviderMapping"
    assert client.get(f"/api/models/org/known?{query}").json()["inferenceProviderMapping"] == {
        "hf-inference": deployment
    }
    assert client.get(f"/api/models?{query}").json()[0]["inferenceProviderMapping"] == [
        {"provider": "hf-inference", **deployment}
    ]


@pytest.mark.parametrize("path", ["/api/models", "/api/models/org/known"])
def test_expanding_what_the_hub_does_not_have_is_refused(client: TestClient, path: str) -> None:
    response = client.get(f"{path}?expand=tags,age")
    assert response.status_code == 400
    message = response.json()["error"]
    assert message.startswith("`expand` must be one of author, baseModels, cardData")
    assert message.endswith('not "age"')


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", IDS),
        ("inference=warm", ["org/known"]),
        ("inference=cold", ["org/plain", "Other/Large-Model", "my-folder"]),
        ("inference=warm&pipeline_tag=feature-extraction&sort=trending", ["org/known"]),
        ("pipeline_tag=sentence-similarity", IDS),
        ("pipeline_tag=text-classification", []),
        ("search=large%20OTHER", ["Other/Large-Model"]),
        ("author=org", ["org/known", "org/plain"]),
        ("filter=feature-extraction", IDS),
        ("filter=sentence-transformers,bert", ["my-folder"]),
        ("filter=de&filter=license:Apache-2.0", ["org/known"]),
        ("filter=de&filter=license:mit", []),
        ("filter=dataset:squad", []),
        ("inference_provider=hf-inference", IDS),
        ("inference_provider=together&inference_provider=hf-inference", IDS),
        ("inference_provider=together", []),
        ("gated=true", ["Other/Large-Model"]),
        ("gated=false", ["org/known", "org/plain", "my-folder"]),
        ("num_parameters=min:6B,max:128B", ["Other/Large-Model"]),
        ("num_parameters=max:100M", ["org/known"]),
        ("num_parameters=min:33m", ["org/known", "Other/Large-Model"]),
        ("num_parameters=min:0.033B,max:33000000", ["org/known"]),
        ("sort=createdAt", ["Other/Large-Model", "my-folder", "org/known", "org/plain"]),
        ("sort=lastModified&limit=1", ["Other/Large-Model"]),
        ("full=true&config=true&cardData=true", IDS),
    ],
)
def test_models_are_chosen_and_sorted(client: TestClient, query: str, expected: list[str]) -> None:
    assert ids(client.get(f"/api/models?{query}")) == expected


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "inference=hot",
        "sort=size",
        "cursor=%C3%A9",
        "cursor=b3RoZXI=",
        "cursor=a",
        "full=2",
    ],
)
def test_a_value_that_means_nothing_is_refused_by_name(client: TestClient, query: str) -> None:
    response = client.get(f"/api/models?{query}")
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"`{query.partition('=')[0]}` must be ")
    assert response.json()["error_type"] == "Validation"


def test_parameters_without_effect_are_named_and_strictly_refused(client: TestClient) -> None:
    assert client.get("/api/models?apps=any").headers["x-fledge-ignored"] == "apps"
    assert client.get("/api/models/org/known?blobs=true").headers["x-fledge-ignored"] == "blobs"
    strict = Catalogue(strict_fields=True).client()
    assert strict.get("/api/models?apps=any").status_code == 400


def test_the_rest_is_behind_a_link_to_the_address_that_the_client_used(place: Catalogue) -> None:
    client = place.client()
    seen: list[str] = []
    address: str | None = (
        "http://localhost:9000/api/models?limit=3&expand=tags&expand[]=likes&search="
    )
    while address is not None:
        assert urlsplit(address)[:3] == ("http", "localhost:9000", "/api/models")
        response = client.get(address)
        assert all(item.keys() == {"_id", "id", "tags", "likes"} for item in response.json())
        seen += ids(response)
        address = response.links.get("next", {}).get("url")
    assert seen == IDS


def test_an_answer_has_at_most_a_thousand_models() -> None:
    client = Catalogue(*(ModelEntry(id=f"org/model-{n}") for n in range(1001))).client()
    first = client.get("/api/models?limit=5000")
    assert len(ids(first)) == 1000
    assert ids(client.get(first.links["next"]["url"])) == ["org/model-1000"]


def test_the_whole_listing_has_no_link(client: TestClient) -> None:
    assert "link" not in client.get("/api/models?limit=4").headers


@pytest.mark.parametrize("path", ["/api/models/nobody/none", "/api/models/nobody/revision/main"])
def test_an_unknown_model_is_told_as_the_hub_does(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.headers["x-error-code"] == "RepoNotFound"
    assert "is not served here" in response.headers["x-error-message"]
    assert response.json()["error"] == "Repository not found"


def test_what_a_client_made_up_is_safe_in_a_header(client: TestClient) -> None:
    response = client.get("/api/models/a%09%20%C3%A9%22")
    assert response.status_code == 404
    assert response.headers["x-error-message"].isascii()


@pytest.mark.parametrize("revision", ["main", "0123abc"])
def test_a_known_revision_is_the_model(client: TestClient, revision: str) -> None:
    whole = client.get("/api/models/org/known").json()
    assert client.get(f"/api/models/org/known/revision/{revision}").json() == whole


@pytest.mark.parametrize("revision", ["old", "refs%2Fpr%2F1", "None"])
def test_an_unknown_revision_is_told_as_the_hub_does(client: TestClient, revision: str) -> None:
    for model in ("org/known", "org/plain"):
        response = client.get(f"/api/models/{model}/revision/{revision}")
        assert response.status_code == 404
        assert response.headers["x-error-code"] == "RevisionNotFound"
        assert "has no revision" in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("old-name", "/api/models/org/known"),
        ("ORG/Known", "/api/models/org/known"),
        ("known-of-far?expand=tags&expand=sha", "/api/models/org/known?expand=tags&expand=sha"),
        ("known/revision/refs%2Fpr%2F1", "/api/models/org/known/revision/refs%2Fpr%2F1"),
    ],
)
def test_other_names_lead_to_the_id(client: TestClient, path: str, location: str) -> None:
    response = client.get(f"/api/models/{path}")
    assert (response.status_code, response.headers["location"]) == (307, location)


def test_an_id_of_any_characters_can_be_followed_to() -> None:
    client = Catalogue(ModelEntry(id="möbel & co?", aliases=("other",))).client()
    response = client.get("/api/models/other", follow_redirects=True)
    assert response.json()["id"] == "möbel & co?"


def test_tasks_begin_with_the_default_model(client: TestClient) -> None:
    tasks = client.get("/api/tasks").json()
    assert tasks.keys() == {"feature-extraction", "sentence-similarity"}
    for task, about in tasks.items():
        assert about == {
            "id": task,
            "widgetModels": ["org/known"],
            "models": [
                {"id": "org/known", "description": "A small model for search."},
                {"id": "Other/Large-Model", "description": "For long texts."},
            ],
        }


@pytest.mark.parametrize(
    ("facts", "loaded", "state"),
    [
        ({"state": "warm"}, True, "Loaded"),
        ({"state": "cold"}, False, "Loadable"),
        ({"state": "loading"}, False, "Loadable"),
        ({"state": "failed", "failure": "out_of_memory"}, False, "TooBig"),
        ({"state": "failed", "failure": "corrupt"}, False, "error"),
    ],
)
def test_the_status_is_in_the_old_api_s_words(
    place: Catalogue, client: TestClient, facts: dict[str, Any], loaded: bool, state: str
) -> None:
    place.deployments.set(KNOWN.id, **facts)
    assert client.get("/status/org/known").json() == {
        "loaded": loaded,
        "state": state,
        "compute_type": "cpu",
        "framework": "sentence-transformers",
    }


def test_frameworks_list_what_is_warm(client: TestClient) -> None:
    warm = [{"model_id": "org/known", "task": "feature-extraction"}]
    assert client.get("/framework/sentence-transformers").json() == warm
    assert client.get("/framework/text-embeddings-inference").json() == warm
    assert client.get("/framework/transformers").json() == []
    unknown = client.get("/framework/else")
    assert (unknown.status_code, unknown.json()["error_type"]) == (404, "NotFound")


def test_info_tells_a_model_s_facts_with_the_names_of_other_servers(client: TestClient) -> None:
    assert client.get("/models/org/known/info").json() == snapshot(
        {
            "id": "org/known",
            "state": "warm",
            "model_id": "org/known",
            "model_sha": "0123abc",
            "model_dtype": "float32",
            "model_type": {"embedding": {"pooling": "mean"}},
            "max_input_length": 256,
            "max_seq_length": 256,
            "vocab_size": 1000,
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


def test_info_of_a_cold_model_tells_what_the_catalogue_knows(client: TestClient) -> None:
    assert client.get("/models/large-model/info").json() == {
        "id": "Other/Large-Model",
        "state": "cold",
        "model_id": "Other/Large-Model",
        "model_sha": None,
        "family": "qwen3",
    }


@pytest.mark.parametrize("path", ["/status/none", "/models/none/info"])
def test_routes_of_the_old_api_know_no_other_models(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert isinstance(response.json()["error"], str)


@pytest.mark.parametrize(
    "path", ["/api/models", "/api/models/org/known", "/api/tasks", "/status/org/known"]
)
def test_every_route_answers_head(client: TestClient, path: str) -> None:
    assert client.head(path).status_code == 200


def test_states_of_several_models_show_in_one_listing(place: Catalogue) -> None:
    place.deployments.set(LARGE.id, state="warm")
    place.deployments.set(FOLDER.id, state="failed")
    listed = place.client().get("/api/models?expand=inference").json()
    assert [item.get("inference") for item in listed] == ["warm", None, "warm", None]


LOOKS = (
    "/v1/models/{}",
    "/models/{}",
    "/api/models/{}",
    "/api/models/{}/revision/main",
    "/status/{}",
    "/models/{}/info",
)


@pytest.mark.parametrize("path", LOOKS)
def test_a_look_at_a_model_that_any_request_may_name_does_not_make_one(path: str) -> None:
    client = Catalogue(allows_any=True).client()
    assert client.get(path.format("no/such")).status_code == 404
    assert client.get(path.format("org/plain")).status_code == 200, "cold, but of the catalogue"


@pytest.mark.parametrize("path", LOOKS)
@pytest.mark.parametrize("state", ["loading", "warm", "failed"])
def test_a_model_that_was_asked_for_can_be_looked_at_before_it_has_joined(
    path: str, state: State
) -> None:
    place = Catalogue(allows_any=True)
    place.deployments.set("new/model", state=state)
    assert place.client().get(path.format("new/model")).status_code == 200


def test_a_model_that_has_joined_stays_when_it_is_cold_again() -> None:
    place = Catalogue(allows_any=True)
    client = place.client()
    assert client.post("/models/new/model", json={"inputs": "a"}).status_code == 200
    place.deployments.set("new/model", state="cold")
    assert client.get("/api/models/new/model").status_code == 200
    assert ids(client.get("/api/models?search=new")) == ["new/model"]
