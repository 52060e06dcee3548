"""The unmodified `openai` client, sync and async, against a live server."""

import asyncio
import time

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from fledge.errors import Overloaded
from tests.clients.conftest import Live


def client(live: Live, **options: object) -> OpenAI:
    return OpenAI(base_url=f"{live.url}/v1", api_key="sk-any", **options)  # type: ignore[arg-type] # by name


def test_vectors_come_in_order_with_usage(live: Live) -> None:
    answer = client(live).embeddings.create(model="org/name", input=["one", "two words"])
    assert [row.index for row in answer.data] == [0, 1]
    assert {len(row.embedding) for row in answer.data} == {8}
    assert answer.model == "org/name"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 7


def test_the_default_base64_and_asked_floats_are_the_same_vector(live: Live) -> None:
    """The client asks for base64 unless told otherwise, and decodes it by itself."""
    create = client(live).embeddings.create
    encoded = create(model="name", input="a").data[0].embedding
    floats = create(model="name", input="a", encoding_format="float").data[0].embedding
    assert np.array_equal(np.array(encoded, np.float32), np.array(floats, np.float32))


@pytest.mark.parametrize("given", ["a", ["a"], [5, 6], [[5, 6]]])
def test_every_form_of_input_is_taken(live: Live, given: list[int]) -> None:
    answer = client(live).embeddings.create(model="name", input=given)
    assert len(answer.data) == 1


def test_dimensions_user_and_extensions_are_taken(live: Live) -> None:
    raw = client(live).embeddings.with_raw_response.create(
        model="name",
        input="word " * 30,
        dimensions=4,
        user="somebody",
        extra_body={"truncate": True, "truncation_direction": "left", "prompt_name": "query"},
    )
    assert len(raw.parse().data[0].embedding) == 4
    assert raw.headers["x-fledge-truncated"] == "1"
    assert raw.headers["x-fledge-prompt"] == "query"
    assert raw.headers["openai-processing-ms"].isdecimal()


def test_models_are_listed_and_found(live: Live) -> None:
    models = client(live).models
    assert [model.id for model in models.list()] == ["org/name"]
    assert models.retrieve("org/name").owned_by == "org"


def test_a_bad_request_shows_its_message_field_and_id(live: Live) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client(live).embeddings.create(model="name", input=["a", ""])
    error = caught.value
    assert "`input[1]` is an empty text" in error.message
    assert (error.param, error.code, error.type) == (
        "input[1]",
        "empty_input",
        "invalid_request_error",
    )
    assert error.request_id


def test_an_unknown_model_is_a_not_found_error(live: Live) -> None:
    with pytest.raises(openai.NotFoundError, match="served: org/name"):
        client(live).embeddings.create(model="other", input="a")


def test_overload_is_retried_after_the_time_it_says(live: Live) -> None:
    live.backend.error = Overloaded("busy", retry_after_s=0.05)
    started = time.monotonic()
    with pytest.raises(openai.RateLimitError, match="busy"):
        client(live, max_retries=2).embeddings.create(model="name", input="a")
    assert len(live.backend.jobs) == 3
    assert 0.1 <= time.monotonic() - started < 1


def test_a_client_that_gives_up_takes_its_work_out_of_the_queue(live: Live) -> None:
    live.backend.hold()
    with pytest.raises(openai.APITimeoutError):
        client(live, max_retries=0, timeout=0.2).embeddings.create(model="name", input="a")
    deadline = time.monotonic() + 5
    while not live.backend.cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert live.backend.cancelled == 1


def test_the_async_client_works_many_at_a_time(live: Live) -> None:
    async def main() -> list[int]:
        async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="sk-any") as asynchronous:
            answers = await asyncio.gather(
                *(
                    asynchronous.embeddings.create(model="name", input=f"text {n}")
                    for n in range(20)
                )
            )
        return [len(answer.data[0].embedding) for answer in answers]

    assert asyncio.run(main()) == [8] * 20
