"""The unmodified `@huggingface/inference` of npm against live servers, model warm and cold."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fledge.errors import Overloaded, UnsupportedModel
from fledge.settings import Settings
from tests.clients.conftest import Live
from tests.clients.foreign_clients import ForeignClient, ForeignError, huggingface_js
from tests.clients.serving import serving_cold

ADDRESSES = [
    "",
    "/",
    "/v1",
    "/models/org/name",
    "/models/org/name/pipeline/feature-extraction",
    "/pipeline/feature-extraction/org/name",
    "/hf-inference/models/org/name/pipeline/feature-extraction",
]
# After this long a client that tries again for ever is stopped, so that its test fails by itself.
GIVE_UP_AFTER_MS = 5000


@pytest.fixture(scope="module")
def js() -> Iterator[ForeignClient]:
    with huggingface_js() as client:
        yield client


def embed(js: ForeignClient, url: str, inputs: Any, **parameters: Any) -> Any:
    """`featureExtraction` as its documentation calls it."""
    arguments = {"endpointUrl": url, "inputs": inputs, **parameters}
    return js.call(method="featureExtraction", arguments=arguments, token="hf_any")


def test_it_is_the_client_of_this_name(js: ForeignClient) -> None:
    assert js.version.startswith("4.13.")


@pytest.mark.parametrize("address", ADDRESSES)
def test_one_string_gives_one_row_at_every_address(
    js: ForeignClient, live: Live, address: str
) -> None:
    vectors = embed(js, live.url + address, "héllo 世界 😀")
    assert np.shape(vectors) == (1, 8)
    assert list(live.backend.jobs[-1].items) == ["héllo 世界 😀"]


def test_a_client_made_for_an_endpoint_works_without_a_token(js: ForeignClient, live: Live) -> None:
    vectors = js.call(method="featureExtraction", arguments={"inputs": "a"}, endpoint=live.url)
    assert np.shape(vectors) == (1, 8)


def test_a_list_gives_a_row_for_each_with_length_1(js: ForeignClient, live: Live) -> None:
    vectors = embed(js, live.url, ["a", "b", "a"])
    assert np.shape(vectors) == (3, 8)
    assert vectors[0] == vectors[2] != vectors[1]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)


@pytest.mark.parametrize("is_nested", [False, True], ids=["at the root", "under parameters"])
def test_every_documented_parameter_is_taken(
    js: ForeignClient, live: Live, is_nested: bool
) -> None:
    parameters = {
        "normalize": False,
        "prompt_name": "query",
        "truncate": True,
        "truncation_direction": "left",
        "dimensions": 4,
        "encoding_format": "float",
    }
    given = {"parameters": parameters} if is_nested else parameters
    vectors = embed(js, live.url, ["word " * 30, "a"], **given)
    assert np.shape(vectors) == (2, 4)
    assert (abs(np.linalg.norm(vectors, axis=1) - 1) > 0.01).all()
    job = live.backend.jobs[-1]
    assert (job.prompt, job.truncation.side) == ("query: ", "left")


def test_base64_comes_as_floats_since_the_client_refuses_any_other(
    js: ForeignClient, live: Live
) -> None:
    assert np.shape(embed(js, live.url, "a", encoding_format="base64")) == (1, 8)


@pytest.mark.parametrize("address", ["", "/models/org/name/pipeline/sentence-similarity"])
def test_sentences_are_compared(js: ForeignClient, live: Live, address: str) -> None:
    inputs = {"source_sentence": "a", "sentences": ["b", "a"]}
    arguments = {"endpointUrl": live.url + address, "inputs": inputs}
    scores = js.call(method="sentenceSimilarity", arguments=arguments)
    assert scores[1] == pytest.approx(1)
    assert scores[0] < scores[1]


@pytest.mark.parametrize(
    ("address", "inputs", "parameters", "status", "text"),
    [
        ("", [], {}, 400, "`inputs` is an empty list"),
        ("", ["a", 1], {}, 400, "`inputs[1]`"),
        ("", "word " * 30, {"truncate": False}, 422, "32 tokens; org/name takes at most 16"),
        ("", "a", {"prompt_name": "x"}, 400, "query, document"),
        ("/models/org/other", "a", {}, 404, "org/other"),
        ("/models/org/name/pipeline/fill-mask", "a", {}, 400, "'fill-mask' is not served here"),
        ("/nothing/here", "a", {}, 404, "/nothing/here"),
    ],
)
def test_an_error_shows_its_text_status_and_id(
    js: ForeignClient,
    live: Live,
    address: str,
    inputs: Any,
    parameters: dict[str, Any],
    status: int,
    text: str,
) -> None:
    with pytest.raises(ForeignError) as caught:
        embed(js, live.url + address, inputs, **parameters)
    error = caught.value
    assert error.kinds == ["ProviderApiError"]
    assert str(error).startswith("Failed to perform inference: ")
    assert text in str(error)
    assert error.status == status
    assert error.request_id


def test_overload_is_told_once(js: ForeignClient, live: Live) -> None:
    live.backend.error = Overloaded("busy", retry_after_s=1)
    with pytest.raises(ForeignError, match="busy") as caught:
        embed(js, live.url, "a")
    assert caught.value.status == 429
    assert len(live.backend.jobs) == 1


def test_a_client_that_never_pauses_is_paced_by_a_cold_model() -> None:
    """With the settings as they come; answered at once, it would ask hundreds of times a second."""
    with serving_cold() as cold, huggingface_js() as js:
        js.start(method="featureExtraction", arguments={"endpointUrl": cold.url, "inputs": "a"})
        cold.recording.wait_for(2)
        cold.deployments.release()
        assert np.shape(js.result()) == (1, 8)
        first, second = cold.recording.seen
        assert second.at_s - first.at_s >= 0.9 * Settings().cold_start_hold_s


@pytest.mark.parametrize("address", ["", "/models/org/name/pipeline/feature-extraction"])
def test_a_model_that_loads_while_the_request_is_held_is_asked_for_once(address: str) -> None:
    with serving_cold() as cold, huggingface_js() as js:
        arguments = {"endpointUrl": cold.url + address, "inputs": ["a", "b"]}
        js.start(method="featureExtraction", arguments=arguments)
        cold.recording.wait_for(1)
        cold.deployments.release()
        assert np.shape(js.result()) == (2, 8)
        assert len(cold.recording.seen) == 1


def test_a_request_that_asks_to_wait_is_held_until_the_model_is_warm() -> None:
    settings = Settings(cold_start_hold_s=0)
    with serving_cold(settings) as cold, huggingface_js() as js:
        options = {"wait_for_model": True}
        arguments = {"endpointUrl": cold.url, "inputs": "a", "options": options}
        js.start(method="featureExtraction", arguments=arguments)
        cold.recording.wait_for(1)
        cold.deployments.release()
        assert np.shape(js.result()) == (1, 8)
        assert cold.deployments.uses == [("org/name", settings.load_timeout_s)]


def test_who_does_not_retry_is_told_why_a_model_cannot_be_loaded() -> None:
    with serving_cold() as cold, huggingface_js() as js:
        cold.deployments.errors["org/name"] = UnsupportedModel("the family `x` is not computed")
        cold.deployments.release()
        with pytest.raises(ForeignError, match="the family `x` is not computed"):
            js.call(
                method="featureExtraction",
                arguments={"endpointUrl": cold.url, "inputs": "a"},
                options={"retry_on_error": False},
            )
        assert len(cold.recording.seen) == 1


def test_who_retries_a_failed_load_for_ever_does_so_once_a_second() -> None:
    """What the client does by default with any 503; see `Dialect.hold_503_s`."""
    with serving_cold() as cold, huggingface_js() as js:
        cold.deployments.errors["org/name"] = UnsupportedModel("the family `x` is not computed")
        cold.deployments.release()
        with pytest.raises(ForeignError):
            js.call(
                method="featureExtraction",
                arguments={"endpointUrl": cold.url, "inputs": "a"},
                give_up_after_ms=3500,
            )
        assert len(cold.recording.seen) <= 5
