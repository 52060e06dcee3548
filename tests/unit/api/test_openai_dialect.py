"""The OpenAI dialect: every form of a request, and the exact bodies of its answers."""

import base64
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from fledge.testing import FakeBackend, fake_card
from fledge.types import Truncation
from tests.unit.api.conftest import Serve

LONG = "word " * 30


def embedding(response: Any, index: int = 0) -> list[float]:
    data: list[dict[str, Any]] = response.json()["data"]
    return data[index]["embedding"]  # type: ignore[no-any-return] # JSON


def test_the_body_of_an_answer(serve: Serve) -> None:
    backend = FakeBackend(fake_card(dimension=2, normalizes=False, similarity="dot"))
    response = serve(backend).post("/v1/embeddings", json={"input": ["a", "b c"], "model": "fake"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    a, b = (backend.vector(backend._tokens(text, None).ids) for text in ("a", "b c"))
    assert response.json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [pytest.approx(x) for x in a]},
            {"object": "embedding", "index": 1, "embedding": [pytest.approx(x) for x in b]},
        ],
        "model": "fake",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
@pytest.mark.parametrize(
    ("given", "items"),
    [
        ("text", ["text"]),
        (["text"], ["text"]),
        (["text", "more"], ["text", "more"]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        (["text", [5, 6]], ["text", [5, 6]]),
    ],
)
def test_every_form_of_input_is_taken(serve: Serve, path: str, given: Any, items: Any) -> None:
    backend = FakeBackend()
    response = serve(backend).post(path, json={"input": given})
    assert len(response.json()["data"]) == len(items)
    assert list(backend.jobs[0].items) == items


def test_without_a_model_the_answer_names_the_first_one(serve: Serve) -> None:
    response = serve().post("/v1/embeddings", json={"input": "a"})
    assert response.json()["model"] == "fledge/fake"


def test_base64_is_the_little_endian_bytes_of_the_same_floats(serve: Serve) -> None:
    """A client that asked for base64 decodes whatever comes as base64."""
    client = serve()
    request = {"input": "a", "encoding_format": "base64"}
    encoded = embedding(client.post("/v1/embeddings", json=request))
    assert isinstance(encoded, str)
    floats = embedding(client.post("/v1/embeddings", json={"input": "a"}))
    assert np.array_equal(np.frombuffer(base64.b64decode(encoded), "<f4"), np.float32(floats))


@pytest.mark.parametrize("encoding_format", ["float", None])
def test_floats_are_the_answer_to_float_and_null(serve: Serve, encoding_format: Any) -> None:
    request = {"input": "a", "encoding_format": encoding_format}
    assert isinstance(embedding(serve().post("/v1/embeddings", json=request)), list)


def test_fields_that_are_null_are_as_good_as_absent(serve: Serve) -> None:
    request = {"input": "a", "model": None, "dimensions": None, "user": None, "truncate": None}
    response = serve().post("/v1/embeddings", json=request)
    assert response.status_code == 200
    assert "x-fledge-ignored" not in response.headers


def test_inputs_is_another_name_for_input(serve: Serve) -> None:
    """The hub's own snippets for other providers' routes send it."""
    response = serve().post("/v1/embeddings", json={"inputs": ["a", ""]})
    assert response.json()["error"]["param"] == "inputs[1]"
    assert serve().post("/v1/embeddings", json={"inputs": "a"}).status_code == 200


def test_stray_inputs_beside_input_are_ignored_and_named(serve: Serve) -> None:
    """Old clients of one provider send both."""
    backend = FakeBackend()
    response = serve(backend).post("/v1/embeddings", json={"input": "a", "inputs": "b"})
    assert response.headers["x-fledge-ignored"] == "inputs"
    assert list(backend.jobs[0].items) == ["a"]


def test_unknown_fields_are_ignored_and_named(serve: Serve) -> None:
    request = {"input": "a", "q": 1, "parameters": {"z": 1}}
    response = serve().post("/v1/embeddings", json=request)
    assert response.status_code == 200
    assert response.headers["x-fledge-ignored"] == "q,parameters"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/rerank", "/v1/rerank", "/"])
@pytest.mark.parametrize(
    ("options", "ignored"),
    [
        (None, None),
        ({}, None),
        ({"use_cache": False}, None),
        ({"use_gpu": True, "use_cache": True, "q": 1}, "options.use_gpu,options.q"),
        ("fast", "options"),
    ],
)
def test_options_that_mean_nothing_are_named_alike_on_every_route(
    serve: Serve, path: str, options: Any, ignored: str | None
) -> None:
    bodies = {"/v1/embeddings": {"input": "a"}, "/": {"inputs": "a"}}
    body = bodies.get(path, {"query": "a", "documents": ["b"]}) | {"options": options}
    assert serve().post(path, json=body).headers.get("x-fledge-ignored") == ignored
    strict = serve(strict_fields=True).post(path, json=body)
    assert strict.status_code == (400 if ignored else 200)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/rerank"])
def test_an_option_of_hugging_face_about_loading_means_nothing_here(
    serve: Serve, path: str
) -> None:
    body = {"input": "a"} if "embed" in path else {"query": "a", "documents": ["b"]}
    response = serve().post(path, json=body | {"options": {"wait_for_model": True}})
    assert response.headers["x-fledge-ignored"] == "options.wait_for_model"


def test_strict_fields_refuses_unknown_ones(serve: Serve) -> None:
    response = serve(strict_fields=True).post("/v1/embeddings", json={"input": "a", "dimension": 3})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "dimension"
    assert response.json()["error"]["code"] == "unknown_field"


def test_vectors_are_normalized_unless_the_model_compares_by_the_dot_product(
    serve: Serve,
) -> None:
    cosine = serve(FakeBackend(fake_card(normalizes=False)))
    dot = serve(FakeBackend(fake_card(normalizes=False, similarity="dot")))
    vectors = [embedding(c.post("/v1/embeddings", json={"input": "a"})) for c in (cosine, dot)]
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(vectors[1]) != pytest.approx(1, abs=1e-3)


def test_normalize_false_gives_the_raw_vector(serve: Serve) -> None:
    vector = embedding(serve().post("/v1/embeddings", json={"input": "a", "normalize": False}))
    assert np.linalg.norm(vector) != pytest.approx(1, abs=1e-3)


def test_dimensions_cut_and_warn(serve: Serve) -> None:
    response = serve().post("/v1/embeddings", json={"input": "a", "dimensions": 3})
    assert len(embedding(response)) == 3
    assert np.linalg.norm(embedding(response)) == pytest.approx(1, abs=1e-6)
    assert "declares no shorter dimensions" in response.headers["x-fledge-warning"]


def test_text_that_is_too_long_is_refused(serve: Serve) -> None:
    response = serve().post("/v1/embeddings", json={"input": ["a", LONG]})
    assert response.status_code == 400
    assert response.json() == {
        "error": {
            "message": "`input[1]` has 32 tokens; fledge/fake takes at most 16",
            "type": "invalid_request_error",
            "param": "input[1]",
            "code": "input_too_long",
        }
    }


def test_text_that_is_too_long_is_cut_on_demand_and_told(serve: Serve) -> None:
    backend = FakeBackend()
    request = {"input": [LONG, "a"], "truncate": True, "truncation_direction": "left"}
    response = serve(backend).post("/v1/embeddings", json=request)
    assert response.headers["x-fledge-truncated"] == "1"
    assert response.json()["usage"]["total_tokens"] == 16 + 3
    assert backend.jobs[0].truncation == Truncation(side="left")


@pytest.mark.parametrize(
    ("truncate", "truncation"),
    [
        ("NONE", Truncation(refuse=True)),
        ("START", Truncation(side="left")),
        ("END", Truncation(side="right")),
    ],
)
def test_truncate_as_clients_of_cohere_and_nvidia_say_it(
    serve: Serve, truncate: str, truncation: Truncation
) -> None:
    """The whole body as LangChain's NVIDIAEmbeddings sends it, one of these words always."""
    backend = FakeBackend()
    body = {
        "input": ["a"],
        "model": "fledge/fake",
        "encoding_format": "float",
        "input_type": "passage",
        "truncate": truncate,
    }
    response = serve(backend).post("/v1/embeddings", json=body)
    assert response.status_code == 200
    assert "x-fledge-ignored" not in response.headers
    assert backend.jobs[0].truncation == truncation
    assert backend.jobs[0].prompt == "document: "


def test_text_that_is_too_long_is_refused_at_none_and_cut_at_start(serve: Serve) -> None:
    client = serve()
    refused = client.post("/v1/embeddings", json={"input": LONG, "truncate": "NONE"})
    assert refused.json()["error"]["code"] == "input_too_long"
    cut = client.post("/v1/embeddings", json={"input": LONG, "truncate": "START"})
    assert cut.headers["x-fledge-truncated"] == "1"


def test_a_direction_beside_a_word_that_says_the_same_is_taken(serve: Serve) -> None:
    backend = FakeBackend()
    body = {"input": "a", "truncate": "START", "truncation_direction": "Left"}
    assert serve(backend).post("/v1/embeddings", json=body).status_code == 200
    assert backend.jobs[0].truncation == Truncation(side="left")


@pytest.mark.parametrize(
    "task",
    [
        "feature-extraction",
        "sentence-similarity",
        "text-ranking",
        "rerank",
        "embed",
        "embedding",
        "Embeddings",
    ],
)
def test_a_task_that_names_a_route_is_ignored_and_named(serve: Serve, task: str) -> None:
    backend = FakeBackend()
    body = {"input": "a", "task": task, "input_type": "query"}
    response = serve(backend).post("/v1/embeddings", json=body)
    assert response.headers["x-fledge-ignored"] == "task"
    assert backend.jobs[0].prompt == "query: "


@pytest.mark.parametrize("field", ["input_type", "task"])
@pytest.mark.parametrize("value", ["", "TASK_TYPE_UNSPECIFIED"])
def test_an_input_type_that_says_nothing_is_as_good_as_absent(
    serve: Serve, field: str, value: str
) -> None:
    backend = FakeBackend(fake_card(default_prompt_name="query"))
    response = serve(backend).post("/v1/embeddings", json={"input": "a", field: value})
    assert response.status_code == 200
    assert (backend.jobs[0].prompt, backend.jobs[0].side) == ("query: ", None)


def test_an_answer_that_cut_nothing_says_nothing_of_it(serve: Serve) -> None:
    response = serve().post("/v1/embeddings", json={"input": "a", "truncate": True})
    assert "x-fledge-truncated" not in response.headers


def test_a_prompt_is_applied_counted_and_told(serve: Serve) -> None:
    response = serve().post("/v1/embeddings", json={"input": "a", "prompt_name": "query"})
    assert response.headers["x-fledge-prompt"] == "query"
    assert response.json()["usage"]["prompt_tokens"] == 4


@pytest.mark.parametrize("field", ["input_type", "task"])
@pytest.mark.parametrize(
    ("value", "name"),
    [("query", "query"), ("search_query", "query"), ("RETRIEVAL_DOCUMENT", "document")],
)
def test_an_input_type_picks_the_models_own_prompt_and_side(
    serve: Serve, field: str, value: str, name: str
) -> None:
    """As clients of Cohere, Voyage and NVIDIA send it, and under the name that Jina's send."""
    backend = FakeBackend()
    response = serve(backend).post("/v1/embeddings", json={"input": "a", field: value})
    assert response.headers["x-fledge-prompt"] == name
    assert "x-fledge-ignored" not in response.headers
    assert (backend.jobs[0].prompt, backend.jobs[0].side) == (f"{name}: ", name)


def test_an_input_type_that_the_model_has_no_prompt_for_is_no_error(serve: Serve) -> None:
    backend = FakeBackend(fake_card(prompts={}))
    response = serve(backend).post("/v1/embeddings", json={"input": "a", "input_type": "query"})
    assert response.status_code == 200
    assert "x-fledge-prompt" not in response.headers
    assert (backend.jobs[0].prompt, backend.jobs[0].side) == (None, "query")


def test_a_prompt_of_the_callers_own_is_applied_counted_and_told_as_custom(serve: Serve) -> None:
    backend = FakeBackend()
    prompt = "Instruct: Find what answers it\nQuery: "
    response = serve(backend).post("/v1/embeddings", json={"input": ["a", [5]], "prompt": prompt})
    assert backend.jobs[0].prompt == prompt
    assert response.headers["x-fledge-prompt"] == "custom"
    assert response.json()["usage"]["prompt_tokens"] == 9 + 1


def test_a_models_prompt_called_custom_is_not_taken_for_the_callers_own(serve: Serve) -> None:
    client = serve(FakeBackend(fake_card(prompts={"custom": "c: ", "küstom": "k: "})))
    labels = [
        client.post("/v1/embeddings", json={"input": "a", **choice}).headers["x-fledge-prompt"]
        for choice in ({"prompt_name": "custom"}, {"prompt_name": "küstom"}, {"prompt": "c: "})
    ]
    assert labels == ["%63ustom", "k%C3%BCstom", "custom"]
    assert [unquote(label) for label in labels[:2]] == ["custom", "küstom"]


@pytest.mark.parametrize("choice", [{"prompt": ""}, {"prompt_name": ""}, {}])
def test_no_prompt_is_told_of_where_none_was_applied(serve: Serve, choice: Any) -> None:
    response = serve().post("/v1/embeddings", json={"input": "a", **choice})
    assert "x-fledge-prompt" not in response.headers
    given = serve().post("/v1/embeddings", json={"input": [5, 6], "prompt": "c: "})
    assert "x-fledge-prompt" not in given.headers


def test_headers_tell_of_the_work(serve: Serve) -> None:
    headers = serve().post("/v1/embeddings", json={"input": ["añb", [5, 6]]}).headers
    assert headers["x-compute-characters"] == "3"
    assert headers["x-compute-tokens"] == "5"
    assert headers["openai-processing-ms"].isdecimal()


def test_more_rows_than_one_slice_of_rendering_come_in_order(serve: Serve) -> None:
    backend = FakeBackend(fake_card(dimension=1024, normalizes=False, similarity="dot"))
    texts = [f"text {n}" for n in range(200)]
    data = serve(backend).post("/v1/embeddings", json={"input": texts}).json()["data"]
    assert [row["index"] for row in data] == list(range(200))
    last = backend.vector(backend._tokens(texts[-1], None).ids)
    assert np.array_equal(np.float32(data[-1]["embedding"]), last)
