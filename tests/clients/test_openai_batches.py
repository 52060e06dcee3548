"""The unmodified `openai` client: files up and down, batches from their creation to their end."""

import asyncio
import base64
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Batch

from fledge.api.app import create_app
from fledge.batches.store import BatchStore
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, fake_card
from tests.clients.serving import serving

PATIENCE_S = 20.0
MAX_FILE_BYTES = 2**20


@dataclass(frozen=True)
class Place:
    """A client of a server with files, the model behind it, and where the files are."""

    client: OpenAI
    backend: FakeBackend
    folder: Path

    def upload(self, lines: Sequence[dict[str, Any]]) -> str:
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        return self.client.files.create(file=("in.jsonl", data), purpose="batch").id

    def begin(self, lines: Sequence[dict[str, Any]]) -> Batch:
        return self.client.batches.create(
            input_file_id=self.upload(lines), endpoint="/v1/embeddings", completion_window="24h"
        )

    def wait(self, batch: Batch, *statuses: str) -> Batch:
        until = time.monotonic() + PATIENCE_S
        while batch.status not in statuses:
            assert time.monotonic() < until, batch
            time.sleep(0.01)
            batch = self.client.batches.retrieve(batch.id)
        return batch

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        assert file_id is not None
        text = self.client.files.content(file_id).text
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    backend = FakeBackend(fake_card(id="org/name"))
    settings = Settings(data_dir=tmp_path, max_file_bytes=MAX_FILE_BYTES)
    service = Service.over([backend], settings)
    app = create_app(service, settings, batches=BatchStore(tmp_path))
    with (
        serving(app) as url,
        OpenAI(base_url=f"{url}/v1", api_key="sk-any", max_retries=0) as client,
    ):
        yield Place(client, backend, tmp_path)
        backend.release()


def request(custom_id: str, **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "name", **body},
    }


def test_a_batch_gives_the_vectors_and_the_errors_that_requests_would(place: Place) -> None:
    batch = place.begin(
        [
            request("floats", input=["one", "two words"]),
            request("base64", input="a", encoding_format="base64"),
            request("cut", input="word " * 30, dimensions=4, truncate=True),
            request("too long", input="word " * 30),
            request("no input"),
        ]
    )
    assert batch.status == "validating"
    batch = place.wait(batch, "completed")
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (5, 3, 2)
    assert batch.model == "name"
    assert batch.usage is not None
    assert batch.usage.total_tokens == 7 + 3 + 16
    assert batch.created_at <= (batch.in_progress_at or 0) <= (batch.completed_at or 0)
    assert batch.expires_at == batch.created_at + 24 * 3600

    output = {line["custom_id"]: line for line in place.lines(batch.output_file_id)}
    assert output.keys() == {"floats", "base64", "cut"}
    create = place.client.embeddings.create
    live = create(model="name", input=["one", "two words"], encoding_format="float")
    line = output["floats"]
    assert line["error"] is None
    assert line["response"]["status_code"] == 200
    assert line["response"]["request_id"]
    assert line["response"]["body"] == live.model_dump()
    same = create(model="name", input="a").data[0].embedding
    encoded = output["base64"]["response"]["body"]["data"][0]["embedding"]
    assert isinstance(encoded, str)
    assert np.array_equal(np.array(same, np.float32), _decoded(encoded))
    assert len(output["cut"]["response"]["body"]["data"][0]["embedding"]) == 4

    errors = {line["custom_id"]: line["response"] for line in place.lines(batch.error_file_id)}
    assert errors.keys() == {"too long", "no input"}
    assert errors["too long"]["status_code"] == 400
    assert errors["no input"]["body"]["error"] == {
        "message": "`input` is required",
        "type": "invalid_request_error",
        "param": "input",
        "code": "invalid_request",
    }
    with pytest.raises(openai.BadRequestError) as caught:
        create(model="name", input="word " * 30)
    assert errors["too long"]["body"]["error"] == caught.value.body


def _decoded(encoded: str) -> Any:
    return np.frombuffer(base64.b64decode(encoded), np.float32)


def test_many_lines_are_each_answered_once_and_behind_live_traffic(place: Place) -> None:
    batch = place.begin([request(f"r{n}", input=f"text {n}") for n in range(500)])
    batch = place.wait(batch, "completed")
    lines = place.lines(batch.output_file_id)
    assert sorted(line["custom_id"] for line in lines) == sorted(f"r{n}" for n in range(500))
    assert len({line["id"] for line in lines}) == 500
    assert {job.priority for job in place.backend.jobs} == {1}


def test_a_file_with_mistakes_fails_as_a_whole_and_says_in_which_lines(place: Place) -> None:
    good = request("a", input="x")
    data = "\n".join(
        [
            json.dumps(good),
            "not json",
            json.dumps(good),
            json.dumps(request("b", input="x") | {"url": "/v1/chat/completions"}),
            json.dumps(request("c", input="x", model="other")),
            json.dumps({key: good[key] for key in ("method", "url", "body")}),
        ]
    )
    file = place.client.files.create(file=io.BytesIO(data.encode()), purpose="batch")
    batch = place.client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    )
    batch = place.wait(batch, "failed")
    assert batch.errors is not None
    assert [(one.line, one.code, one.param) for one in batch.errors.data or []] == [
        (2, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "invalid_url", "url"),
        (5, "mismatched_model", "body.model"),
        (6, "missing_required_parameter", "custom_id"),
    ]
    assert batch.failed_at is not None
    assert batch.output_file_id is batch.error_file_id is None
    assert place.backend.jobs == []


