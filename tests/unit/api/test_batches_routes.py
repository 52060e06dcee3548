"""`/v1/batches`: bodies, whose a batch is, and lines that are answered as requests are."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot
from starlette.testclient import TestClient

from fledge.batches.store import BatchStore
from tests.unit.api.test_files_routes import FakeAccounts, app_of, client_of
from tests.unit.batches.fakes import PATIENCE_S, jsonl, key, request

ASKED = {"endpoint": "/v1/embeddings", "completion_window": "24h"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(app_of(tmp_path)) as client:
        yield client


def upload(client: TestClient, lines: Sequence[dict[str, Any]], **options: Any) -> str:
    answer = client.post(
        "/v1/files", files={"file": ("in", jsonl(lines))}, data={"purpose": "batch"}, **options
    )
    file_id: str = answer.json()["id"]
    return file_id


def create(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/batches", json=ASKED | body)


def ended(client: TestClient, batch_id: str, **options: Any) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_S
    while True:
        batch: dict[str, Any] = client.get(f"/v1/batches/{batch_id}", **options).json()
        if batch["status"] in ("completed", "failed", "cancelled"):
            return batch
        assert time.monotonic() < until, batch
        time.sleep(0.01)


def test_a_new_batch_is_shown_with_every_field(client: TestClient) -> None:
    batch = create(client, input_file_id=upload(client, [request("a", input="x")])).json()
    assert batch.pop("id").startswith("batch_")
    assert batch.pop("input_file_id").startswith("file-")
    assert batch.pop("expires_at") - batch.pop("created_at") == 24 * 3600
    assert batch == snapshot(
        {
            "object": "batch",
            "endpoint": "/v1/embeddings",
            "model": None,
            "errors": None,
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "in_progress_at": None,
            "finalizing_at": None,
            "completed_at": None,
            "failed_at": None,
            "expired_at": None,
            "cancelling_at": None,
            "cancelled_at": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "usage": {
                "input_tokens": 0,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 0,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 0,
            },
            "metadata": None,
        }
    )


@pytest.mark.parametrize(
    "body",
    [
        {"input": "text"},
        {"input": ["a", "b"], "encoding_format": "base64"},
        {"input": ["a", "b"], "dimensions": 3, "normalize": False},
        {"input": "a", "prompt_name": "query", "user": "somebody"},
        {"input": [[5, 6], [7]]},
        {"input": "word " * 30, "truncate": True},
        {"input": "word " * 30},
        {"input": ["a", ""]},
        {"input": []},
        {"input": 5},
        {"input": "a", "dimensions": 999},
        {"input": "a", "encoding_format": "int8"},
        {"input": "a", "prompt_name": "none"},
        {"input": "a", "model": "org/none"},
        {"input": "a", "model": 5},
        {},
    ],
)
def test_a_line_is_answered_as_its_body_would_be(client: TestClient, body: dict[str, Any]) -> None:
    direct = client.post("/v1/embeddings", json=body)
    batch = create(client, input_file_id=upload(client, [request("a", **body)])).json()
    batch = ended(client, batch["id"])
    assert batch["status"] == "completed", batch
    file_id = batch["output_file_id"] or batch["error_file_id"]
    (line,) = client.get(f"/v1/files/{file_id}/content").text.splitlines()
    response = json.loads(line)["response"]
    assert (response["status_code"], response["body"]) == (direct.status_code, direct.json())
    assert (batch["output_file_id"] is not None) == (direct.status_code == 200)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"endpoint": 5}, "endpoint"),
        ({"completion_window": "7d"}, "completion_window"),
        ({"input_file_id": None}, "input_file_id"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"x" * 65: ""}}, "metadata"),
        ({"output_expires_after": {"seconds": 3600}}, "output_expires_after.anchor"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": True}},
            "output_expires_after.seconds",
        ),
    ],
)
def test_a_body_that_is_wrong_names_the_field(
    client: TestClient, change: dict[str, Any], field: str
) -> None:
    file_id = upload(client, [request("a", input="x")])
    answer = create(client, **{"input_file_id": file_id} | change)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\x00", b'{"a": ' * 9000])
def test_a_body_that_is_no_object_is_refused(client: TestClient, body: bytes) -> None:
    assert client.post("/v1/batches", content=body).status_code == 400


def test_a_body_that_is_too_large_is_refused(client: TestClient) -> None:
    assert create(client, metadata={"a": "x" * 100_000}).status_code == 413


@pytest.mark.parametrize("file_id", ["file-none", "", "../x", "\x00", "x" * 5000])
def test_a_file_that_does_not_exist_is_not_found(client: TestClient, file_id: str) -> None:
    answer = create(client, input_file_id=file_id)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"No such File object: {file_id[:64]}"


def test_a_batch_that_does_not_exist_is_not_found(client: TestClient) -> None:
    for method, path in (("GET", "/v1/batches/none"), ("POST", "/v1/batches/none/cancel")):
        answer = client.request(method, path)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == "No batch found with id 'none'."


def test_an_unknown_field_is_named(client: TestClient) -> None:
    file_id = upload(client, [request("a", input="x")])
    answer = create(client, input_file_id=file_id, colour="red")
    assert answer.status_code == 200
    assert answer.headers["x-fledge-ignored"] == "colour"


def test_a_gigantic_line_fails_its_batch_and_nothing_else(tmp_path: Path) -> None:
    with client_of(app_of(tmp_path, max_body_bytes=1024)) as client:
        lines = [request("a", input="x"), request("b", input="x" * 2000)]
        batch = create(client, input_file_id=upload(client, lines)).json()
        batch = ended(client, batch["id"])
        assert batch["status"] == "failed"
        (error,) = batch["errors"]["data"]
        assert (error["code"], error["line"]) == ("line_too_long", 2)


def test_a_key_sees_its_own_batches_and_an_admin_all(tmp_path: Path) -> None:
    accounts = FakeAccounts(key("key_a"), key("key_b"), key("key_admin", "admin", "inference"))
    with client_of(app_of(tmp_path, accounts)) as client:

        def of(secret: str) -> dict[str, Any]:
            return {"headers": {"authorization": f"Bearer {secret}"}}

        file_id = upload(client, [request("a", input="x")], **of("key_a"))
        body = ASKED | {"input_file_id": file_id}
        batch_id = client.post("/v1/batches", json=body, **of("key_a")).json()["id"]
        for secret, seen in (("key_a", [batch_id]), ("key_b", []), ("key_admin", [batch_id])):
            listed = client.get("/v1/batches", **of(secret)).json()["data"]
            assert [one["id"] for one in listed] == seen
        assert client.get(f"/v1/batches/{batch_id}", **of("key_b")).status_code == 404
        assert client.post(f"/v1/batches/{batch_id}/cancel", **of("key_b")).status_code == 404
        batch = ended(client, batch_id, **of("key_a"))
        output = batch["output_file_id"]
        assert client.get(f"/v1/files/{output}/content", **of("key_b")).status_code == 404
        assert client.get(f"/v1/files/{output}/content", **of("key_admin")).status_code == 200


def test_a_server_without_a_folder_for_them_has_no_such_routes(tmp_path: Path) -> None:
    store = BatchStore(tmp_path)
    assert not store.is_used()
    paths = client_of(app_of(tmp_path)).get("/openapi.json").json()["paths"]
    assert {"/v1/files", "/v1/batches/{batch_id}/cancel"} <= paths.keys()
