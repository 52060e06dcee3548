"""The Hugging Face dialect: every route, every body that clients of six years send."""

import json
from typing import Any

import numpy as np
import pytest

from fledge.errors import InvalidRequest
from fledge.testing import FakeBackend, fake_card
from fledge.types import Truncation
from tests.unit.api.conftest import Serve

LONG = "word " * 30
PAIR = {"source_sentence": "a", "sentences": ["b", "a"]}

ROUTES = [
    "/",
    "/v1",
    "/models/fledge/fake",
    "/models/fake",
    "/models/fledge/fake/pipeline/feature-extraction",
    "/pipeline/feature-extraction/fledge/fake",
    "/hf-inference/models/fledge/fake",
    "/hf-inference/models/fledge/fake/pipeline/feature-extraction",
    "/hf-inference/pipeline/feature-extraction/fledge/fake",
]
SIMILARITY_ROUTES = [
    "/models/fledge/fake/pipeline/sentence-similarity",
    "/pipeline/sentence-similarity/fledge/fake",
    "/hf-inference/models/fledge/fake/pipeline/sentence-similarity",
    "/hf-inference/pipeline/sentence-similarity/fledge/fake",
]


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_answers_one_string_with_an_array_of_arrays(serve: Serve, path: str) -> None:
    response = serve().post(path, json={"inputs": "hi"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert np.array(response.json(), np.float32).shape == (1, 8)


@pytest.mark.parametrize("path", ROUTES + SIMILARITY_ROUTES)
def test_every_route_compares_when_the_body_says_so(serve: Serve, path: str) -> None:
    scores = serve().post(path, json={"inputs": PAIR, "parameters": {}}).json()
    assert scores[1] == pytest.approx(1)
    assert scores[0] < 1


@pytest.mark.parametrize("path", SIMILARITY_ROUTES)
def test_a_similarity_route_wants_sentences(serve: Serve, path: str) -> None:
    response = serve().post(path, json={"inputs": "text"})
    assert response.status_code == 400
    assert response.json() == {
        "error": "`inputs` must be an object with `source_sentence` and `sentences`, "
        'not the string "text"',
        "error_type": "Validation",
    }


def test_the_flat_setting_gives_one_string_one_flat_vector(serve: Serve) -> None:
    client = serve(huggingface={"single_input": "flat"})
    assert np.array(client.post("/", json={"inputs": "hi"}).json()).shape == (8,)
    assert np.array(client.post("/", json={"inputs": ["hi"]}).json()).shape == (1, 8)


@pytest.mark.parametrize(
    ("body", "items"),
    [
        ('"plain"', ["plain"]),
        ('["a", "b"]', ["a", "b"]),
        ("[5, 6]", [[5, 6]]),
        ('{"inputs": ["a", [5, 6]]}', ["a", [5, 6]]),
        ('\ufeff{"inputs": "a"}', ["a"]),
    ],
)
def test_bare_strings_and_lists_are_inputs(serve: Serve, body: str, items: Any) -> None:
    """As the first servers took them; a byte order mark, as some Windows tools write it."""
    backend = FakeBackend()
    assert serve(backend).post("/", content=body.encode()).status_code == 200
    assert list(backend.jobs[0].items) == items


def test_no_content_type_is_needed(serve: Serve) -> None:
    response = serve().post("/", content=b'{"inputs": "a"}', headers={"content-type": "text/x"})
    assert response.status_code == 200


@pytest.mark.parametrize("place", ["root", "parameters"])
def test_parameters_count_at_the_root_and_nested(serve: Serve, place: str) -> None:
    backend = FakeBackend()
    parameters = {
        "normalize": False,
        "prompt_name": "query",
        "truncate": True,
        "truncation_direction": "Left",
        "dimensions": 3,
    }
    nested = parameters if place == "root" else {"parameters": parameters}
    response = serve(backend).post("/", json={"inputs": "a"} | nested)
    (vector,) = response.json()
    assert len(vector) == 3
    assert np.linalg.norm(vector) != pytest.approx(1, abs=1e-3)
    assert backend.jobs[0].prompt == "query: "
    assert backend.jobs[0].truncation == Truncation(side="left")
    assert response.headers["x-fledge-prompt"] == "query"


@pytest.mark.parametrize("place", ["root", "parameters"])
@pytest.mark.parametrize(
    ("choice", "prompt", "side", "label"),
    [
        ({"prompt": "Instruct: search\nQuery: "}, "Instruct: search\nQuery: ", None, "custom"),
        ({"input_type": "query"}, "query: ", "query", "query"),
        ({"task": "retrieval.passage"}, "document: ", "document", "document"),
        ({"task": "query", "input_type": "query"}, "query: ", "query", "query"),
        ({"task": "retrieval.query", "input_type": "query"}, "query: ", "query", "query"),
        ({"prompt": "x: ", "prompt_name": ""}, "x: ", None, "custom"),
        ({"prompt": "x: ", "input_type": "document"}, "x: ", "document", "custom"),
    ],
)
def test_a_prompt_is_chosen_at_the_root_and_nested(
    serve: Serve, place: str, choice: dict[str, str], prompt: str, side: str, label: str
) -> None:
    backend = FakeBackend()
    nested = choice if place == "root" else {"parameters": choice}
    response = serve(backend).post("/", json={"inputs": "a"} | nested)
    assert (backend.jobs[0].prompt, backend.jobs[0].side) == (prompt, side)
    assert response.headers["x-fledge-prompt"] == label
    assert "x-fledge-ignored" not in response.headers


@pytest.mark.parametrize("place", ["root", "parameters"])
@pytest.mark.parametrize("task", ["feature-extraction", "sentence-similarity", "embed"])
def test_the_name_of_the_route_in_the_body_says_nothing_of_the_prompt(
    serve: Serve, place: str, task: str
) -> None:
    """On these routes `task` is a word for what a model is asked to do, too."""
    backend = FakeBackend()
    nested = {"task": task} if place == "root" else {"parameters": {"task": task}}
    response = serve(backend).post("/", json={"inputs": "a", "input_type": "query"} | nested)
    assert response.status_code == 200
    path = "task" if place == "root" else "parameters.task"
    assert response.headers["x-fledge-ignored"] == path
    assert backend.jobs[0].prompt == "query: "


@pytest.mark.parametrize("place", ["root", "parameters"])
def test_the_name_of_the_route_hides_no_task_of_the_other_place(serve: Serve, place: str) -> None:
    backend = FakeBackend()
    names = ("feature-extraction", "query") if place == "root" else ("query", "feature-extraction")
    body = {"inputs": "a", "task": names[0], "parameters": {"task": names[1]}}
    response = serve(backend).post("/", json=body)
    path = "task" if place == "root" else "parameters.task"
    assert response.headers["x-fledge-ignored"] == path
    assert (backend.jobs[0].prompt, backend.jobs[0].side) == ("query: ", "query")


def test_the_root_wins_over_nested_parameters(serve: Serve) -> None:
    body = {"inputs": "a", "dimensions": 3, "parameters": {"dimensions": 4, "normalize": None}}
    assert len(serve().post("/", json=body).json()[0]) == 3


@pytest.mark.parametrize("direction", ["left", "Left", "right", "Right"])
def test_both_spellings_of_a_direction_are_taken(serve: Serve, direction: str) -> None:
    backend = FakeBackend()
    serve(backend).post("/", json={"inputs": "a", "truncation_direction": direction})
    assert backend.jobs[0].truncation.side == direction.lower()


def test_text_that_is_too_long_is_cut_and_told(serve: Serve) -> None:
    response = serve().post("/", json={"inputs": [LONG, "a", LONG]})
    assert response.status_code == 200
    assert response.headers["x-fledge-truncated"] == "2"


def test_text_that_is_too_long_is_refused_on_demand(serve: Serve) -> None:
    response = serve().post("/", json={"inputs": LONG, "truncate": False})
    assert response.status_code == 422
    assert response.json() == {
        "error": "`inputs` has 32 tokens; fledge/fake takes at most 16",
        "error_type": "Validation",
    }


@pytest.mark.parametrize("place", ["root", "parameters"])
@pytest.mark.parametrize(
    ("truncate", "truncation"),
    [
        ("NONE", Truncation(refuse=True)),
        ("START", Truncation(side="left")),
        ("END", Truncation(side="right")),
    ],
)
def test_truncate_as_clients_of_cohere_and_nvidia_say_it(
    serve: Serve, place: str, truncate: str, truncation: Truncation
) -> None:
    backend = FakeBackend()
    fields = {"truncate": truncate}
    nested = fields if place == "root" else {"parameters": fields}
    for inputs in ("a", PAIR):
        assert serve(backend).post("/", json={"inputs": inputs} | nested).status_code == 200
    assert [job.truncation for job in backend.jobs] == [truncation] * 3


@pytest.mark.parametrize("place", ["root", "parameters"])
def test_an_error_about_the_side_names_the_field_by_its_path(serve: Serve, place: str) -> None:
    """As a router refuses a side that it has no route for."""
    backend = FakeBackend()
    backend.error = InvalidRequest("no route: send another `input_type`", field="input_type")
    fields = {"input_type": "query"}
    nested = fields if place == "root" else {"parameters": fields}
    response = serve(backend).post("/", json={"inputs": "a"} | nested)
    path = "input_type" if place == "root" else "parameters.input_type"
    assert response.status_code == 400
    assert response.json()["error"] == f"no route: send another `{path}`"


@pytest.mark.parametrize(("normalizes", "length"), [(True, 1.0), (False, None)])
def test_the_models_own_modules_decide_on_normalization(
    serve: Serve, normalizes: bool, length: float | None
) -> None:
    (vector,) = serve(FakeBackend(fake_card(normalizes=normalizes))).post("/", json="a").json()
    assert (np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)) == (length is not None)


@pytest.mark.parametrize("place", ["root", "parameters"])
def test_base64_is_answered_with_floats_and_named(serve: Serve, place: str) -> None:
    """No official client reads base64 on these routes, and two of them fail on it."""
    choice: dict[str, Any] = {"encoding_format": "base64"}
    nested = choice if place == "root" else {"parameters": choice}
    response = serve().post("/", json={"inputs": "a"} | nested)
    assert isinstance(response.json()[0][0], float)
    path = "encoding_format" if place == "root" else "parameters.encoding_format"
    assert response.headers["x-fledge-ignored"] == path


def test_unknown_fields_are_ignored_and_named_by_their_path(serve: Serve) -> None:
    body = {
        "inputs": "a",
        "model": "not/served",
        "user": "u",
        "encoding_format": "float",
        "options": {"wait_for_model": True},
        "parameters": {"z": 1},
    }
    response = serve().post("/models/fledge/fake", json=body)
    assert response.status_code == 200
    assert response.headers["x-fledge-ignored"] == "model,user,parameters.z"


def test_strict_fields_refuses_unknown_ones(serve: Serve) -> None:
    client = serve(strict_fields=True)
    response = client.post("/", json={"inputs": "a", "parameters": {"normalise": True}})
    assert response.status_code == 400
    assert "`parameters.normalise`" in response.json()["error"]
    assert client.post("/", json={"inputs": "a", "options": {}}).status_code == 200


def test_similarity_as_clients_of_early_2025_sent_it(serve: Serve) -> None:
    response = serve().post("/", json={"inputs": None, "parameters": {}} | PAIR)
    assert response.json()[1] == pytest.approx(1)
    assert "x-fledge-ignored" not in response.headers


def test_similarity_without_inputs_around_it_names_what_means_nothing(serve: Serve) -> None:
    response = serve().post("/", json={"z": 1, "parameters": {"dimensions": 3}} | PAIR)
    assert response.headers["x-fledge-ignored"] == "z,parameters.dimensions"


def test_similarity_without_inputs_around_it(serve: Serve) -> None:
    assert serve().post("/", json=PAIR).json()[1] == pytest.approx(1)


def test_similarity_applies_parameters_and_names_those_that_mean_nothing(serve: Serve) -> None:
    backend = FakeBackend()
    body = {"inputs": PAIR, "prompt_name": "query", "dimensions": 3, "parameters": {"z": 1}}
    response = serve(backend).post("/", json=body)
    assert {job.prompt for job in backend.jobs} == {"query: "}
    assert response.headers["x-fledge-ignored"] == "parameters.z,dimensions"


def test_similarity_puts_a_prompt_before_either_text(serve: Serve) -> None:
    backend = FakeBackend()
    response = serve(backend).post("/", json={"inputs": PAIR, "prompt": "x: "})
    assert [(job.prompt, job.side) for job in backend.jobs] == [
        ("x: ", "query"),
        ("x: ", "document"),
    ]
    assert response.headers["x-fledge-prompt"] == "custom"


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({}, "`inputs.source_sentence` is required"),
        ({"source_sentence": "a"}, "`inputs.sentences` is required"),
        ({"source_sentence": 1, "sentences": []}, "`inputs.source_sentence` must be a string"),
        ({"source_sentence": "a", "sentences": "b"}, "`inputs.sentences` must be a list"),
        ({"source_sentence": "a", "sentences": ["b", 1]}, "`inputs.sentences[1]` must be a str"),
        ({"source_sentence": "a", "sentences": []}, "`inputs.sentences` is an empty list"),
        ({"source_sentence": "", "sentences": ["b"]}, "`inputs.source_sentence` is an empty text"),
    ],
)
def test_an_incomplete_comparison_is_refused_by_its_field(
    serve: Serve, inputs: Any, error: str
) -> None:
    response = serve().post("/", json={"inputs": inputs})
    assert response.status_code == 400
    assert response.json()["error"].startswith(error)


