"""What is sent to each kind of service, and what is made of its answer, over real connections."""

import json
from typing import Any

import numpy as np
import pytest

from fledge.types import EmbedResult, Truncation
from fledge.vectors import normalize
from tests.providers.fakes import FakeProvider
from tests.providers.troubles import altered
from tests.providers.wire import Flavour, tokens_of, vector_of
from tests.unit.providers.conftest import PRESET_OF, Backends, Fakes, job

pytestmark = pytest.mark.anyio

TEXTS = ["a", "two words", 'Ünïcödé and "quotes" \n and lines', "水と火", "a"]
EVERY_FLAVOUR = list(PRESET_OF)


def sent(fake: FakeProvider) -> Any:
    (request,) = fake.requests
    return request.json


def assert_right(result: EmbedResult, texts: list[str]) -> None:
    expected = np.stack([vector_of(text) for text in texts])
    assert np.allclose(normalize(result.vectors), expected, atol=1e-6)
    assert result.vectors.dtype == np.float32
    assert result.vectors.flags.c_contiguous


@pytest.mark.parametrize("flavour", EVERY_FLAVOUR)
async def test_every_kind_of_service_gives_the_vectors_of_the_texts(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    backend = backends(fakes(flavour))
    result = await backend.embed(job(*TEXTS))
    assert_right(result, TEXTS)
    assert result.truncated == [False] * len(TEXTS)
    assert result.normalized == (flavour not in ("tei", "toolkit"))


@pytest.mark.parametrize("flavour", EVERY_FLAVOUR)
async def test_a_prompt_is_put_before_every_text_here(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    result = await backends(fakes(flavour)).embed(job("a", "b", prompt="query: "))
    assert_right(result, ["query: a", "query: b"])


@pytest.mark.parametrize("flavour", EVERY_FLAVOUR)
async def test_one_text_has_the_tokens_that_the_service_counted(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    result = await backends(fakes(flavour)).embed(job("a text of five words"))
    if flavour in ("hf-inference", "toolkit", "infinity"):  # do not count, or not tokens
        assert result.counts_estimated
        assert result.token_counts == [7]  # 20 bytes, at about 4 a token, and 2
    else:
        assert not result.counts_estimated
        assert result.token_counts == [7]


async def test_of_several_texts_the_sum_is_the_services_and_the_parts_are_estimates(
    fakes: Fakes, backends: Backends
) -> None:
    result = await backends(fakes()).embed(job(*TEXTS))
    assert sum(result.token_counts) == sum(map(tokens_of, TEXTS))
    assert result.counts_estimated
    assert result.token_counts[2] == max(result.token_counts)


async def test_where_a_tokenizer_is_at_hand_counts_are_no_estimates(
    fakes: Fakes, backends: Backends
) -> None:
    async def count(texts: Any) -> list[int]:
        return [tokens_of(text) for text in texts]

    expected = [tokens_of(f"q: {text}") for text in TEXTS]
    for flavour in EVERY_FLAVOUR:
        backend = backends(fakes(flavour), count_tokens=count)
        result = await backend.embed(job(*TEXTS, prompt="q: "))
        assert (result.token_counts, result.counts_estimated) == (expected, False), flavour


async def test_openai_is_sent_nothing_but_what_it_knows(fakes: Fakes, backends: Backends) -> None:
    fake = fakes("openai")
    await backends(fake).embed(job("a", "b", side="query"))
    (request,) = fake.requests
    assert (request.method, request.path) == ("POST", "/v1/embeddings")
    assert request.json == {"input": ["a", "b"], "model": "its-name", "encoding_format": "base64"}
    assert request.headers["content-type"] == "application/json"


async def test_a_service_of_that_shape_is_asked_for_floats(
    fakes: Fakes, backends: Backends
) -> None:
    fake = fakes("sambanova")
    await backends(fake).embed(job("a"))
    assert sent(fake) == {"input": ["a"], "model": "its-name", "encoding_format": "float"}


async def test_another_fledge_is_told_what_the_shape_leaves_out(
    fakes: Fakes, backends: Backends
) -> None:
    fake = fakes("fledge", max_tokens=5)
    truncation = Truncation(side="left", max_tokens=None)
    text = "x" * 50 + " one two three four five"
    result = await backends(fake).embed(job(text, side="document", truncation=truncation))
    asked, again = (request.json for request in fake.requests)
    assert asked == {
        "input": [text],
        "model": "its-name",
        "encoding_format": "base64",
        "prompt_name": "",
        "normalize": False,
        "input_type": "document",
    }
    assert again == asked | {"truncate": True, "truncation_direction": "left"}
    assert result.truncated == [True]


async def test_tei_is_told_not_to_normalize(fakes: Fakes, backends: Backends) -> None:
    fake = fakes("tei")
    result = await backends(fake).embed(job("a", truncation=Truncation(side="left")))
    (request,) = fake.requests
    assert request.path == "/embed"
    assert request.json == {
        "inputs": ["a"],
        "normalize": False,
        "truncate": False,
        "truncation_direction": "left",
    }
    assert np.allclose(np.linalg.norm(result.vectors, axis=1), 3, atol=1e-5)


async def test_an_endpoint_is_asked_at_its_root(fakes: Fakes, backends: Backends) -> None:
    fake = fakes("toolkit")
    await backends(fake).embed(job("a"))
    assert [request.path for request in fake.requests] == ["/"]


async def test_hf_inference_has_a_path_for_each_model(fakes: Fakes, backends: Backends) -> None:
    fake = fakes("hf-inference")
    await backends(fake).embed(job("a"))
    (request,) = fake.requests
    assert request.path == "/hf-inference/models/its-name/pipeline/feature-extraction"


@pytest.mark.parametrize(
    ("side", "input_type"),
    [("query", "search_query"), ("document", "search_document"), (None, "search_document")],
)
async def test_cohere_is_told_the_side_of_a_search(
    side: Any, input_type: str, fakes: Fakes, backends: Backends
) -> None:
    fake = fakes("cohere")
    await backends(fake).embed(job("a", side=side))
    (request,) = fake.requests
    assert request.path == "/v2/embed"
    assert request.json == {
        "model": "its-name",
        "texts": ["a"],
        "input_type": input_type,
        "embedding_types": ["float"],
        "truncate": "NONE",
    }


async def test_dimensions_are_never_sent(fakes: Fakes, backends: Backends) -> None:
    for flavour in EVERY_FLAVOUR:
        fake = fakes(flavour)
        await backends(fake).embed(job("a"))
        assert b"dimension" not in fake.requests[0].body


async def test_vectors_are_put_in_the_order_of_their_index(
    fakes: Fakes, backends: Backends
) -> None:
    """As litellm did not: BerriAI/litellm#20456."""
    fake = fakes()
    fake.misbehave(altered(lambda answer: answer | {"data": answer["data"][::-1]}))
    assert_right(await backends(fake).embed(job(*TEXTS)), TEXTS)


async def test_without_an_index_the_order_is_that_of_the_list(
    fakes: Fakes, backends: Backends
) -> None:
    def without_index(answer: Any) -> Any:
        return answer | {"data": [{"embedding": one["embedding"]} for one in answer["data"]]}

    fake = fakes()
    fake.misbehave(altered(without_index))
    assert_right(await backends(fake).embed(job(*TEXTS)), TEXTS)


async def test_floats_are_taken_where_base64_was_asked_for(
    fakes: Fakes, backends: Backends
) -> None:
    fake = fakes()

    def as_floats(answer: Any) -> Any:
        vectors = [vector_of(text).tolist() for text in TEXTS]
        return answer | {"data": [{"embedding": one} for one in vectors]}

    fake.misbehave(altered(as_floats))
    assert_right(await backends(fake).embed(job(*TEXTS)), TEXTS)


async def test_token_ids_go_where_they_are_taken_for_what_they_are(
    fakes: Fakes, backends: Backends
) -> None:
    for flavour in ("openai", "vllm", "fledge"):
        fake = fakes(flavour)
        result = await backends(fake).embed(job([1, 23, 456], "text", [7], prompt="q: "))
        expected = np.stack([vector_of([1, 23, 456]), vector_of("q: text"), vector_of([7])])
        assert np.allclose(result.vectors, expected, atol=1e-6)
        assert result.token_counts == [3, tokens_of("q: text"), 1]
        assert not result.counts_estimated
        for request in fake.requests:
            assert len(set(map(type, request.json["input"]))) == 1, "no service takes both at once"


async def test_white_space_around_json_is_no_fault(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    fake.misbehave(altered(lambda answer: b" \n" + json.dumps(answer).encode() + b"\n\n"))
    assert_right(await backends(fake).embed(job("a")), ["a"])
