"""The unmodified `huggingface_hub` inference client, sync and async, against a live server."""

import asyncio

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient, constants
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

from fledge.errors import Overloaded
from tests.clients.conftest import Live

ADDRESSES = [
    "",
    "/v1",
    "/models/org/name",
    "/models/org/name/pipeline/feature-extraction",
    "/pipeline/feature-extraction/org/name",
    "/hf-inference/models/org/name/pipeline/feature-extraction",
]


@pytest.fixture(autouse=True)
def offline(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client asks the hub beside the inference goes to the server under test."""
    monkeypatch.setattr(constants, "ENDPOINT", live.url)


@pytest.mark.parametrize("address", ADDRESSES)
def test_one_string_gives_one_row_at_every_address(live: Live, address: str) -> None:
    client = InferenceClient(base_url=live.url + address)
    vectors = client.feature_extraction("hello there")
    assert vectors.shape == (1, 8)
    assert vectors.dtype == np.float32
    assert list(live.backend.jobs[-1].items) == ["hello there"]


def test_a_list_gives_a_row_for_each(live: Live) -> None:
    vectors = InferenceClient(model=live.url).feature_extraction(["a", "b", "a"])
    assert vectors.shape == (3, 8)
    assert np.array_equal(vectors[0], vectors[2])


def test_every_parameter_is_taken(live: Live) -> None:
    vectors = InferenceClient(base_url=live.url, api_key="hf_any").feature_extraction(
        ["word " * 30, "héllo 世界 😀"],
        normalize=False,
        prompt_name="query",
        truncate=True,
        truncation_direction="left",
        dimensions=4,
        encoding_format="float",
    )
    assert vectors.shape == (2, 4)
    job = live.backend.jobs[-1]
    assert (job.prompt, job.truncation.side) == ("query: ", "left")


def test_base64_comes_as_floats_since_the_client_cannot_decode_it(live: Live) -> None:
    client = InferenceClient(base_url=live.url)
    assert client.feature_extraction("a", encoding_format="base64").shape == (1, 8)


@pytest.mark.parametrize("address", ["", "/models/org/name/pipeline/sentence-similarity"])
def test_sentences_are_compared(live: Live, address: str) -> None:
    client = InferenceClient(base_url=live.url + address)
    scores = client.sentence_similarity("a", other_sentences=["b", "a"])
    assert scores[1] == pytest.approx(1)
    assert scores[0] < scores[1]


def test_a_bad_request_shows_its_message_and_id(live: Live) -> None:
    client = InferenceClient(base_url=live.url)
    with pytest.raises(BadRequestError, match="`inputs` is an empty list") as caught:
        client.feature_extraction([])
    assert "Request ID:" in str(caught.value)


def test_text_that_is_too_long_shows_the_limit(live: Live) -> None:
    client = InferenceClient(base_url=live.url)
    with pytest.raises(HfHubHTTPError, match="has 32 tokens; org/name takes at most 16"):
        client.feature_extraction("word " * 30, truncate=False)


def test_overload_is_told_once(live: Live) -> None:
    live.backend.error = Overloaded("busy", retry_after_s=1)
    with pytest.raises(HfHubHTTPError, match="429"):
        InferenceClient(base_url=live.url).feature_extraction("a")
    assert len(live.backend.jobs) == 1


def test_the_async_client_works_many_at_a_time(live: Live) -> None:
    async def main() -> list[tuple[int, ...]]:
        async with AsyncInferenceClient(base_url=live.url) as client:
            answers = await asyncio.gather(
                *(client.feature_extraction(f"text {n}") for n in range(20))
            )
        return [answer.shape for answer in answers]

    assert asyncio.run(main()) == [(1, 8)] * 20


def test_the_health_check_and_the_endpoint_info_work(live: Live) -> None:
    client = InferenceClient(base_url=live.url, provider="hf-inference")
    assert client.health_check()
    assert client.get_endpoint_info()["name"] == "fledge"
