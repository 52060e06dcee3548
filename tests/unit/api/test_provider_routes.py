"""`/admin/providers`: how providers do, and one text sent to find out."""

from pathlib import Path
from typing import Any

from inline_snapshot import snapshot

from fledge.accounts.accounts import Accounts
from fledge.accounts.usage import UsageRecord
from fledge.errors import ProviderDenied
from tests.keyed import Keyed
from tests.unit.api.catalogue import Catalogue
from tests.unit.routing.fakes import noise, unavailable
from tests.unit.switched import Switched, place_of

PRICE = 10_000_000


def listed(place: Catalogue) -> Any:
    response = place.client().get("/admin/providers")
    assert response.status_code == 200, response.text
    return response.json()["data"]


def tried(place: Catalogue, name: str = "far", query: str = "") -> Any:
    response = place.client().post(f"/admin/providers/{name}/test{query}")
    assert response.status_code == 200, response.text
    return response.json()


def test_providers_are_listed_with_their_models_before_anybody_asked_them() -> None:
    far = place_of("far", price=PRICE)
    place = Switched(place_of(), far, place_of("near"), budgets={"far": 2 * 10**9})

    assert listed(place) == snapshot(
        [
            {
                "provider": "far",
                "status": "live",
                "spent": 0.0,
                "price_per_million_tokens": 0.01,
                "budget_left": 2.0,
                "models": [
                    {
                        "id": "org/name",
                        "provider_id": "name-of-far",
                        "status": "live",
                        "successes": 0,
                        "failures": 0,
                        "running": 0,
                        "space": "unknown",
                    }
                ],
            },
            {
                "provider": "near",
                "status": "live",
                "spent": 0.0,
                "models": [
                    {
                        "id": "org/name",
                        "provider_id": "name-of-near",
                        "status": "live",
                        "successes": 0,
                        "failures": 0,
                        "running": 0,
                        "space": "unknown",
                    }
                ],
            },
        ]
    )
    assert far.jobs == []


def test_a_test_tells_dimension_latency_likeness_and_cost_and_counts_it() -> None:
    far = place_of("far", price=PRICE)
    place = Switched(place_of(), far, budgets={"far": 10**9})
    answer = tried(place)

    assert answer.pop("latency_ms") >= 0
    assert answer == snapshot(
        {
            "provider": "far",
            "model": "org/name",
            "provider_id": "name-of-far",
            "status": "live",
            "dimension": 8,
            "texts": 10,
            "tokens": 238,
            "cost": 2.38e-06,
            "compared_with": "local",
            "space": "same",
            "cosine": 1.0,
        }
    )
    assert answer["texts"] == sum(len(job.items) for job in far.jobs)
    assert place.spending.spent("far") == answer["cost"] * 10**9
    (entry,) = listed(place)
    assert entry["models"][0]["space"] == "same"
    assert entry["budget_left"] == 1 - entry["spent"]


def test_a_test_counts_as_usage_of_the_caller_at_the_provider() -> None:
    counted: list[UsageRecord] = []

    class Counting(Accounts):
        def count(self, record: UsageRecord) -> None:
            counted.append(record)

    place = Switched(place_of(), place_of("far", price=PRICE))
    place.service.accounts = Counting()
    answer = tried(place)

    (record,) = counted
    assert (record.deployment, record.model) == ("far", "org/name")
    assert (record.tokens, record.cost_nanos) == (answer["tokens"], answer["cost"] * 10**9)


def test_other_vectors_are_told_with_what_keeps_them_apart() -> None:
    far, near = place_of("far"), place_of("near", dimension=4)
    far.twist = noise(1.0)
    place = Switched(place_of(), far, near)

    answer = tried(place)
    assert (answer["status"], answer["space"]) == ("live", "differs")
    assert "at least 0.99 is asked for" in answer["differences"][0]
    assert "cost" not in answer  # nobody said what it costs
    assert tried(place, "near")["differences"] == ["vectors of 4 numbers instead of 8"]


def test_a_model_that_is_cold_is_not_loaded_for_a_test() -> None:
    local = place_of()
    place = Switched(local, place_of("far"))
    place.deployments.set("org/name", state="cold")
    answer = tried(place)

    assert (answer["space"], answer["compared_with"], answer["texts"]) == ("unknown", "local", 1)
    assert local.patiences_s == []


def test_the_first_deployment_is_compared_with_nothing() -> None:
    answer = tried(Switched(place_of("far")))

    assert (answer["space"], answer["compared_with"]) == ("reference", None)


def test_a_provider_that_fails_is_an_answer_with_the_reason() -> None:
    far = place_of("far")
    place = Switched(place_of(), far)
    far.error = unavailable("far", 503, retry_after_s=20)
    answer = tried(place)

    assert answer == snapshot(
        {
            "provider": "far",
            "model": "org/name",
            "provider_id": "name-of-far",
            "status": "error",
            "error": "far answered 503",
        }
    )
    (entry,) = listed(place)
    (model,) = entry["models"]
    assert (entry["status"], model["status"], model["failures"]) == ("error", "error", 1)
    assert (model["last_error"], model["last_status"]) == ("far answered 503", 503)
    assert 0 < model["rest_s"] <= 20


def test_an_admin_reads_why_a_key_was_refused_and_a_good_test_ends_the_rest() -> None:
    far = place_of("far")
    place = Switched(place_of(), far)
    far.error = ProviderDenied("far does not accept its key", provider="far", status=401)

    assert tried(place)["error"] == "far does not accept its key"
    assert listed(place)[0]["status"] == "error"
    far.error = None
    assert tried(place)["status"] == "live"
    assert listed(place)[0]["status"] == "live"


def test_a_model_may_be_named_by_any_of_its_names() -> None:
    place = Switched(place_of(), place_of("far"))

    for name in ("org/name", "NAME", "name-of-far"):
        assert tried(place, query=f"?model={name}")["model"] == "org/name"
    unknown = place.client().post("/admin/providers/far/test?model=org/none")
    assert unknown.status_code == 404


def test_who_is_not_enabled_is_not_asked() -> None:
    place = Switched(place_of(), place_of("far"))
    response = place.client().post("/admin/providers/near/test")

    assert response.status_code == 404
    assert response.json()["error"]["message"] == (
        'no provider "near" is enabled here; there are far'
    )


def test_without_providers_the_answer_says_so() -> None:
    place = Catalogue()

    assert listed(place) == []
    response = place.client().post("/admin/providers/far/test")
    assert response.status_code == 404
    assert "providers.enabled" in response.json()["error"]["message"]


def test_only_admins_see_and_test_providers(tmp_path: Path) -> None:
    with Keyed(tmp_path) as keyed:
        user, admin = keyed.client(keyed.key("app")), keyed.client(keyed.key("boss", "admin"))
        assert user.get("/admin/providers").status_code == 403
        assert user.post("/admin/providers/far/test").status_code == 403
        assert admin.get("/admin/providers").status_code == 200
        assert admin.post("/admin/providers/far/test").status_code == 404
    outside = Switched(place_of("far")).client()
    assert outside.get("/admin/providers", headers={"host": "example.org"}).status_code == 403


def test_the_routes_are_documented() -> None:
    paths = Catalogue().client().get("/openapi.json").json()["paths"]

    assert "get" in paths["/admin/providers"]
    names = [one["name"] for one in paths["/admin/providers/{name}/test"]["post"]["parameters"]]
    assert names == ["name", "model"]
