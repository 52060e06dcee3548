"""Requests as unmodified clients of other languages and versions sent them, replayed."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from fledge.api.app import create_app
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, fake_card
from tests.conftest import SHARED, require_folder

WIRE = require_folder(
    SHARED / "reference" / "wire", "the captures of ../shared are not on this machine"
)
DIMENSION = 8
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


def assert_is_vector(value: Any, dimension: int) -> None:
    """A list of that many numbers, not all of them equal."""
    assert [type(number) for number in value] == [float] * dimension
    assert len(set(value)) > 1


def assert_openai_shape(answer: Any, sent: dict[str, Any]) -> None:
    """A list object with one embedding for each input, in the encoding that was asked for."""
    dimension = sent.get("dimensions", DIMENSION)
    inputs = sent["input"]
    is_single = isinstance(inputs, str) or isinstance(inputs[0], int)
    count = 1 if is_single else len(inputs)
    assert answer.keys() == {"object", "data", "model", "usage"}
    assert (answer["object"], answer["model"]) == ("list", sent["model"])
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] >= count
    assert [(one["object"], one["index"]) for one in answer["data"]] == [
        ("embedding", index) for index in range(count)
    ]
    for one in answer["data"]:
        vector = one["embedding"]
        if sent.get("encoding_format") == "base64":
            vector = np.frombuffer(base64.b64decode(vector, validate=True), "<f4").tolist()
        assert_is_vector(vector, dimension)


def assert_hugging_face_shape(answer: Any, sent: dict[str, Any]) -> None:
    """One score for each sentence, or one vector for each input."""
    inputs = sent["inputs"]
    if isinstance(inputs, dict):
        assert_is_vector(answer, len(inputs["sentences"]))
        return
    assert len(answer) == (1 if isinstance(inputs, str) else len(inputs))
    for vector in answer:
        assert_is_vector(vector, sent.get("dimensions", DIMENSION))


def assert_error_shape(answer: Any, *, is_openai: bool) -> None:
    """The one kind of `error` that the dialect's clients show."""
    if is_openai:
        assert answer["error"].keys() == {"message", "type", "param", "code"}
        assert answer["error"]["code"] == "empty_input"
    else:
        assert answer.keys() == {"error", "error_type"}
        assert isinstance(answer["error"], str)


@pytest.mark.parametrize(("path", "request_"), captured())
def test_a_captured_request_is_answered(path: str, request_: dict[str, Any]) -> None:
    ids = ("st/x", "text-embedding-3-small", "facebook/bart-base")
    body = request_["b"].encode()
    sent = json.loads(body)
    named = sent.get("model")
    backends = [FakeBackend(fake_card(id=id_, dimension=DIMENSION)) for id_ in {*ids, named} if id_]
    settings = Settings()
    headers = {k: v for k, v in request_["h"].items() if k.lower() not in OF_THE_CONNECTION}
    with TestClient(
        create_app(Service.over(backends, settings), settings), base_url="http://127.0.0.1"
    ) as client:
        response = client.post(path, content=body, headers=headers)
    is_openai = path == "/v1/embeddings"
    is_empty = b'":[]' in body
    assert response.status_code == (400 if is_empty else 200), response.text
    assert response.headers["content-type"] == "application/json"
    if is_empty:
        assert_error_shape(response.json(), is_openai=is_openai)
    elif is_openai:
        assert_openai_shape(response.json(), sent)
    else:
        assert_hugging_face_shape(response.json(), sent)
