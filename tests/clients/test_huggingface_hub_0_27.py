"""The unmodified `huggingface_hub` 0.27, sent here by HF_INFERENCE_ENDPOINT alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fledge.errors import Overloaded, UnsupportedModel
from fledge.settings import Settings
from tests.clients.conftest import Live
from tests.clients.foreign_clients import ForeignClient, ForeignError, huggingface_hub_0_27
from tests.clients.serving import serving_cold

MODEL = "org/name"
BOTH_TASKS = {"feature-extraction": [MODEL], "sentence-similarity": [MODEL]}


@pytest.fixture(scope="module")
def process(server: Live) -> Iterator[ForeignClient]:
    with huggingface_hub_0_27(server.url) as client:
        yield client


@pytest.fixture
def hub(process: ForeignClient, live: Live) -> ForeignClient:
    """The client, with a model that nobody else's test has touched."""
    return process


def call(
    hub: ForeignClient, method: str, *, client: dict[str, Any] | None = None, **arguments: Any
) -> Any:
    """A method of an `InferenceClient` that was made for the model, unless told otherwise."""
    return hub.call(
        client={"model": MODEL} if client is None else client, method=method, arguments=arguments
    )


def test_it_is_the_old_client(hub: ForeignClient) -> None:
    assert hub.version == "0.27.1"


def test_a_model_id_alone_leads_here(hub: ForeignClient, live: Live) -> None:
    vectors = call(hub, "feature_extraction", text="héllo 世界 😀")
    assert (vectors["dtype"], vectors["shape"]) == ("float32", [1, 8])
    assert list(live.backend.jobs[-1].items) == ["héllo 世界 😀"]


def test_a_list_gives_a_row_for_each_with_length_1(hub: ForeignClient) -> None:
    vectors = call(hub, "feature_extraction", text=["a", "b", "a"])
    assert vectors["shape"] == [3, 8]
    assert vectors["numbers"][0] == vectors["numbers"][2] != vectors["numbers"][1]
    assert np.linalg.norm(vectors["numbers"], axis=1) == pytest.approx(1)


def test_a_url_leads_here_too(hub: ForeignClient, live: Live) -> None:
    vectors = call(hub, "feature_extraction", client={"model": live.url}, text="a")
    assert vectors["shape"] == [1, 8]


def test_every_parameter_is_taken(hub: ForeignClient, live: Live) -> None:
    vectors = call(
        hub,
        "feature_extraction",
        client={"token": "hf_any", "timeout": 60, "headers": {"x-use-cache": "0"}},
        text=["word " * 30, "a"],
        model=MODEL,
        normalize=False,
        prompt_name="query",
        truncate=True,
        truncation_direction="Left",
    )
    assert vectors["shape"] == [2, 8]
    assert (abs(np.linalg.norm(vectors["numbers"], axis=1) - 1) > 0.01).all()
    job = live.backend.jobs[-1]
    assert (job.prompt, job.truncation.side) == ("query: ", "left")


def test_sentences_are_compared(hub: ForeignClient) -> None:
    scores = call(hub, "sentence_similarity", sentence="a", other_sentences=["b", "a"])
    assert scores[1] == pytest.approx(1)
    assert scores[0] < scores[1]


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ({"text": []}, 400, "`inputs` is an empty list"),
        ({"text": "a", "prompt_name": "x"}, 400, "query, document"),
        ({"text": "word " * 30, "truncate": False}, 422, "32 tokens; org/name takes at most 16"),
        ({"text": "a", "model": "org/other"}, 404, "org/other"),
    ],
)
def test_an_error_shows_its_text_status_and_id(
    hub: ForeignClient, arguments: dict[str, Any], status: int, text: str
) -> None:
    with pytest.raises(ForeignError) as caught:
        call(hub, "feature_extraction", **arguments)
    assert "HfHubHTTPError" in caught.value.kinds
    assert text in str(caught.value)
    assert caught.value.status == status
    assert caught.value.request_id


def test_overload_is_told_once(hub: ForeignClient, live: Live) -> None:
    live.backend.error = Overloaded("busy", retry_after_s=1)
    with pytest.raises(ForeignError, match="busy") as caught:
        call(hub, "feature_extraction", text="a")
    assert caught.value.status == 429
    assert len(live.backend.jobs) == 1


