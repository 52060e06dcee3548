"""The newest official clients in front of a model that is cold."""

import threading

import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from fledge.errors import CorruptModel
from fledge.settings import Settings
from tests.clients.serving import Cold, serving_cold


def release_soon(cold: Cold) -> threading.Timer:
    timer = threading.Timer(0.3, cold.deployments.release)
    timer.start()
    return timer


def test_the_hub_s_client_is_held_until_the_model_is_warm() -> None:
    with serving_cold() as cold:
        timer = release_soon(cold)
        vectors = InferenceClient(base_url=cold.url, token="hf_x").feature_extraction("a")
        timer.join()
        assert vectors.shape == (1, 8)
        assert len(cold.recording.seen) == 1


def test_the_hub_s_client_shows_that_the_model_loads_when_it_takes_longer() -> None:
    with serving_cold(Settings(cold_start_hold_s=0.05)) as cold:
        client = InferenceClient(base_url=cold.url, token="hf_x")
        with pytest.raises(HfHubHTTPError, match="Model org/name is currently loading") as caught:
            client.feature_extraction("a")
        assert caught.value.response.status_code == 503
        assert float(caught.value.response.json()["estimated_time"]) > 0
        cold.deployments.release()
        assert client.feature_extraction("a").shape == (1, 8)


def test_a_header_of_the_hub_s_client_makes_it_wait() -> None:
    with serving_cold(Settings(cold_start_hold_s=0)) as cold:
        timer = release_soon(cold)
        client = InferenceClient(
            base_url=cold.url, token="hf_x", headers={"x-wait-for-model": "true"}
        )
        assert client.feature_extraction("a").shape == (1, 8)
        timer.join()


def test_openai_s_client_is_held_until_the_model_is_warm() -> None:
    with serving_cold(Settings(cold_start_hold_s=0)) as cold:
        timer = release_soon(cold)
        client = openai.OpenAI(base_url=f"{cold.url}/v1", api_key="k", max_retries=0)
        answer = client.embeddings.create(model="org/name", input="a")
        timer.join()
        assert len(answer.data[0].embedding) == 8
        assert len(cold.recording.seen) == 1


def test_openai_s_client_is_told_why_a_model_cannot_be_loaded() -> None:
    with serving_cold() as cold:
        cold.deployments.errors["org/name"] = CorruptModel("its weights are cut short")
        cold.deployments.release()
        client = openai.OpenAI(base_url=f"{cold.url}/v1", api_key="k", max_retries=0)
        with pytest.raises(openai.InternalServerError, match="its weights are cut short") as caught:
            client.embeddings.create(model="org/name", input="a")
        assert caught.value.status_code == 503
        assert caught.value.code == "model_corrupt"
