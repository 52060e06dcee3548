"""A server in a process of its own, and what it tells of itself: logs, traces, metrics, a backup."""

import json
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fledge.settings import Settings
from fledge.stores import opened_keys
from tests.collector import Collector, collecting, values
from tests.servers import Server, serving
from tests.static_folders import draw, save_static

DIMENSION = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {"embedding.weight": draw(50, DIMENSION)}
    return save_static(tmp_path_factory.mktemp("models") / "static", tensors, vocab=50)


def ask(server: Server, path: str, body: Any = None, **headers: str) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}{path}", data, headers)
    with urllib.request.urlopen(request) as answer:
        content: bytes = answer.read()
        return content


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
        ask(server, "/v1/embeddings", {"input": ["w5", "w6 w7"]}, **{"x-request-id": "abc-1"})
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
    with serving(tmp_path, str(model), data_dir=data) as server:
        ask(server, "/v1/embeddings", {"input": "w5"})
        with (
            closing(sqlite3.connect(data / "accounts.db")) as source,
            closing(sqlite3.connect(copies / "accounts.db")) as copy,
        ):
            source.backup(copy)
        assert b"fledge_usage_unwritten_seconds" in ask(server, "/metrics")
    with opened_keys(Settings(data_dir=copies)) as keys:
        assert keys.list() == []
