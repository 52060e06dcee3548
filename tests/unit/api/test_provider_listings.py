"""Listings of models that providers have: who serves them, and how they do."""

from collections.abc import Sequence
from typing import Any

import pytest
from huggingface_hub.hf_api import ModelInfo
from inline_snapshot import snapshot
from starlette.testclient import TestClient

from fledge.catalog.listed import ListedProvider
from fledge.types import ModelEntry
from tests.unit.api.catalogue import IDS, KNOWN, PLAIN, Catalogue

HOSTED = ModelEntry(id="far/hosted", provider_ids={"far": "hosted-v1"}, runs_locally=False)

FAR = ListedProvider(
    name="far",
    provider_id="known-of-far",
    latency_ms=123.456,
    price_nanos_per_million_tokens=10_000_000,
    space="same",
    least_cosine=0.9999876,
)
DOWN = ListedProvider(
    name="near", provider_id="org/known", is_live=False, reason="near did not answer within 5 s"
)
OFFICIAL = ListedProvider(name="hf-inference", provider_id="org/known")


class Providers:
    """What the router knows, as a test says it: of all models that are not named, nothing."""

    def __init__(self, **by_model: Sequence[ListedProvider]) -> None:
        self._by_model = by_model

    def __call__(self, entry: ModelEntry) -> Sequence[ListedProvider]:
        return self._by_model.get(entry.id.rpartition("/")[2], ())


def serving(*entries: ModelEntry, **by_model: Sequence[ListedProvider]) -> Catalogue:
    place = Catalogue(*entries)
    place.service.providers_of = Providers(**by_model)
    return place


def mapping(client: TestClient, model: str) -> Any:
    response = client.get(f"/api/models/{model}?expand=inferenceProviderMapping")
    assert response.status_code == 200, response.text
    return response.json()["inferenceProviderMapping"]


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    found = response.json()
    return [item["id"] for item in (found if isinstance(found, list) else found["data"])]


# The hub's shape


def test_this_server_is_first_and_the_providers_follow_with_their_own_ids() -> None:
    client = serving(known=[FAR, DOWN]).client()
    found = mapping(client, "org/known")

    assert list(found) == ["hf-inference", "far", "near"]
    assert found == snapshot(
        {
            "hf-inference": {
                "status": "live",
                "providerId": "org/known",
                "task": "feature-extraction",
            },
            "far": {
                "status": "live",
                "providerId": "known-of-far",
                "task": "feature-extraction",
            },
            "near": {
                "status": "error",
                "providerId": "org/known",
                "task": "feature-extraction",
            },
        }
    )


def test_lists_tell_the_same_as_a_list() -> None:
    client = serving(known=[FAR, DOWN]).client()
    (known, *rest) = client.get("/api/models?expand[]=inferenceProviderMapping").json()

    assert known["inferenceProviderMapping"] == [
        {"provider": name, **one} for name, one in mapping(client, "org/known").items()
    ]
    assert [len(one["inferenceProviderMapping"]) for one in rest] == [1, 1, 1]


def test_the_official_service_as_a_provider_is_behind_the_name_of_this_server() -> None:
    found = mapping(serving(known=[OFFICIAL, FAR]).client(), "org/known")

    assert list(found) == ["hf-inference", "far"]


@pytest.mark.parametrize(
    ("state", "providers", "status"),
    [
        ("failed", [FAR], "live"),
        ("failed", [DOWN], "error"),
        ("failed", [], "error"),
        ("cold", [DOWN], "live"),
    ],
)
def test_a_model_is_live_as_long_as_one_deployment_answers(
    state: Any, providers: list[ListedProvider], status: str
) -> None:
    place = serving(known=providers)
    place.deployments.set(KNOWN.id, state=state)

    assert mapping(place.client(), "org/known")["hf-inference"]["status"] == status


@pytest.mark.parametrize("path", ["/api/models", "/v1/models"])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("far", ["org/known", "org/plain"]),
        ("FAR", ["org/known", "org/plain"]),
        ("near", ["org/known"]),
        ("near,far", ["org/known", "org/plain"]),
        ("together", []),
        ("hf-inference", IDS),
        ("all", IDS),
        ("near&inference_provider=all", IDS),
    ],
)
def test_models_are_chosen_by_who_serves_them(path: str, asked: str, expected: list[str]) -> None:
    client = serving(known=[FAR, DOWN], plain=[FAR]).client()

    assert ids(client.get(f"{path}?inference_provider={asked}")) == expected


# OpenAI's shape, with the providers as the router lists them


def test_an_entry_has_its_providers_with_what_is_known_of_them() -> None:
    entry = serving(known=[FAR, DOWN]).client().get("/v1/models/org/known").json()

    assert entry["providers"] == snapshot(
        [
            {
                "provider": "far",
                "status": "live",
                "provider_id": "known-of-far",
                "pricing": {"input": 0.01, "output": 0},
                "is_free": False,
                "latency_ms": 123.5,
                "space": "same",
                "cosine": 0.99999,
            },
            {
                "provider": "near",
                "status": "error",
                "provider_id": "org/known",
                "space": "unknown",
                "error": "near did not answer within 5 s",
            },
        ]
    )


def test_what_costs_nothing_is_free() -> None:
    free = ListedProvider(name="own", provider_id="x", price_nanos_per_million_tokens=0)
    entry = serving(known=[free]).client().get("/v1/models/org/known").json()

    assert entry["providers"][0]["pricing"] == {"input": 0, "output": 0}
    assert entry["providers"][0]["is_free"] is True


def test_without_providers_an_entry_says_nothing_of_them() -> None:
    assert "providers" not in Catalogue().client().get("/v1/models/org/known").json()


# Models that run at providers alone


@pytest.mark.parametrize(
    ("providers", "state", "loaded"),
    [([FAR, DOWN], "warm", "Loaded"), ([DOWN], "failed", "error"), ([], "failed", "error")],
)
def test_a_model_of_providers_alone_answers_while_one_of_them_does(
    providers: list[ListedProvider], state: str, loaded: str
) -> None:
    client = serving(PLAIN, HOSTED, hosted=providers).client()
    entry = client.get("/v1/models/far/hosted").json()

    assert entry["status"] == state
    assert ids(client.get(f"/v1/models?status={state}&author=far")) == ["far/hosted"]
    assert client.get("/status/far/hosted").json()["state"] == loaded
    warm = client.get("/api/models/far/hosted?expand=inference").json().get("inference")
    assert warm == ("warm" if state == "warm" else None)


def test_a_name_at_a_provider_leads_to_the_id_in_the_hub_s_api() -> None:
    response = serving(PLAIN, HOSTED).client().get("/api/models/Hosted-V1")

    assert (response.status_code, response.headers["location"]) == (307, "/api/models/far/hosted")


def test_huggingface_hub_reads_both_shapes() -> None:
    client = serving(known=[FAR, DOWN]).client()
    query = "expand=inferenceProviderMapping"
    for item in (
        client.get(f"/api/models/org/known?{query}").json(),
        client.get(f"/api/models?{query}").json()[0],
    ):
        info = ModelInfo(**item)  # type: ignore[no-untyped-call] # the library is partly typed
        found = info.inference_provider_mapping
        assert [(one.provider, one.provider_id, one.status, one.task) for one in found or ()] == [
            ("hf-inference", "org/known", "live", "feature-extraction"),
            ("far", "known-of-far", "live", "feature-extraction"),
            ("near", "org/known", "error", "feature-extraction"),
        ]
