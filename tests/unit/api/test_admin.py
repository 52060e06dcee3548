"""Admin routes: what they do, how they fail, and whom they refuse."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from fledge.api.app import create_app
from fledge.catalog.catalog import Catalog
from fledge.errors import ModelGated, OutOfMemory
from fledge.service import Service
from fledge.testing import FakeBackend, FakeDeployments
from fledge.types import ModelEntry
from tests.keyed import Keyed
from tests.unit.api.catalogue import Catalogue
from tests.unit.api.conftest import Serve

ROUTES = ("load", "unload", "pin", "unpin")


def refusal(response: Any) -> str:
    assert response.status_code == 403, response.text
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("permission_error", "not_allowed")
    message: str = error["message"]
    return message


def test_load_answers_with_the_entry_of_the_warm_model(
    place: Catalogue, client: TestClient
) -> None:
    response = client.post("/admin/models/org/plain/load")
    assert response.status_code == 200
    assert response.json() == client.get("/v1/models/org/plain").json()
    assert response.json()["status"] == "warm"
    assert place.deployments.loads == ["org/plain"]


def test_load_waits_until_the_model_is_warm(place: Catalogue) -> None:
    place.deployments.hold()

    async def main() -> None:
        transport = httpx2.ASGITransport(place.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            loading = asyncio.create_task(client.post("/admin/models/org/plain/load"))
            while (await client.get("/v1/models/plain")).json()["status"] != "loading":
                assert not loading.done()
                await asyncio.sleep(0)
            place.deployments.release()
            assert (await loading).json()["status"] == "warm"

    asyncio.run(main())


def test_without_waiting_load_answers_while_the_model_loads(
    place: Catalogue, client: TestClient
) -> None:
    place.deployments.hold()
    client.post("/admin/models/old-name/unload")
    response = client.post("/admin/models/old-name/load?wait=false")
    assert response.status_code == 202
    assert response.json()["status"] == "loading"
    assert response.json()["loading"] == {"stage": "building", "remaining_s": 5.0}
    place.deployments.release()
    assert client.get("/v1/models/old-name").json()["status"] == "warm"
    again = client.post("/admin/models/old-name/load?wait=false")
    assert (again.status_code, again.json()["status"]) == (200, "warm")


@pytest.mark.parametrize("query", ["", "?wait=false"])
def test_a_load_that_fails_at_once_is_answered_with_its_reason(
    place: Catalogue, client: TestClient, query: str
) -> None:
    place.deployments.errors["org/plain"] = ModelGated("accept its terms first", retry_after_s=60)
    response = client.post(f"/admin/models/org/plain/load{query}")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "60"
    assert response.json()["error"] == {
        "message": "accept its terms first",
        "type": "server_error",
        "param": None,
        "code": "model_gated",
    }
    assert client.get("/v1/models/org/plain").json()["error"]["kind"] == "gated"


def test_a_load_that_fails_later_is_told_in_the_listing(place: Catalogue) -> None:
    place.deployments.errors["org/plain"] = OutOfMemory("too large by far")
    place.deployments.hold()
    with place.client() as client:
        assert client.post("/admin/models/org/plain/load?wait=false").status_code == 202
        place.deployments.release()
        entry = client.get("/v1/models/org/plain").json()
    assert (entry["status"], entry["error"]["kind"]) == ("failed", "out_of_memory")


def test_unload_gives_the_memory_back(place: Catalogue, client: TestClient) -> None:
    response = client.post("/admin/models/org/known/unload")
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["memory_bytes"]) == ("cold", 0)
    assert place.deployments.unloads == ["org/known"]


def test_pins_show_in_the_entry(place: Catalogue, client: TestClient) -> None:
    assert client.post("/admin/models/my-folder/pin").json()["pinned"] is True
    assert client.get("/v1/models/my-folder").json()["pinned"] is True
    assert client.post("/admin/models/my-folder/unpin").json()["pinned"] is False
    assert place.deployments.pins == [("my-folder", True), ("my-folder", False)]
    assert place.deployments.loads == []


def test_a_model_that_cannot_leave_says_so(serve: Serve) -> None:
    response = serve(FakeBackend()).post("/admin/models/fake/unload")
    assert response.status_code == 400
    assert "is here to stay" in response.json()["error"]["message"]


@pytest.mark.parametrize("route", ROUTES)
def test_an_unknown_model_is_not_found(client: TestClient, route: str) -> None:
    response = client.post(f"/admin/models/org/none/{route}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_parameters_are_checked_and_the_others_named(client: TestClient) -> None:
    bad = client.post("/admin/models/org/plain/load?wait=soon")
    assert bad.json()["error"]["message"] == '`wait` must be true or false, not "soon"'
    response = client.post("/admin/models/org/plain/pin?wait=false")
    assert response.headers["x-fledge-ignored"] == "wait"


@pytest.mark.parametrize("route", ROUTES)
def test_a_server_that_others_reach_has_no_admin_without_a_key(route: str) -> None:
    place = Catalogue(host="0.0.0.0", no_auth=True)  # noqa: S104 - nothing listens
    message = refusal(place.client().post(f"/admin/models/org/known/{route}"))
    assert message.startswith("admin routes need an admin key, and this server has none; bind it")
    assert place.deployments.loads + place.deployments.unloads + place.deployments.pins == []


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "api.example.org"},
        {"host": "api.example.org:8080"},
        {"x-forwarded-for": "203.0.113.5"},
        {"forwarded": "for=203.0.113.5"},
        {"x-forwarded-host": "api.example.org"},
        {"X-Forwarded-Proto": "https"},
        {"x-real-ip": "203.0.113.5"},
        {"via": "1.1 proxy"},
    ],
)
def test_callers_behind_a_proxy_of_this_machine_are_refused(headers: dict[str, str]) -> None:
    client = Catalogue(allowed_hosts=["api.example.org"]).client()
    assert client.get("/v1/models", headers=headers).status_code == 200
    message = refusal(client.post("/admin/models/org/known/unload", headers=headers))
    assert "for callers on this machine" in message


def test_a_name_that_is_none_is_refused_where_any_may_be_asked_for() -> None:
    client = Catalogue(allowed_hosts=["*"]).client()
    refusal(client.post("/admin/models/org/known/unload", headers={"host": "[x"}))


@pytest.mark.parametrize("route", ROUTES)
def test_admin_routes_can_be_switched_off(route: str) -> None:
    place = Catalogue(admin_routes=False)
    message = refusal(place.client().post(f"/admin/models/org/known/{route}"))
    assert message == "admin routes are switched off here (admin_routes)"
    assert place.deployments.loads + place.deployments.unloads + place.deployments.pins == []


@pytest.mark.parametrize("admin_routes", [None, True])
def test_admin_routes_are_for_this_machine_alone_whatever_else_is_said(
    admin_routes: bool | None,
) -> None:
    place = Catalogue(admin_routes=admin_routes, host="0.0.0.0", no_auth=True)  # noqa: S104 - nothing listens
    refusal(place.client().post("/admin/models/org/known/pin"))


@pytest.mark.parametrize("route", ["unload", "pin", "unpin"])
def test_only_a_load_makes_a_model_of_a_name(route: str) -> None:
    place = Catalogue(allows_any=True)
    client = place.client()
    assert client.post(f"/admin/models/new/model/{route}").status_code == 404
    assert client.post("/admin/models/new/model/load?wait=false").status_code in (200, 202)
    assert client.post(f"/admin/models/new/model/{route}").status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost:1", "localhost.", "app.localhost", "127.0.0.2", "[::1]:8080"]
)
def test_this_machine_has_several_names(client: TestClient, host: str) -> None:
    response = client.post("/admin/models/org/known/pin", headers={"host": host})
    assert response.status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://["])
def test_a_page_of_another_origin_is_refused_even_where_any_may_embed(origin: str) -> None:
    client = Catalogue(cors_allow_origins=["*"]).client()
    headers = {"origin": origin}
    assert client.get("/v1/models", headers=headers).status_code == 200
    message = refusal(client.post("/admin/models/org/known/unload", headers=headers))
    assert "may not call admin routes" in message


@pytest.mark.parametrize(
    ("origins", "origin"),
    [
        ([], "http://127.0.0.1:8080"),
        (["*"], "http://127.0.0.1:8080"),
        (["*", "https://app.example"], "https://app.example"),
        (["https://app.example"], "https://app.example"),
    ],
)
def test_a_page_of_this_server_and_one_that_is_named_may(origins: list[str], origin: str) -> None:
    client = Catalogue(cors_allow_origins=origins).client()
    response = client.post("/admin/models/org/known/pin", headers={"origin": origin})
    assert response.status_code == 200


def test_a_get_changes_nothing(client: TestClient) -> None:
    assert client.get("/admin/models/org/known/unload").status_code == 405


# With keys.

ELSEWHERE = {"host": "api.example.org", "x-forwarded-for": "203.0.113.5"}


def code_of(response: Any) -> tuple[int, str | None]:
    return response.status_code, response.headers.get("x-fledge-error")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - nothing listens
def test_an_admin_key_is_what_is_needed_from_anywhere(tmp_path: Path, host: str) -> None:
    with (
        Keyed(tmp_path, host=host) as place,
        place.client(place.key("boss", "admin")) as client,
    ):
        for route in ("load", "pin", "unpin"):
            for headers in ({}, ELSEWHERE):
                path = f"/admin/models/fake/{route}"
                assert code_of(client.post(path, headers=headers)) == (200, None)


@pytest.mark.parametrize("route", ROUTES)
def test_no_other_key_will_do_not_even_on_this_machine(tmp_path: Path, route: str) -> None:
    with Keyed(tmp_path) as place, place.client() as client:
        secret = place.key()
        path = f"/admin/models/fake/{route}"
        assert code_of(client.post(path)) == (401, "missing_api_key")
        response = client.post(path, headers={"authorization": f"Bearer {secret}"})
        assert code_of(response) == (403, "forbidden")
        assert response.json()["error"]["message"] == (
            "You have insufficient permissions for this operation. This key may not do that: it "
            "has the scope inference, and admin is needed"
        )


def test_switched_off_they_are_for_no_key_either(tmp_path: Path) -> None:
    with (
        Keyed(tmp_path, admin_routes=False) as place,
        place.client(place.key("boss", "admin")) as client,
    ):
        message = refusal(client.post("/admin/models/fake/pin"))
    assert message == "admin routes are switched off here (admin_routes)"


def test_where_nobody_is_asked_for_a_key_an_admin_key_opens_nothing(tmp_path: Path) -> None:
    with (
        Keyed(tmp_path, no_auth=True, host="0.0.0.0") as place,  # noqa: S104 - nothing listens
        place.client(place.key("boss", "admin")) as client,
    ):
        refusal(client.post("/admin/models/fake/pin"))


def test_a_page_with_an_admin_key_must_be_of_an_origin_that_is_listed(tmp_path: Path) -> None:
    with (
        Keyed(tmp_path, cors_allow_origins=("https://app.example",)) as place,
        place.client(place.key("boss", "admin")) as client,
    ):
        for origin, status in (("https://app.example", 200), ("https://evil.example", 403)):
            response = client.post("/admin/models/fake/pin", headers={"origin": origin})
            assert response.status_code == status


def test_any_model_of_the_hub_loads_for_an_admin_where_the_settings_leave_it_open(
    tmp_path: Path,
) -> None:
    with Keyed(tmp_path) as keyed:
        catalog = Catalog([ModelEntry(id="org/known")], allows_any=True)
        service = Service(catalog, FakeDeployments(), keyed.settings, accounts=keyed.accounts)
        client = TestClient(create_app(service, keyed.settings), base_url="http://127.0.0.1:8080")
        app = {"authorization": f"Bearer {keyed.key('app')}"}
        boss = {"authorization": f"Bearer {keyed.key('boss', 'admin', 'inference')}"}
        body = {"inputs": "a"}
        assert client.post("/models/new/model", json=body, headers=app).status_code == 404
        assert client.post("/models/new/model", json=body, headers=boss).status_code == 200
        loaded = client.post("/admin/models/another/model/load", headers=boss)
        assert code_of(loaded) == (200, None)
