"""`/admin/usage` and `/v1/usage`: who sees what, as JSON and as CSV."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fledge.accounts.usage import UsageRecord
from tests.keyed import Keyed

NOVEMBER = {"since": "2026-11-01", "until": "2026-11-30"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Keyed]:
    with Keyed(tmp_path) as place:
        yield place


@pytest.fixture
def admin(place: Keyed) -> TestClient:
    return place.client(place.key("boss", "admin"))


def use(place: Keyed, secret: str, text: str = "a text") -> None:
    response = place.client(secret).post("/v1/embeddings", json={"input": [text, "another"]})
    assert response.status_code == 200


def data(client: TestClient, path: str, **query: Any) -> list[dict[str, Any]]:
    response = client.get(path, params=NOVEMBER | query)
    assert response.status_code == 200, response.text
    rows: list[dict[str, Any]] = response.json()["data"]
    return rows


def message(response: Any, status: int = 400) -> str:
    assert response.status_code == status, response.text
    text: str = response.json()["error"]["message"]
    return text


def test_an_admin_sees_what_every_key_used_this_last_second_included(
    place: Keyed, admin: TestClient
) -> None:
    one, two = place.new_key("one"), place.new_key("two")
    use(place, one.secret)
    use(place, one.secret)
    use(place, two.secret)

    rows = data(admin, "/admin/usage", group_by="key")
    found = {row["key_name"]: (row["key_id"], row["requests"], row["texts"]) for row in rows}
    assert found == {"one": (one.key.id, 2, 4), "two": (two.key.id, 1, 2)}
    (row,) = data(admin, "/admin/usage", group_by="none", key="one")
    assert (row["requests"], row["errors"]) == (2, 0)
    assert data(admin, "/admin/usage", group_by="none", key=two.key.id)[0]["requests"] == 1


def test_the_answer_says_what_it_is_about(place: Keyed, admin: TestClient) -> None:
    use(place, place.key("one"))
    body = admin.get("/admin/usage", params=NOVEMBER | {"group_by": "model,day"}).json()

    assert {name: body[name] for name in body if name != "data"} == {
        "object": "list",
        "since": "2026-11-01",
        "until": "2026-11-30",
        "group_by": ["day", "model"],
        "has_more": False,
    }
    assert body["data"][0]["day"] == "2026-11-21"
    assert admin.get("/admin/usage").json()["group_by"] == ["key", "model"]


def test_a_caller_sees_its_own_whatever_it_asks(place: Keyed, admin: TestClient) -> None:
    mine, other = place.new_key("mine"), place.new_key("other")
    use(place, mine.secret)
    use(place, other.secret)
    client = place.client(mine.secret)

    rows = data(client, "/v1/usage", group_by="key")
    assert [row["key_id"] for row in rows] == [mine.key.id]
    for query in ({"key": "other"}, {"key_id": other.key.id}, {"key": "keyless"}):
        response = client.get("/v1/usage", params=NOVEMBER | query)
        assert response.headers["x-fledge-ignored"] == next(iter(query))
        assert [row["key_id"] for row in response.json()["data"]] == [mine.key.id]
    assert data(admin, "/v1/usage") == []
    assert "admin is needed" in message(client.get("/admin/usage"), 403)


def test_nobody_sees_anything_without_a_key_where_one_is_needed(
    place: Keyed, admin: TestClient
) -> None:
    assert place.client().get("/v1/usage").status_code == 401
    assert place.client().get("/admin/usage").status_code == 401


def test_without_keys_there_is_the_keyless_account(place: Keyed) -> None:
    client = place.client()
    client.post("/v1/embeddings", json={"input": "a"})

    for path in ("/v1/usage", "/admin/usage"):
        (row,) = data(client, path)
        assert (row["key_id"], row["key_name"], row["requests"]) == ("keyless", "", 1)
    assert data(client, "/admin/usage", key="keyless", group_by="none")[0]["requests"] == 1


@pytest.mark.parametrize(
    ("query", "headers"), [({"format": "csv"}, {}), ({}, {"accept": "text/csv"})]
)
def test_csv_is_by_parameter_or_by_header_and_safe_for_spreadsheets(
    place: Keyed, admin: TestClient, query: dict[str, str], headers: dict[str, str]
) -> None:
    place.accounts.count(UsageRecord("keyless", "=HYPERLINK(1)", tokens=5))
    params = NOVEMBER | query | {"group_by": "model"}
    response = admin.get("/admin/usage", params=params, headers=headers)

    assert response.headers["content-type"].startswith("text/csv")
    assert response.headers["content-disposition"] == 'attachment; filename="usage.csv"'
    (row,) = csv.DictReader(io.StringIO(response.text))
    assert (row["model"], row["tokens"]) == ("'=HYPERLINK(1)", "5")


def test_the_parameter_wins_over_the_header(admin: TestClient) -> None:
    response = admin.get("/admin/usage?format=json", headers={"accept": "text/csv"})
    assert response.json()["data"] == []


def test_a_limit_cuts_and_says_so(place: Keyed, admin: TestClient) -> None:
    for name in ("a", "b", "c"):
        place.accounts.count(UsageRecord("keyless", name))
    query = NOVEMBER | {"group_by": "model", "limit": "2"}
    body = admin.get("/admin/usage", params=query).json()
    assert ([row["model"] for row in body["data"]], body["has_more"]) == (["a", "b"], True)
    response = admin.get("/admin/usage", params=query | {"format": "csv"})
    assert len(response.text.splitlines()) == 3
    assert "cut after 2 rows" in response.headers["x-fledge-warning"]


@pytest.mark.parametrize("name", ["model", "deployment", "bill_to"])
def test_one_thing_alone(place: Keyed, admin: TestClient, name: str) -> None:
    place.accounts.count(UsageRecord("keyless", "x", "x", tokens=5, bill_to="x"))
    place.accounts.count(UsageRecord("keyless", "y", "y", tokens=7, bill_to="y"))
    assert data(admin, "/admin/usage", group_by="none", **{name: "y"})[0]["tokens"] == 7


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("since=yesterday", "`since` must be a day"),
        ("since=2026-11-02&until=2026-11-01", "`until` must not be before `since`"),
        ("group_by=moon", "`group_by` must be some of day, key"),
        ("group_by=none,key", "`group_by` must be some of day, key"),
        ("limit=0", "`limit` must be at least 1"),
        ("format=xml", "`format` must be json or csv"),
        ("model=%00", "`model` has a control character"),
    ],
)
@pytest.mark.parametrize("path", ["/admin/usage", "/v1/usage"])
def test_what_is_no_report_names_its_parameter(
    admin: TestClient, path: str, query: str, words: str
) -> None:
    response = admin.get(f"{path}?{query}")
    assert words in message(response)
    assert response.json()["error"]["param"] in query


def test_a_key_that_is_not_there_is_not_found(admin: TestClient) -> None:
    assert message(admin.get("/admin/usage?key=nobody"), 404).startswith("there is no key")


def test_unknown_parameters_are_named(admin: TestClient) -> None:
    response = admin.get("/admin/usage?from=2026")
    assert response.headers["x-fledge-ignored"] == "from"


def test_a_revoked_key_keeps_its_usage(place: Keyed, admin: TestClient) -> None:
    use(place, place.key("team"))
    place.revoke("team")
    assert [row["key_name"] for row in data(admin, "/admin/usage")] == ["team"]


def test_the_reference_lists_the_parameters(place: Keyed) -> None:
    paths = place.client().get("/openapi.json").json()["paths"]
    names = {one["name"] for one in paths["/admin/usage"]["get"]["parameters"]}
    assert names == {
        *("since", "until", "group_by", "model", "deployment", "bill_to", "limit", "format", "key")
    }
    own = {one["name"] for one in paths["/v1/usage"]["get"]["parameters"]}
    assert own == names - {"key"}
    content = paths["/v1/usage"]["get"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/csv"}
