"""`/v1/files`: forms of every kind, and what is left on the disk of those that are refused."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from starlette.types import Message

from fledge.accounts.accounts import Accounts
from fledge.accounts.keys import Key
from fledge.api.app import create_app
from fledge.batches.store import BatchStore
from fledge.catalog.catalog import Catalog
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, FakeDeployments
from fledge.types import ModelEntry
from tests.unit.batches.fakes import key

MAX_BYTES = 4096
BOUNDARY = "boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


class FakeAccounts(Accounts):
    """Accounts whose secrets are the ids of their keys."""

    def __init__(self, *keys: Key) -> None:
        self.keys = {one.id: one for one in keys}

    @property
    def has_keys(self) -> bool:
        return True

    def find(self, secret: str) -> Key | None:
        return self.keys.get(secret)

    def key_of(self, key_id: str) -> Key | None:
        return self.keys.get(key_id)


def app_of(folder: Path, accounts: Accounts | None = None, **changes: Any) -> Any:
    settings = Settings(data_dir=folder, max_file_bytes=MAX_BYTES, **changes)
    backend = FakeBackend()
    service = Service(
        Catalog([ModelEntry(id=backend.card.id)]),
        FakeDeployments(backend),
        settings,
        accounts=accounts,
    )
    batches = BatchStore(folder, max_stored_bytes=settings.max_stored_bytes)
    return create_app(service, settings, batches=batches)


def client_of(app: Any) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1:8080")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(app_of(tmp_path)) as client:
        yield client


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("files/*")]


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n"
    return head.encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


PURPOSE = part("purpose", b"batch")
FILE = part("file", b"{}", "in.jsonl")


def post(client: TestClient, body: bytes, content_type: str = FORM) -> Any:
    return client.post("/v1/files", content=body, headers={"content-type": content_type})


@pytest.mark.parametrize("body", [form(PURPOSE, FILE), form(FILE, PURPOSE)])
def test_a_form_is_taken_in_any_order(client: TestClient, body: bytes) -> None:
    answer = post(client, body)
    assert answer.status_code == 200
    file = answer.json()
    assert file.pop("id").startswith("file-")
    assert file["expires_at"] - file["created_at"] == 30 * 24 * 3600
    del file["created_at"], file["expires_at"]
    assert file == {
        "object": "file",
        "bytes": 2,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }


def test_the_largest_file_is_taken_and_comes_back_in_every_byte(client: TestClient) -> None:
    data = bytes(range(256)) * (MAX_BYTES // 256)
    file = post(client, form(PURPOSE, part("file", data, "all.jsonl"))).json()
    answer = client.get(f"/v1/files/{file['id']}/content")
    assert answer.content == data
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="all.jsonl"'


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\files\\a.jsonl", "a.jsonl"),
        ("/", "upload.jsonl"),
        ("", "upload.jsonl"),
        ("a\x00b\x1b[31m.jsonl", "ab[31m.jsonl"),
        ("ü\u202e.jsonl", "ü.jsonl"),
        ("x" * 1000, "x" * 256),
    ],
)
def test_a_name_is_never_a_path(client: TestClient, tmp_path: Path, name: str, shown: str) -> None:
    file = post(client, form(PURPOSE, part("file", b"{}", name))).json()
    assert file["filename"] == shown
    assert sorted(left(tmp_path)) == [file["id"], f"{file['id']}.json"]
    assert client.get(f"/v1/files/{file['id']}/content").status_code == 200


@pytest.mark.parametrize(
    ("body", "content_type", "field"),
    [
        (form(PURPOSE), FORM, "file"),
        (form(FILE), FORM, "purpose"),
        (form(PURPOSE, part("file", b"", "a")), FORM, "file"),
        (form(part("purpose", b"fine-tune"), FILE), FORM, "purpose"),
        (form(part("purpose", b"bat\x00ch"), FILE), FORM, "purpose"),
        (form(PURPOSE, FILE, FILE), FORM, "file"),
        (form(PURPOSE, part("other", b"x", "a")), FORM, "other"),
        (form(PURPOSE, part("file", b"x" * 5000)), FORM, "file"),
        (form(*[PURPOSE] * 40, FILE), FORM, None),
        (form(part("purpose", b"batch" * 2000), FILE), FORM, "purpose"),
        (
            form(PURPOSE, part("expires_after[seconds]", b"3600"), FILE),
            FORM,
            "expires_after.anchor",
        ),
        (
            form(
                PURPOSE,
                part("expires_after[anchor]", b"created_at"),
                part("expires_after[seconds]", "\u0663600".encode()),
                FILE,
            ),
            FORM,
            "expires_after.seconds",
        ),
        (form(PURPOSE, FILE)[:-20], FORM, None),
        (b"", FORM, None),
        (b"--other--", FORM, None),
        (b"\x00" * 100, FORM, None),
        (form(b"--boundary\r\n" + b"x" * 20_000 + b": y\r\n\r\n\r\n"), FORM, None),
        (form(b"--boundary\r\nContent-Type: text/plain\r\n\r\nx\r\n"), FORM, None),
        (form(PURPOSE, FILE), "multipart/form-data", None),
        (form(PURPOSE, FILE), f"multipart/form-data; boundary={'x' * 5000}", None),
        (form(PURPOSE, FILE), "application/json", None),
    ],
)
def test_a_form_that_is_wrong_is_told_and_leaves_nothing_behind(
    client: TestClient, tmp_path: Path, body: bytes, content_type: str, field: str | None
) -> None:
    answer = post(client, body, content_type)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field
    assert left(tmp_path) == []


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 40 * MAX_BYTES])
def test_a_file_that_is_too_large_leaves_nothing_behind(
    client: TestClient, tmp_path: Path, size: int
) -> None:
    body = form(PURPOSE, part("file", b"x" * size, "a"))
    assert post(client, body).status_code == 413

    def chunks() -> Iterator[bytes]:
        yield from (body[i : i + 1000] for i in range(0, len(body), 1000))

    answer = client.post("/v1/files", content=chunks(), headers={"content-type": FORM})
    assert answer.status_code == 413
    assert answer.json()["error"]["param"] == "file"
    assert left(tmp_path) == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_is_the_servers_fault(
    client: TestClient, tmp_path: Path, data: st.DataObject
) -> None:
    whole = form(PURPOSE, FILE)
    place = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.binary(max_size=30))
    body = whole[:place] + junk + whole[data.draw(st.integers(place, len(whole))) :]
    before = len(left(tmp_path))
    status = post(client, body).status_code
    assert status in (200, 400)
    assert len(left(tmp_path)) == before + (2 if status == 200 else 0)


@pytest.mark.parametrize("sent", [0, 30, len(form(PURPOSE, FILE)) - 30])
def test_an_upload_that_breaks_off_leaves_nothing_behind(tmp_path: Path, sent: int) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": form(PURPOSE, FILE)[:sent], "more_body": True},
        {"type": "http.disconnect"},
    ]
    answers: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        answers.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", FORM.encode())],
    }
    asyncio.run(app_of(tmp_path)(scope, receive, send))
    assert answers[0]["status"] == 499
    assert left(tmp_path) == []


def test_an_upload_that_stalls_is_given_up(tmp_path: Path) -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    answers: list[Message] = []

    async def send(message: Message) -> None:
        answers.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", FORM.encode())],
    }
    asyncio.run(app_of(tmp_path, request_timeout_s=0.01)(scope, receive, send))
    assert answers[0]["status"] == 504
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/none",
        "/v1/files/..%2Faccounts.db/content",
        "/v1/files/%00",
        f"/v1/files/{'x' * 5000}",
        "/v1/files/file-%FF",
    ],
)
def test_an_id_that_is_none_is_not_found(client: TestClient, path: str) -> None:
    for method in ("GET", "DELETE") if not path.endswith("content") else ("GET",):
        assert client.request(method, path).status_code == 404


def test_unknown_fields_and_parameters_are_named(client: TestClient) -> None:
    answer = post(client, form(PURPOSE, part("colour", b"red"), FILE))
    assert answer.headers["x-fledge-ignored"] == "colour"
    assert client.get("/v1/files?colour=red").headers["x-fledge-ignored"] == "colour"


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up", "after=file-0"])
def test_a_query_that_is_wrong_is_told(client: TestClient, query: str) -> None:
    answer = client.get(f"/v1/files?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


def test_an_empty_list_is_a_list(client: TestClient) -> None:
    assert client.get("/v1/files").json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_who_keeps_too_much_is_answered_as_openai_answers(tmp_path: Path) -> None:
    with client_of(app_of(tmp_path, max_stored_bytes=1024)) as client:
        kept = post(client, form(PURPOSE, part("file", b"x" * 1024, "a"))).json()
        batch = {
            "input_file_id": kept["id"],
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
        }
        for answer in (post(client, form(PURPOSE, FILE)), client.post("/v1/batches", json=batch)):
            assert answer.status_code == 400
            assert answer.json()["error"] == {
                "message": "You have exceeded your file storage quota. 1024 bytes of your files "
                "are kept, and at most 1024 may be, those that are being sent included "
                "(max_stored_bytes): delete some, as results that were fetched",
                "type": "invalid_request_error",
                "param": None,
                "code": "storage_quota_exceeded",
            }
        assert len(left(tmp_path)) == 2
        client.delete(f"/v1/files/{kept['id']}")
        assert post(client, form(PURPOSE, FILE)).status_code == 200


def test_an_upload_ends_where_it_would_be_too_much_and_leaves_nothing(tmp_path: Path) -> None:
    with client_of(app_of(tmp_path, max_stored_bytes=1024)) as client:
        answer = post(client, form(PURPOSE, part("file", b"x" * 1025, "a")))
        assert answer.json()["error"]["code"] == "storage_quota_exceeded"
        assert left(tmp_path) == []
        assert post(client, form(PURPOSE, part("file", b"x" * 1024, "a"))).status_code == 200


def test_a_key_sees_its_own_files_and_an_admin_all(tmp_path: Path) -> None:
    accounts = FakeAccounts(key("key_a"), key("key_b"), key("key_admin", "admin", "inference"))
    with client_of(app_of(tmp_path, accounts)) as client:

        def ask(secret: str, method: str, path: str, **options: Any) -> Any:
            headers = {"authorization": f"Bearer {secret}", **options.pop("headers", {})}
            return client.request(method, path, headers=headers, **options)

        own = {
            secret: ask(
                secret,
                "POST",
                "/v1/files",
                content=form(PURPOSE, FILE),
                headers={"content-type": FORM},
            ).json()["id"]
            for secret in ("key_a", "key_b")
        }
        for secret, file_id in own.items():
            assert [one["id"] for one in ask(secret, "GET", "/v1/files").json()["data"]] == [
                file_id
            ]
        assert len(ask("key_admin", "GET", "/v1/files").json()["data"]) == 2
        foreign = own["key_a"]
        batch = {
            "input_file_id": foreign,
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
        }
        for method, path, body in (
            ("GET", f"/v1/files/{foreign}", None),
            ("GET", f"/v1/files/{foreign}/content", None),
            ("DELETE", f"/v1/files/{foreign}", None),
            ("POST", "/v1/batches", batch),
        ):
            answer = ask("key_b", method, path, content=json.dumps(body) if body else None)
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == f"No such File object: {foreign}"
        assert ask("key_admin", "DELETE", f"/v1/files/{foreign}").json()["deleted"]
        assert client.get("/v1/files").status_code == 401
