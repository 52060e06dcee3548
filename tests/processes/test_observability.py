"""A server in a process of its own: what it tells of itself, and a copy of what it keeps."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fledge.accounts.keys import KeySpec
from fledge.settings import Settings
from fledge.stores import opened_keys
from tests.collector import Collector, collecting, values
from tests.servers import serving
from tests.static_folders import draw, save_static

DIMENSION = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {"embedding.weight": draw(50, DIMENSION)}
    return save_static(tmp_path_factory.mktemp("models") / "static", tensors, vocab=50)


def told(collector: Collector, model: Path, home: Path) -> list[dict[str, Any]]:
    """The log of a server that was asked something and then stopped, line by line."""
    with serving(
        home,
        str(model),
        log_format="json",
        log_level="debug",
        otlp_endpoint=collector.url,
        data_dir=home / "data",
    ) as server:
        body, headers = {"input": ["w5", "w6 w7"]}, {"x-request-id": "abc-1"}
        httpx2.post(f"{server.url}/v1/embeddings", json=body, headers=headers).raise_for_status()
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def test_every_line_is_json_and_a_request_has_one_that_leads_to_its_trace(
    model: Path, tmp_path: Path
) -> None:
    with collecting() as collector:
        lines = told(collector, model, tmp_path)
        spans = collector.rest()
    (line,) = [one for one in lines if one.get("request_id") == "abc-1"]
    assert (line["route"], line["status"], line["model"]) == ("/v1/embeddings", 200, "static")
    (span,) = [one for one in spans if one.name == "POST /v1/embeddings"]
    assert span.trace_id.hex() == line["trace_id"]
    assert values(span.attributes)["gen_ai.usage.input_tokens"] == line["tokens"]
    assert {one["logger"] for one in lines} >= {"uvicorn.error", "fledge.cli.server"}


def test_a_server_stops_though_its_collector_hangs(model: Path, tmp_path: Path) -> None:
    with collecting() as collector:
        collector.hold()
        lines = told(collector, model, tmp_path)  # which checks that it exits with 0
        assert collector.rest() == []
    assert lines[-1]["message"].startswith("Finished")


def test_a_copy_of_the_database_that_sqlite_makes_while_it_serves_is_whole(
    model: Path, tmp_path: Path
) -> None:
    data, copies = tmp_path / "data", tmp_path / "copies"
    copies.mkdir()
    with opened_keys(Settings(data_dir=data)) as keys:
        secret = keys.create(KeySpec(name="app")).secret
    headers = {"authorization": f"Bearer {secret}"}
    with serving(tmp_path, str(model), data_dir=data) as server:
        url = f"{server.url}/v1/embeddings"
        httpx2.post(url, json={"input": "w5"}, headers=headers).raise_for_status()
        with (
            closing(sqlite3.connect(data / "accounts.db")) as source,
            closing(sqlite3.connect(copies / "accounts.db")) as copy,
        ):
            source.backup(copy)
    with serving(tmp_path, str(model), data_dir=copies) as server:
        url = f"{server.url}/v1/embeddings"
        assert httpx2.post(url, json={"input": "w5"}).status_code == 401
        httpx2.post(url, json={"input": "w5"}, headers=headers).raise_for_status()