def test_an_unknown_task_is_refused_with_those_served(serve: Serve) -> None:
    response = serve().post("/models/fledge/fake/pipeline/text-generation", json={"inputs": "a"})
    assert response.status_code == 400
    assert "served: feature-extraction, sentence-similarity" in response.json()["error"]


def test_an_unknown_model_is_not_found(serve: Serve) -> None:
    response = serve().post("/models/no/such", json={"inputs": "a"})
    assert response.status_code == 404
    assert response.json() == {
        "error": 'the model "no/such" is not served here; served: fledge/fake',
        "error_type": "NotFound",
    }


def test_headers_tell_of_the_work(serve: Serve) -> None:
    headers = serve().post("/", json={"inputs": ["añb", "c"]}).headers
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "4"
    assert headers["x-compute-tokens"] == "6"
    assert headers["x-sha"] == "0123abc"
    seconds, _, decimals = headers["x-compute-time"].partition(".")
    assert (seconds.isdecimal(), len(decimals)) == (True, 3)


def test_every_number_of_every_answer_is_finite(serve: Serve) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    client = serve()
    for body in ({"inputs": ["a", "b"]}, {"inputs": PAIR}):
        numbers = json.loads(client.post("/", json=body).content, parse_constant=refuse)
        assert np.isfinite(np.array(numbers, dtype=float)).all()
