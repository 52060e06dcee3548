"""Requests as unmodified clients of other languages and versions sent them, replayed."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fledge.api.app import create_app
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, fake_card

WIRE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "wire"
# Host and length belong to the connection, not to the request.
OF_THE_CONNECTION = {"host", "content-length", "connection"}


def captured() -> list[Any]:
    """Every captured POST to a route that is served here, with the client's name for an id."""
    requests = []
    for file in sorted(WIRE.glob("*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            request = json.loads(line)
            # The captures were made with the router's address replaced by this prefix.
            path = request["p"].removeprefix("/router")
            if request["m"] == "POST" and path.startswith(("/v1", "/hf-inference/")) | (
                path == "/"
            ):
                requests.append(pytest.param(path, request, id=f"{file.stem}:{number}"))
    return requests


@pytest.mark.skipif(not WIRE.is_dir(), reason="the captures of ../shared are not on this machine")
@pytest.mark.parametrize(("path", "request_"), captured())
def test_a_captured_request_is_answered(path: str, request_: dict[str, Any]) -> None:
    ids = ("st/x", "text-embedding-3-small", "facebook/bart-base")
    body = request_["b"].encode()
    named = json.loads(body).get("model")
    backends = [FakeBackend(fake_card(id=id_)) for id_ in {*ids, named} if id_]
    settings = Settings()
    headers = {k: v for k, v in request_["h"].items() if k.lower() not in OF_THE_CONNECTION}
    with TestClient(
        create_app(Service(backends, settings), settings), base_url="http://127.0.0.1"
    ) as client:
        response = client.post(path, content=body, headers=headers)
    is_empty = b'":[]' in body
    assert response.status_code == (400 if is_empty else 200), response.text