def test_the_health_check_works(hub: ForeignClient, live: Live) -> None:
    assert call(hub, "health_check", client={"model": live.url}) is True


def test_the_recommended_model_is_one_that_answers(hub: ForeignClient) -> None:
    """Which one that is, a client that was given no model asks the hub's list of tasks."""
    assert call(hub, "feature_extraction", client={}, text="a")["shape"] == [1, 8]


def test_the_status_of_a_warm_model_is_loaded(hub: ForeignClient) -> None:
    assert call(hub, "get_model_status") == {
        "loaded": True,
        "state": "Loaded",
        "compute_type": "cpu",
        "framework": "sentence-transformers",
    }


def test_the_status_of_an_unknown_model_is_an_error_that_names_it(hub: ForeignClient) -> None:
    with pytest.raises(ForeignError, match="org/other"):
        call(hub, "get_model_status", model="org/other")


@pytest.mark.parametrize(
    "frameworks", ["sentence-transformers", None], ids=["its own", "the main ones"]
)
def test_a_warm_model_is_listed_as_deployed(hub: ForeignClient, frameworks: Any) -> None:
    assert call(hub, "list_deployed_models", frameworks=frameworks) == BOTH_TASKS


def test_every_framework_that_the_client_knows_is_answered(hub: ForeignClient) -> None:
    assert call(hub, "list_deployed_models", frameworks="all") == BOTH_TASKS


def test_a_cold_model_is_asked_for_again_with_the_wish_to_wait() -> None:
    settings = Settings(cold_start_hold_s=0)
    with serving_cold(settings) as cold, huggingface_hub_0_27(cold.url) as hub:
        hub.start(client={"model": MODEL}, method="feature_extraction", arguments={"text": "a"})
        cold.recording.wait_for(2)
        cold.deployments.release()
        assert hub.result()["shape"] == [1, 8]
        first, second = cold.recording.seen
        assert first.path == second.path == "/pipeline/feature-extraction/org/name"
        assert "x-wait-for-model" not in first.headers
        assert second.headers["x-wait-for-model"] == "1"
        assert cold.deployments.uses == [(MODEL, 0), (MODEL, settings.load_timeout_s)]


def test_a_model_that_loads_while_the_request_is_held_is_asked_for_once() -> None:
    with serving_cold() as cold, huggingface_hub_0_27(cold.url) as hub:
        hub.start(client={"model": MODEL}, method="feature_extraction", arguments={"text": "a"})
        cold.recording.wait_for(1)
        cold.deployments.release()
        assert hub.result()["shape"] == [1, 8]
        assert len(cold.recording.seen) == 1


def test_a_model_that_stays_cold_is_a_timeout_error_of_the_client() -> None:
    settings = Settings(cold_start_hold_s=0, load_timeout_s=0.2)
    with serving_cold(settings) as cold, huggingface_hub_0_27(cold.url) as hub:
        with pytest.raises(ForeignError, match="Model not loaded on the server") as caught:
            call(hub, "feature_extraction", client={"model": MODEL, "timeout": 3}, text="a")
        assert "InferenceTimeoutError" in caught.value.kinds
        assert caught.value.status == 503


def test_the_status_of_a_cold_model_is_loadable() -> None:
    with serving_cold() as cold, huggingface_hub_0_27(cold.url) as hub:
        status = call(hub, "get_model_status")
        assert (status["loaded"], status["state"]) == (False, "Loadable")
        assert cold.deployments.loads == []


def test_a_model_that_cannot_be_loaded_is_asked_for_every_two_seconds_until_the_timeout() -> None:
    """The client takes any 503 for a loading model, and sleeps a second before it tries again."""
    with serving_cold() as cold, huggingface_hub_0_27(cold.url) as hub:
        cold.deployments.errors[MODEL] = UnsupportedModel("the family `x` is not computed")
        cold.deployments.release()
        with pytest.raises(ForeignError) as caught:
            call(hub, "feature_extraction", client={"model": MODEL, "timeout": 3}, text="a")
        assert "InferenceTimeoutError" in caught.value.kinds
        assert len(cold.recording.seen) <= 4
