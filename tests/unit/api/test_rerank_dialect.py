"""Reranking: a list of indices and scores, best first."""

from typing import Any

import pytest

from fledge.testing import FakeBackend
from fledge.types import Truncation
from tests.unit.api.conftest import Serve

DOCUMENTS = ["b", "a", {"text": "c"}]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_documents_come_back_as_indices_and_scores_best_first(serve: Serve, path: str) -> None:
    rows = serve().post(path, json={"query": "a", "documents": DOCUMENTS}).json()
    assert rows[0] == {"index": 1, "score": pytest.approx(1)}
    assert sorted(row["index"] for row in rows) == [0, 1, 2]
    assert [row["score"] for row in rows] == sorted((r["score"] for r in rows), reverse=True)


def test_top_n_keeps_the_best(serve: Serve) -> None:
    request = {"query": "a", "documents": DOCUMENTS, "top_n": 1}
    assert [row["index"] for row in serve().post("/rerank", json=request).json()] == [1]


def test_a_top_n_over_the_count_gives_all(serve: Serve) -> None:
    request = {"query": "a", "documents": DOCUMENTS, "top_n": 99}
    assert len(serve().post("/rerank", json=request).json()) == 3


def test_documents_are_returned_as_they_were_given(serve: Serve) -> None:
    request = {"query": "c", "documents": DOCUMENTS, "top_n": 1, "return_documents": True}
    assert serve().post("/rerank", json=request).json()[0]["document"] == {"text": "c"}


def test_texts_are_another_name_and_come_back_as_text(serve: Serve) -> None:
    request = {"query": "a", "texts": ["b", "a"], "return_text": True}
    assert serve().post("/rerank", json=request).json()[0]["text"] == "a"


def test_a_prompt_is_for_the_query_alone(serve: Serve) -> None:
    backend = FakeBackend()
    request = {"query": "a", "documents": ["a"], "prompt_name": "query"}
    response = serve(backend).post("/rerank", json=request)
    assert [job.prompt for job in backend.jobs] == ["query: ", None]
    assert response.headers["x-fledge-prompt"] == "query"


@pytest.mark.parametrize(
    ("choice", "prompts", "label"),
    [
        ({"prompt": "q: "}, ["q: ", None], "custom"),
        ({"document_prompt": "d: "}, [None, "d: "], None),
        (
            {"input_type": "query", "document_input_type": "document"},
            ["query: ", "document: "],
            "query",
        ),
        ({"task": "search_query", "document_prompt": "d: "}, ["query: ", "d: "], "query"),
    ],
)
def test_query_and_documents_choose_their_prompts_apart(
    serve: Serve, choice: dict[str, str], prompts: list[str | None], label: str | None
) -> None:
    backend = FakeBackend()
    response = serve(backend).post("/rerank", json={"query": "a", "documents": ["a"]} | choice)
    assert [(job.prompt, job.side) for job in backend.jobs] == [
        (prompts[0], "query"),
        (prompts[1], "document"),
    ]
    assert response.headers.get("x-fledge-prompt") == label
    assert "x-fledge-ignored" not in response.headers


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
    backend = FakeBackend()
    request = {"query": "a", "documents": ["a"], "truncate": truncate}
    assert serve(backend).post("/rerank", json=request).status_code == 200
    assert [job.truncation for job in backend.jobs] == [truncation] * 2


@pytest.mark.parametrize("task", ["rerank", "text-ranking"])
def test_a_task_that_names_the_route_is_ignored_and_named(serve: Serve, task: str) -> None:
    backend = FakeBackend()
    request = {"query": "a", "documents": ["a"], "task": task}
    response = serve(backend).post("/rerank", json=request)
    assert response.headers["x-fledge-ignored"] == "task"
    assert [job.prompt for job in backend.jobs] == [None, None]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"documents": ["a"]}, "`query` is required"),
        ({"query": "a"}, "`documents` is required"),
        ({"query": "a", "documents": []}, "`documents` is an empty list"),
        ({"query": "a", "texts": []}, "`texts` is an empty list"),
        ({"query": "", "documents": ["a"]}, "`query` is an empty text"),
        ({"query": "a", "documents": "a"}, "`documents` must be a list of strings"),
        ({"query": "a", "documents": ["a", 1]}, "`documents[1]` must be a string or an object"),
        ({"query": "a", "documents": [{"text": 1}]}, "`documents[0]` must be a string or an obj"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "`top_n` must be at least 1, not 0"),
        (
            {"query": "a", "documents": ["a"], "document_prompt": "d", "document_prompt_name": "d"},
            "`document_prompt` and `document_prompt_name` cannot both apply",
        ),
        (
            {"query": "a", "documents": ["a"], "document_input_type": "no"},
            '`document_input_type` is "no"; known are',
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_its_field(
    serve: Serve, request_: Any, error: str
) -> None:
    for path in ("/rerank", "/v1/rerank"):
        response = serve().post(path, json=request_)
        assert response.status_code == 400
        body = response.json()["error"]
        assert (body if path == "/rerank" else body["message"]).startswith(error)
