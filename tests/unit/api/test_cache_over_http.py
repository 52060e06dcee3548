"""What clients see of the cache, and that they never see another's vector.

Every request goes to a server with a cache and to one without; the bodies have to be the same.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fledge.api.app import create_app
from fledge.cache.cache import Cache
from fledge.cache.memory import MemoryTier
from fledge.engine.chain import Routing, Step
from fledge.engine.routes import RoutedBackend
from fledge.fixed import FixedDeployments, catalog_of
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, fake_card
from fledge.types import Backend, EmbedJob, EmbedResult
from tests.unit.cache.fakes import FakeTier

LONG = "one two three four five six seven eight nine ten " * 3
HF, OPENAI, RERANK = "/models/fledge/fake", "/v1/embeddings", "/rerank"
SIMILARITY = "/pipeline/sentence-similarity/fledge/fake"
PAIR = {"source_sentence": "a", "sentences": ["b", "a"]}
DIALECTS: dict[str, dict[str, Any]] = {
    HF: {"inputs": ["a", "b"]},
    SIMILARITY: {"inputs": PAIR},
    OPENAI: {"input": ["a", "b"]},
    RERANK: {"query": "a", "documents": ["b", "c"]},
    "/v1/rerank": {"query": "a", "documents": ["b", "c"]},
}
STEADY = (
    "content-type",
    "x-compute-tokens",
    "x-sha",
    "x-fledge-prompt",
    "x-fledge-truncated",
    "x-fledge-warning",
    "x-fledge-ignored",
    "x-fledge-error",
)
"""Headers that are no other on a hit."""


class Sided(FakeBackend):
    """A model to which it matters what it is, and on which side its texts are."""

    async def embed(self, job: EmbedJob) -> EmbedResult:
        result = await super().embed(job)
        card = self.card
        facts = (card.id, card.revision, card.precision, card.arithmetic, job.side)
        turned = int.from_bytes(json.dumps(facts).encode(), "big") % 1009
        return replace(result, vectors=result.vectors * np.float32(1 + turned))

    def close(self) -> None:
        self.is_closed = True


class Twins:
    """A server with a cache and one without, each over models of its own.

    Args:
        make: makes the models of one of them.
        cache: of the one.
    """

    def __init__(self, make: Any = Sided, cache: Cache | None = None, **settings: Any) -> None:
        self.stack = ExitStack()
        self.model = make()
        chosen = Settings(**settings)
        self.cached = self._serve(self.model, cache or Cache(MemoryTier(2**20)), chosen)
        self._plain = self._serve(make(), None, chosen)

    def ask(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        """The response of the server with the cache, which says what the other one says."""
        one, other = (
            client.post(path, json=body, headers=headers) for client in (self.cached, self._plain)
        )
        assert (one.status_code, one.content) == (other.status_code, other.content)
        for name in STEADY:
            assert one.headers.get(name) == other.headers.get(name), name
        assert "x-fledge-cache-hits" not in other.headers
        return one

    def hits(self, path: str, body: Any, headers: dict[str, str] | None = None) -> int:
        """How many of the texts of a request were kept."""
        return int(self.ask(path, body, headers).headers.get("x-fledge-cache-hits", 0))

    def _serve(self, model: Backend, cache: Cache | None, settings: Settings) -> TestClient:
        service = Service(catalog_of([model]), FixedDeployments([model]), settings, cache=cache)
        return self.stack.enter_context(
            TestClient(
                create_app(service, settings),
                base_url="http://127.0.0.1:8080",
                raise_server_exceptions=False,
            )
        )


@pytest.fixture
def twins() -> Iterator[Twins]:
    made = Twins()
    with made.stack:
        yield made


@pytest.mark.parametrize("path", DIALECTS)
def test_the_headers_tell_hits_on_every_dialect(twins: Twins, path: str) -> None:
    body = DIALECTS[path]
    first = twins.ask(path, body)
    assert first.headers["x-compute-type"] == "cpu"
    assert "x-fledge-cache-hits" not in first.headers
    again = twins.ask(path, body)
    texts = 2 if path in (HF, OPENAI) else 3
    assert again.headers["x-compute-type"] == "cache"
    assert again.headers["x-fledge-cache-hits"] == str(texts)


def test_where_some_texts_were_computed_the_type_is_not_cache(twins: Twins) -> None:
    twins.ask(HF, {"inputs": ["a"]})
    told = []
    for _ in range(2):
        response = twins.ask(HF, {"inputs": ["a", "b", "b"]}, {"x-use-cache": "true"})
        told.append((response.headers["x-compute-type"], response.headers["x-fledge-cache-hits"]))
    assert told == [("cpu", "1"), ("cache", "3")]
    response = twins.ask(HF, {"inputs": ["a", "c", "c"]})
    assert response.headers["x-compute-type"] == "cpu"
    assert response.headers["x-fledge-cache-hits"] == "1"


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("word", ["false", "0", "False"])
def test_the_header_asks_for_a_new_computation_on_every_dialect(
    twins: Twins, path: str, word: str
) -> None:
    body = DIALECTS[path]
    for _ in range(2):
        before = len(twins.model.jobs)
        response = twins.ask(path, body, {"x-use-cache": word})
        assert response.headers["x-compute-type"] == "cpu"
        assert "x-fledge-cache-hits" not in response.headers
        assert len(twins.model.jobs) > before
    # and what came of it is kept
    assert twins.ask(path, body).headers["x-compute-type"] == "cache"


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("word", [False, "false", 0, " FALSE "])
def test_the_option_asks_for_a_new_computation_on_every_dialect(
    twins: Twins, path: str, word: Any
) -> None:
    body = DIALECTS[path] | {"options": {"use_cache": word}}
    for _ in range(3):
        before = len(twins.model.jobs)
        response = twins.ask(path, body, {"x-use-cache": "true"})
        assert response.headers["x-compute-type"] == "cpu"
        assert "x-fledge-ignored" not in response.headers
        assert len(twins.model.jobs) > before
    kept = twins.ask(path, DIALECTS[path] | {"options": {"use_cache": True}})
    assert kept.headers["x-compute-type"] == "cache"


def test_an_input_is_kept_once_for_all_dialects(twins: Twins) -> None:
    """Normalized or not, cut or not, as numbers or base64: all of them from one vector."""
    twins.ask(HF, {"inputs": ["a", "b"], "normalize": False})
    assert twins.hits(HF, {"inputs": "a", "normalize": True}) == 1
    assert twins.hits(HF, {"inputs": {"source_sentence": "a", "sentences": ["b"]}}) == 0  # sides
    assert twins.hits(OPENAI, {"input": ["b", "a"]}) == 2
    for dimensions in (1, 5, 8):
        body = {"input": "a", "dimensions": dimensions}
        assert twins.hits(OPENAI, body) == 1
        assert twins.hits(OPENAI, {**body, "encoding_format": "base64"}) == 1
        assert twins.hits(HF, {"inputs": "a", "parameters": {"dimensions": dimensions}}) == 1
    assert len(twins.model.jobs) == 3


# litellm #2990, #20456, #29284, #41799
@hypothesis_settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9), max_size=5))
def test_hits_misses_and_repeats_keep_their_places(batches: list[list[str]]) -> None:
    made = Twins()
    with made.stack:
        for texts in batches:
            made.ask(OPENAI, {"input": texts})
            made.ask(RERANK, {"query": texts[0], "documents": texts})
    computed = [(item, job.side) for job in made.model.jobs for item in job.items]
    assert len(computed) == len(set(computed))


# litellm #15595: the key ignored the task
def test_no_way_to_choose_a_prompt_or_a_side_shares_anothers_vector(twins: Twins) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"prompt_name": "query"},
        {"prompt_name": "document"},
        {"prompt_name": ""},
        {"prompt": "query: "},
        {"prompt": "something else: "},
        {"input_type": "query"},
        {"input_type": "document"},
        {"input_type": "classification"},
        {"task": "retrieval.query"},
        {"task": "feature-extraction"},
    ]
    for _ in range(2):
        for way in ways:
            twins.ask(OPENAI, {"input": ["a", "query: a"], **way})
            twins.ask(HF, {"inputs": ["query: a", "a"], **way})
    assert twins.hits(OPENAI, {"input": "a", "prompt": "query: "}) == 1


def test_prompts_of_one_text_are_one_by_whatever_name(twins: Twins) -> None:
    twins.ask(OPENAI, {"input": "a", "prompt_name": "query"})
    assert twins.hits(OPENAI, {"input": "a", "prompt": "query: "}) == 1
    assert twins.hits(OPENAI, {"input": "a", "prompt": "query:"}) == 0


def test_the_default_prompt_is_not_the_same_as_none() -> None:
    made = Twins(lambda: Sided(fake_card(default_prompt_name="query")))
    with made.stack:
        for _ in range(2):
            for way in ({}, {"prompt_name": ""}, {"prompt_name": "query"}, {"prompt": ""}):
                made.ask(OPENAI, {"input": "a", **way})
        assert len(made.model.jobs) == 2


def test_dimensions_and_normalization_in_any_order_are_of_the_whole_vector(twins: Twins) -> None:
    for dimensions in (3, None, 8, 3, 1):
        for normalize in (True, False, None):
            body = {"dimensions": dimensions, "normalize": normalize}
            twins.ask(OPENAI, {"input": ["a", "b"], **body})
            twins.ask(HF, {"inputs": "a", **body})
    assert len(twins.model.jobs) == 1


def test_base64_is_of_the_numbers_that_were_asked_for(twins: Twins) -> None:
    for _ in range(2):
        numbers, encoded = (
            twins.ask(OPENAI, {"input": "a", "encoding_format": one}).json()["data"][0]["embedding"]
            for one in ("float", "base64")
        )
        assert np.frombuffer(base64.b64decode(encoded), "<f4").tolist() == pytest.approx(numbers)


def test_truncation_is_part_of_what_was_asked_for(twins: Twins) -> None:
    ways: list[dict[str, Any]] = [
        {"truncate": True},
        {"truncate": "START"},
        {"truncate": "END"},
        {"truncate": True, "truncation_direction": "left"},
        {"truncate": True, "truncation_direction": "Right"},
        {"truncate": False},
        {"truncate": "NONE"},
        {},
    ]
    for _ in range(2):
        for way in ways:
            twins.ask(OPENAI, {"input": ["a", LONG], **way})
            twins.ask(HF, {"inputs": ["b", LONG, "a"], **way})
            twins.ask(RERANK, {"query": "a", "documents": [LONG, "b"], **way})


def test_a_text_that_was_cut_is_not_its_beginning(twins: Twins) -> None:
    """The model gives both the same numbers, but not the same headers."""
    beginning = " ".join(LONG.split()[:14])
    for _ in range(2):
        for text in (LONG, beginning):
            twins.ask(HF, {"inputs": text})


def test_token_ids_are_not_the_text_that_looks_like_them(twins: Twins) -> None:
    inputs: list[Any] = [[[1, 23]], "[1, 23]", [1, 23], "1,23", ["1", "23"], [[1], [23]], "1 23"]
    for _ in range(2):
        for item in inputs:
            twins.ask(OPENAI, {"input": item})
    assert twins.hits(OPENAI, {"input": [1, 23]}) == 1


def test_texts_that_look_alike_are_not_one(twins: Twins) -> None:
    texts = ["é", "e\u0301", "E", "e", " e", "e ", "e\n", "\u0435", "ﬁ", "fi"]
    for _ in range(2):
        twins.ask(OPENAI, {"input": texts})
        twins.ask(OPENAI, {"input": texts[::-1]})
    assert len({*texts}) == len(texts)
    assert sum(len(job.items) for job in twins.model.jobs) == len(texts)


# Infinity: the key ignored revision and precision
@pytest.mark.parametrize(
    "facts", [{"revision": "other"}, {"precision": "int8"}, {"precision": "bf16"}, {"id": "x/fake"}]
)
def test_models_that_share_a_cache_share_no_vector(facts: dict[str, Any]) -> None:
    memory, tier = MemoryTier(2**20), FakeTier()
    for card in (fake_card(), fake_card(**facts), fake_card()):
        for cache in (Cache(memory), Cache(None, [tier])):
            made = Twins(lambda card=card: Sided(card), cache)
            with made.stack:
                made.ask(OPENAI, {"input": ["a", "b"]})
    assert len(memory) == len(tier.entries) == 4


# litellm #10424, #30046: usage was lost on hits
@pytest.mark.parametrize("text", ["a", "a b c", LONG])
def test_usage_is_the_same_on_a_hit(twins: Twins, text: str) -> None:
    body = {"input": [text, "x", text], "truncate": True, "prompt_name": "query"}
    used = [twins.ask(OPENAI, body).json()["usage"] for _ in range(2)]
    assert used[0] == used[1]
    tokens = [twins.ask(OPENAI, body).headers["x-compute-tokens"] for _ in range(2)]
    assert tokens == [str(used[0]["prompt_tokens"])] * 2


# Infinity: a hit was computed all the same
def test_a_hit_never_reaches_the_model(twins: Twins) -> None:
    twins.ask(OPENAI, {"input": ["a", "b"]})
    twins.model.error = RuntimeError("it is broken")
    assert twins.cached.post(OPENAI, json={"input": ["b", "a", "b"]}).status_code == 200
    assert twins.cached.post(OPENAI, json={"input": ["b", "new"]}).status_code == 500


@pytest.mark.parametrize("path", DIALECTS)
def test_an_error_is_no_other_because_some_texts_are_kept(twins: Twins, path: str) -> None:
    twins.ask(path, DIALECTS[path])
    body = json.loads(json.dumps(DIALECTS[path]).replace('"b"', json.dumps(LONG)))
    for _ in range(2):
        assert twins.ask(path, {**body, "truncate": False}).status_code in (400, 422)
        twins.ask(path, {**body, "truncate": True})


def test_the_limit_of_tokens_is_the_same_on_a_hit() -> None:
    made = Twins(max_tokens_per_request=9)
    with made.stack:
        for texts in (["a b"], ["c d"], ["a b", "c d"]):
            made.ask(OPENAI, {"input": texts})
        for texts in (["a b", "c d", "e"], ["a b"] * 3, ["c d", "a b", "c d"]):
            response = made.cached.post(OPENAI, json={"input": texts})
            assert response.headers["x-fledge-error"] == "too_many_inputs"


def routed(*, query: str = "static-1", document: str = "packed-1") -> RoutedBackend:
    """A model with a route for each side, of arithmetic of their own."""
    step = Step("Transformer", Path())
    rules = Routing({"document": [step], "query": [step]}, "document", {})
    backends = {
        "document": Sided(fake_card(arithmetic=document)),
        "query": Sided(fake_card(arithmetic=query)),
    }
    return RoutedBackend(rules, backends)


def test_a_model_of_several_routes_keeps_each_sides_vectors_apart() -> None:
    made = Twins(routed)
    with made.stack:
        for _ in range(2):
            for way in ({}, {"input_type": "query"}, {"input_type": "document"}):
                made.ask(OPENAI, {"input": ["a", "b"], "prompt": "", **way})
            made.ask(RERANK, {"query": "a", "documents": ["a", "b"], "prompt": ""})


@pytest.mark.parametrize("changed", ["query", "document"])
def test_vectors_of_any_routes_older_arithmetic_are_never_found_again(changed: str) -> None:
    tier = FakeTier()
    for make in (routed, lambda: routed(**{changed: "newer"})):
        made = Twins(make, Cache(None, [tier]))
        with made.stack:
            for side in ("query", "document"):
                made.ask(OPENAI, {"input": ["a", "b"], "prompt": "", "input_type": side})