def test_a_batch_is_cancelled_within_a_second_and_keeps_what_it_has(place: Place) -> None:
    first = place.wait(place.begin([request("only", input="a")]), "completed")
    place.backend.hold()
    batch = place.begin([request(f"r{n}", input=f"text {n}") for n in range(200)])
    batch = place.wait(batch, "in_progress")
    while len(place.backend.jobs) < 2:
        time.sleep(0.01)
    started = time.monotonic()
    assert place.client.batches.cancel(batch.id).status == "cancelling"
    batch = place.wait(batch, "cancelled")
    assert time.monotonic() - started < 1
    assert batch.cancelling_at is not None
    assert batch.cancelled_at is not None
    assert batch.output_file_id is None
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'cancelled'"):
        place.client.batches.cancel(batch.id)
    with pytest.raises(openai.ConflictError):
        place.client.batches.cancel(first.id)


def test_lists_are_paged(place: Place) -> None:
    files = [place.upload([request("a", input=f"{n}")]) for n in range(5)]
    client = place.client
    assert [one.id for one in client.files.list(limit=2)] == files[::-1]
    assert [one.id for one in client.files.list(limit=2, order="asc")] == files
    page = client.files.list(limit=2, order="asc", after=files[1])
    assert [one.id for one in page.data] == files[2:4]
    assert page.has_more
    assert list(client.files.list(purpose="batch_output")) == []
    create = client.batches.create
    batches = [
        create(input_file_id=one, endpoint="/v1/embeddings", completion_window="24h").id
        for one in files
    ]
    assert [one.id for one in client.batches.list(limit=2)] == batches[::-1]
    with pytest.raises(openai.BadRequestError, match="`after` must be"):
        client.batches.list(after="batch_none")


def test_a_file_comes_back_as_it_was_and_goes_when_it_is_deleted(place: Place) -> None:
    data = json.dumps(request("ü", input="\u0000")).encode()
    file = place.client.files.create(
        file=("../../eins/zwei ü.jsonl", data),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.filename == "zwei ü.jsonl"
    assert (file.bytes, file.purpose, file.status) == (len(data), "batch", "processed")
    assert file.expires_at == file.created_at + 3600
    assert place.client.files.retrieve(file.id) == file
    assert place.client.files.content(file.id).read() == data
    assert place.client.files.delete(file.id).deleted
    for ask in (
        place.client.files.retrieve,
        place.client.files.delete,
        place.client.files.content,
    ):
        with pytest.raises(openai.NotFoundError, match=f"No such File object: {file.id}"):
            ask(file.id)
    assert [path.name for path in (place.folder / "files").iterdir()] == []


def test_the_input_of_a_running_batch_is_not_deleted(place: Place) -> None:
    place.backend.hold()
    batch = place.begin([request("a", input="x")])
    with pytest.raises(openai.ConflictError, match="cancel that first"):
        place.client.files.delete(batch.input_file_id)
    place.backend.release()
    batch = place.wait(batch, "completed")
    assert place.client.files.delete(batch.input_file_id).deleted


def test_a_file_that_is_too_large_or_for_something_else_leaves_nothing_behind(
    place: Place,
) -> None:
    files = place.client.files
    with pytest.raises(openai.APIStatusError) as caught:
        files.create(file=b"x" * (MAX_FILE_BYTES + 1), purpose="batch")
    assert caught.value.status_code == 413
    with pytest.raises(openai.APIStatusError) as caught:
        files.create(file=b"x" * (MAX_FILE_BYTES * 2), purpose="batch")
    assert caught.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match="`purpose` must be batch") as refused:
        files.create(file=b"x", purpose="fine-tune")
    assert refused.value.param == "purpose"
    with pytest.raises(openai.BadRequestError, match="seconds"):
        files.create(
            file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 5}
        )
    assert list((place.folder / "files").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        (
            {"output_expires_after": {"anchor": "now", "seconds": 3600}},
            "output_expires_after.anchor",
        ),
    ],
)
def test_a_batch_that_cannot_be_is_refused(
    place: Place, changes: dict[str, Any], param: str
) -> None:
    asked: dict[str, Any] = {
        "input_file_id": place.upload([request("a", input="x")]),
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
    }
    with pytest.raises(openai.BadRequestError) as caught:
        place.client.batches.create(**asked | changes)
    assert caught.value.param == param


def test_the_results_of_a_batch_are_no_input_of_another(place: Place) -> None:
    batch = place.wait(place.begin([request("a", input="x")]), "completed")
    assert batch.output_file_id is not None
    with pytest.raises(openai.BadRequestError, match="not batch_output"):
        place.client.batches.create(
            input_file_id=batch.output_file_id,
            endpoint="/v1/embeddings",
            completion_window="24h",
        )


def test_metadata_comes_back(place: Place) -> None:
    batch = place.client.batches.create(
        input_file_id=place.upload([request("a", input="x")]),
        endpoint="/v1/embeddings",
        completion_window="24h",
        metadata={"of": "me"},
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )
    batch = place.wait(batch, "completed")
    assert batch.metadata == {"of": "me"}
    assert batch.output_file_id is not None
    output = place.client.files.retrieve(batch.output_file_id)
    assert output.purpose == "batch_output"
    assert output.filename == f"{batch.id}_output.jsonl"
    assert output.expires_at == output.created_at + 7200


def test_the_async_client_does_the_same(place: Place) -> None:
    async def main() -> None:
        url = str(place.client.base_url)
        async with AsyncOpenAI(base_url=url, api_key="sk-any") as client:
            data = json.dumps(request("a", input="x")).encode()
            file = await client.files.create(file=data, purpose="batch")
            batch = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
            )
            assert [one.id async for one in client.batches.list()] == [batch.id]

    asyncio.run(main())
