"""Bodies that are no good: 4xx, with the place, the limit and what was there."""

import asyncio
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Message

from fledge.api.bodies import ClientLeft, described, read_body
from fledge.errors import BodyTooLarge
from fledge.testing import FakeBackend
from tests.unit.api.conftest import Serve


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty: send a JSON object"),
        (b'{"input":', "the body is not JSON: unexpected end of data (line 1, column 10)"),
        (b'{"input": "a",\n "x": nope}', "(line 2, column"),
        (b'{"input": "\xff"}', "the body is not UTF-8: byte 11 is 0xff"),
        (b'{"input": "\xed\xa0\x80"}', "the body is not UTF-8: byte 11 is 0xed"),
        (b'{"input": "\\ud800"}', "the body is not JSON: "),
        (b'{"input": ["\\udfff tail"]}', "the body is not JSON: "),
        (b'{"input": NaN}', "the body is not JSON: "),
        (b'{"input": 1e999}', "the body is not JSON: "),
        (b"[" * 100_000, "the body is not JSON: "),
        (b'{"a":' * 100_000, "the body is not JSON: "),
        (b"{'input': 'a'}", "the body is not JSON: "),
        (b"input=a", "the body is not JSON: "),
        (b"\x1f\x8b\x08\x00", "the body is not UTF-8: byte 1 is 0x8b"),
    ],
)
def test_a_body_that_is_not_json_is_refused_with_the_place(
    serve: Serve, body: bytes, message: str
) -> None:
    client = serve()
    for path in ("/v1/embeddings", "/"):
        response = client.post(path, content=body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert message in (error if path == "/" else error["message"])
        assert response.headers["x-fledge-error"] == "malformed_body"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/embeddings", [1], "the body must be a JSON object, not a list"),
        ("/v1/embeddings", None, "the body must be a JSON object, not null"),
        ("/v1/embeddings", {}, "`input` is required"),
        ("/v1/embeddings", {"input": None}, "`input` is required"),
        ("/v1/embeddings", {"input": {}}, "`input` must be a string, a list of strings"),
        ("/v1/embeddings", {"input": True}, "not true"),
        ("/v1/embeddings", {"input": []}, "`input` is an empty list"),
        ("/v1/embeddings", {"input": ""}, "`input` is an empty text"),
        ("/v1/embeddings", {"input": ["a", ""]}, "`input[1]` is an empty text"),
        ("/v1/embeddings", {"input": [[]]}, "`input[0]` is an empty list of token ids"),
        ("/v1/embeddings", {"input": ["a", None]}, "`input[1]` must be a string or a list"),
        ("/v1/embeddings", {"input": ["a", 5]}, "`input[1]` must be a string or a list"),
        ("/v1/embeddings", {"input": [1, 2.0]}, "`input[1]` must be a token id (a whole number)"),
        ("/v1/embeddings", {"input": [1, "a"]}, "`input[1]` must be a token id (a whole number)"),
        ("/v1/embeddings", {"input": [2.0, 1]}, "`input[0]` must be a token id (a whole number)"),
        ("/v1/embeddings", {"input": [99999999999999999999]}, "not a number beyond 64 bits"),
        ("/v1/embeddings", {"input": [[-(10**30)]]}, "not a number beyond 64 bits"),
        ("/v1/embeddings", {"input": [True, False]}, "`input[0]` must be a string or a list"),
        ("/v1/embeddings", {"input": [[5, True]]}, "`input[0][1]` must be a token id"),
        ("/v1/embeddings", {"input": [[5, 1.5]]}, "`input[0][1]` must be a token id"),
        ("/v1/embeddings", {"input": [[["a"]]]}, "`input[0][0]` must be a token id"),
        ("/v1/embeddings", {"input": [-1]}, "`input[0]` is -1; the token ids of fledge/fake"),
        ("/v1/embeddings", {"input": [2**63]}, "`input[0]` is 9223372036854775808"),
        ("/v1/embeddings", {"input": [[2**80]]}, "`input[0][0]` must be a token id"),
        ("/v1/embeddings", {"input": "a", "model": 5}, "`model` must be a string, not 5"),
        ("/v1/embeddings", {"input": "a", "model": "x"}, 'the model "x" is not served here'),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "`dimensions` is 0; fledge/fake takes"),
        ("/v1/embeddings", {"input": "a", "dimensions": 9}, "`dimensions` is 9; fledge/fake takes"),
        ("/v1/embeddings", {"input": "a", "dimensions": "3"}, "a whole number, not the string "),
        ("/v1/embeddings", {"input": "a", "dimensions": True}, "a whole number, not true"),
        ("/v1/embeddings", {"input": "a", "dimensions": 3.0}, "a whole number, not 3.0"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "must be 'float' or 'base64'"),
        (
            "/v1/embeddings",
            {"input": "a", "truncate": "yes"},
            '`truncate` must be true, false, "NONE", "START" or "END", not the string "yes"',
        ),
        ("/v1/embeddings", {"input": "a", "truncate": 1}, '"START" or "END", not 1'),
        ("/v1/embeddings", {"input": "a", "truncate": []}, '"START" or "END", not an empty list'),
        (
            "/v1/embeddings",
            {"input": "a", "truncate": "START", "truncation_direction": "Right"},
            '`truncate` is "START", which cuts the left side, and `truncation_direction` is "Ri',
        ),
        (
            "/",
            {"inputs": "a", "parameters": {"truncate": "end"}},
            '`parameters.truncate` must be true, false, "NONE", "START" or "END"',
        ),
        (
            "/",
            {"inputs": "a", "truncate": "END", "parameters": {"truncation_direction": "left"}},
            '`truncate` is "END", which cuts the right side, and `parameters.truncation_direction`',
        ),
        (
            "/",
            {"inputs": "a", "parameters": {"input_type": "no"}},
            '`parameters.input_type` is "no"; known are',
        ),
        ("/", {"inputs": "a", "parameters": {"task": "no"}}, '`parameters.task` is "no"; known'),
        (
            "/",
            {"inputs": "a", "parameters": {"prompt_name": "no"}},
            '`parameters.prompt_name`: fledge/fake has no prompt "no"; its prompts',
        ),
        (
            "/",
            {"inputs": "a", "parameters": {"dimensions": 0}},
            "`parameters.dimensions` is 0; fledge/fake takes",
        ),
        (
            "/",
            {"inputs": "a", "input_type": "query", "parameters": {"task": "passage"}},
            '`input_type` is "query" and `parameters.task` is "passage"; they are two names',
        ),
        ("/v1/embeddings", {"input": "a", "prompt_name": "no"}, "its prompts: query, document"),
        ("/v1/embeddings", {"input": "a", "prompt": 5}, "`prompt` must be a string, not 5"),
        ("/v1/embeddings", {"input": "a", "prompt": ["q: "]}, "`prompt` must be a string, not a"),
        ("/v1/embeddings", {"input": "a", "input_type": 5}, "`input_type` must be a string, not 5"),
        ("/v1/embeddings", {"input": "a", "input_type": "no"}, '`input_type` is "no"; known are'),
        ("/v1/embeddings", {"input": "a", "task": "no"}, '`task` is "no"; known are query, sear'),
        (
            "/v1/embeddings",
            {"input": "a", "task": "query", "input_type": "document"},
            '`input_type` is "document" and `task` is "query"; they are two names of one field',
        ),
        (
            "/v1/embeddings",
            {"input": "a", "prompt": "q: ", "prompt_name": "query"},
            "`prompt` and `prompt_name` cannot both apply",
        ),
        (
            "/",
            {"inputs": "a", "prompt": "q: ", "parameters": {"prompt_name": "query"}},
            "`prompt` and `parameters.prompt_name` cannot both apply",
        ),
        ("/", {"inputs": "a", "parameters": {"prompt": 5}}, "`parameters.prompt` must be a string"),
        (
            "/",
            {"inputs": "a", "truncation_direction": "up"},
            "`truncation_direction` must be 'left'",
        ),
        ("/", {"inputs": "a", "normalize": 1}, "`normalize` must be true or false, not 1"),
        (
            "/",
            {"inputs": "a", "parameters": []},
            "`parameters` must be an object, not an empty list",
        ),
        (
            "/",
            {"inputs": "a", "parameters": {"normalize": 1}},
            "`parameters.normalize` must be true",
        ),
        ("/", {"inputs": "a", "prompt_name": "no"}, "its prompts: query, document"),
        ("/", {"inputs": 5}, "`inputs` must be a string, a list of strings"),
        ("/", {"inputs": None}, "`inputs` is required"),
        ("/", {"input": "a"}, "`inputs` is required"),
        ("/", 5, "the body must be a JSON object with `inputs`, a string or a list"),
        ("/", "", "`inputs` is an empty text"),
        ("/", [], "`inputs` is an empty list"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_field(
    serve: Serve, path: str, body: Any, message: str
) -> None:
    response = serve().post(path, content=json.dumps(body))
    error = response.json()["error"]
    assert message in (error if path == "/" else error["message"])
    assert response.status_code == (404 if "served" in message else 400)


def test_a_prompt_cannot_make_more_of_a_request_than_its_body_could(serve: Serve) -> None:
    backend = FakeBackend()
    body = {"input": ["a"] * 100, "prompt": "x" * 200}
    response = serve(backend, max_body_bytes=2_000).post("/v1/embeddings", json=body)
    assert response.status_code == 400
    assert "`prompt` before 100 texts makes 20000 characters; one request" in response.text
    assert not backend.jobs


def test_half_of_a_surrogate_pair_in_a_prompt_is_refused(serve: Serve) -> None:
    for path, field in (("/v1/embeddings", "input"), ("/", "inputs")):
        body = json.dumps({field: "a", "prompt": "\ud800"})
        assert serve().post(path, content=body).status_code == 400


def test_more_inputs_than_the_limit_are_refused(serve: Serve) -> None:
    client = serve(max_inputs_per_request=2)
    response = client.post("/v1/embeddings", json={"input": ["a", "b", "c"]})
    assert response.status_code == 400
    assert "`input` has 3 entries; one request takes at most 2" in response.text


@pytest.mark.parametrize("ids", [[5] * 6, [[5] * 3, [5] * 3], ["a", [5] * 6]])
def test_more_token_ids_than_the_limit_are_refused(serve: Serve, ids: list[Any]) -> None:
    backend = FakeBackend()
    response = serve(backend, max_tokens_per_request=5).post("/", json={"inputs": ids})
    assert response.status_code == 400
    assert response.headers["x-fledge-error"] == "too_many_inputs"
    assert response.json()["error"] == "`inputs` has 6 token ids; one request takes at most 5"
    assert not backend.jobs


@pytest.mark.parametrize("inputs", [[5, 5, 5, "a"], [[5, 5], [5, "a"]], ["a", "b", "c", 5]])
def test_what_is_too_long_is_refused_before_each_id_is_looked_at(
    serve: Serve, inputs: list[Any]
) -> None:
    client = serve(max_tokens_per_request=3, max_inputs_per_request=3)
    response = client.post("/v1/embeddings", json={"input": inputs})
    assert response.json()["error"]["code"] == "too_many_inputs"


def test_more_tokens_than_the_limit_are_refused_before_computing(serve: Serve) -> None:
    client = serve(max_tokens_per_request=5)
    response = client.post("/v1/embeddings", json={"input": ["a", "b"]})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "`input`: 6 tokens; one request takes at most 5"


def test_a_body_over_the_limit_is_refused_with_the_limit(serve: Serve) -> None:
    backend = FakeBackend()
    client = serve(backend, max_body_bytes=1024)
    response = client.post("/", json={"inputs": "a" * 1024})
    assert response.status_code == 413
    assert response.json()["error"].endswith("one request takes at most 1024 bytes")
    assert not backend.jobs


def test_a_chunked_body_over_the_limit_is_refused_too(serve: Serve) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"inputs": "'
        for _ in range(9):
            yield b"a" * 200
        yield b'"}'

    response = serve(max_body_bytes=1024).post("/v1/embeddings", content=chunks())
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity", "Zstd"])
def test_a_compressed_body_is_refused_by_its_header(serve: Serve, encoding: str) -> None:
    client = serve()
    for path in ("/v1/embeddings", "/"):
        response = client.post(
            path, content=gzip.compress(b'"a"'), headers={"content-encoding": encoding}
        )
        assert response.status_code == 400
        error = response.json()["error"]
        message = error if path == "/" else error["message"]
        assert message.startswith(f'the header content-encoding is the string "{encoding}"; ')


def test_a_body_encoded_as_identity_is_plain(serve: Serve) -> None:
    response = serve().post("/", json="a", headers={"content-encoding": "Identity"})
    assert response.status_code == 200


@pytest.mark.parametrize("length", [b"1025", b"9" * 5000])
def test_a_length_over_the_limit_is_refused_before_reading(length: bytes) -> None:
    async def receive() -> Message:
        raise AssertionError("nothing is to be read")

    scope = {"type": "http", "headers": [(b"content-length", length)]}
    with pytest.raises(BodyTooLarge):
        asyncio.run(read_body(scope, receive, 1024))


def test_a_client_that_leaves_while_sending_is_let_go() -> None:
    messages: Iterator[Message] = iter(
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Message:
        return next(messages)

    with pytest.raises(ClientLeft):
        asyncio.run(read_body({"type": "http", "headers": []}, receive, 1024))


def test_a_long_text_is_quoted_by_its_beginning() -> None:
    assert described("x" * 1000) == f'the string "{"x" * 40}"...'
