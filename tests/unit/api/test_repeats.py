"""Requests that come again in every byte: given once more, and never to the wrong person."""

import base64
import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from fledge.api.app import create_app
from fledge.api.openai import EMBEDDINGS
from fledge.api.rendering import JsonResponse
from fledge.api.repeats import Given, Key, Repeats
from fledge.cache.cache import Cache
from fledge.cache.memory import MemoryTier
from fledge.catalog.catalog import Catalog
from fledge.fixed import FixedDeployments, catalog_of
from fledge.prompts import Prompt
from fledge.requests import Answer
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, FakeDeployments, fake_card
from fledge.types import EmbedJob, EmbedResult, ModelEntry, Standing, Timings
from tests.keyed import Keyed
from tests.unit.cached import Notebook

BODY = {"input": ["one two", "three"], "encoding_format": "base64"}
TIMES = ("x-compute-time", "openai-processing-ms", "x-request-id", "date")


@contextmanager
def serving(*backends: FakeBackend, **settings: Any) -> Iterator[TestClient]:
    chosen = Settings(**settings)
    service = Service(
        catalog_of(backends),
        FixedDeployments(backends),
        chosen,
        cache=Cache(MemoryTier(2**20)),
    )
    with TestClient(create_app(service, chosen), base_url="http://127.0.0.1:8080") as client:
        yield client


def ask(client: TestClient, body: Any = BODY, **headers: str) -> Any:
    return client.post("/v1/embeddings", json=body, headers=headers)


def told(response: Any) -> dict[str, str]:
    """The headers that do not tell of time."""
    return {name: value for name, value in response.headers.items() if name not in TIMES}


def test_a_request_that_came_before_is_answered_with_the_same_bytes_and_headers() -> None:
    with serving(FakeBackend()) as client:
        first, second, third = ask(client), ask(client), ask(client)
        assert first.content == second.content == third.content
        assert told(second) == told(third)
        assert third.headers["x-compute-type"] == "cache"
        assert third.headers["x-fledge-cache-hits"] == "2"


def test_only_what_dialects_are_shown_of_the_headers_tells_requests_apart() -> None:
    backend = FakeBackend()
    with serving(backend) as client:
        for _ in range(3):
            ask(client)
        assert ask(client, **{"user-agent": "another", "x-anything": "1"}).headers[
            "x-compute-type"
        ] == ("cache")
        assert len(backend.jobs) == 1
        assert ask(client, **{"x-use-cache": "false"}).headers["x-compute-type"] == "cpu"
        assert len(backend.jobs) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"encoding_format": "float"},
        {"dimensions": 4},
        {"normalize": False},
        {"input": ["three", "one two"]},
        {"prompt_name": "query"},
    ],
)
def test_a_request_that_differs_in_anything_is_another(change: dict[str, Any]) -> None:
    with serving(FakeBackend()) as client, serving(FakeBackend()) as fresh:
        for _ in range(3):
            ask(client)
        changed = BODY | change
        assert ask(client, changed).content == ask(fresh, changed).content


def test_the_same_body_on_another_path_is_another_request() -> None:
    one, other = (
        FakeBackend(fake_card(id="a/one")),
        FakeBackend(fake_card(id="a/other", dimension=4)),
    )
    with serving(one, other) as client:
        for _ in range(3):
            rows = client.post("/models/a/one", json={"inputs": "x"}).json()
            assert np.shape(rows) == (1, 8)
        for _ in range(3):
            rows = client.post("/models/a/other", json={"inputs": "x"}).json()
            assert np.shape(rows) == (1, 4)


def test_a_model_that_was_loaded_anew_is_asked_anew() -> None:
    deployments = FakeDeployments()
    entry = ModelEntry(id="a/model")
    settings = Settings()
    service = Service(Catalog([entry]), deployments, settings, cache=Cache(MemoryTier(2**20)))
    with TestClient(create_app(service, settings), base_url="http://127.0.0.1:8080") as client:
        before = [ask(client).json() for _ in range(3)]
        client.post("/admin/models/a/model/unload")
        deployments.backends[entry.id] = FakeBackend(fake_card(id=entry.id, dimension=4))
        assert ask(client, {"input": "another"}).status_code == 200  # it is warm again
        after = ask(client).json()
    lengths = [
        len(base64.b64decode(answer["data"][0]["embedding"])) // 4 for answer in (before[-1], after)
    ]
    assert lengths == [8, 4]


def test_the_time_that_loading_took_is_told_once() -> None:
    deployments = FakeDeployments()
    entry = ModelEntry(id="a/model")
    settings = Settings()
    service = Service(Catalog([entry]), deployments, settings, cache=Cache(MemoryTier(2**20)))
    with TestClient(create_app(service, settings), base_url="http://127.0.0.1:8080") as client:
        ask(client)
        client.post("/admin/models/a/model/unload")
        deployments.hold()
        Timer(0.05, deployments.release).start()
        waited, given_again = ask(client), ask(client)
    assert int(waited.headers["x-load-time"]) > 0
    assert "x-load-time" not in given_again.headers
    assert waited.content == given_again.content


def test_a_name_that_means_another_model_by_now_is_answered_by_that_one() -> None:
    older, newer = ModelEntry(id="org/name"), ModelEntry(id="name")
    deployments = FakeDeployments(FakeBackend(fake_card(id=older.id)))
    deployments.backends[newer.id] = FakeBackend(fake_card(id=newer.id, dimension=4))
    catalog, settings = Catalog([older]), Settings()
    service = Service(catalog, deployments, settings, cache=Cache(MemoryTier(2**20)))
    body = {"model": "name", "input": "a"}
    with TestClient(create_app(service, settings), base_url="http://127.0.0.1:8080") as client:
        before = [ask(client, body).json() for _ in range(3)][-1]
        catalog.add(newer)
        after = ask(client, body).json()
    assert [len(one["data"][0]["embedding"]) for one in (before, after)] == [8, 4]


def test_what_is_given_again_is_on_the_account_of_whoever_asks(tmp_path: Path) -> None:
    with Keyed(tmp_path, cache=Cache(MemoryTier(2**20))) as place:
        one, other = place.new_key("one"), place.new_key("other")
        for new in (one, one, one, other, other):
            with place.client(new.secret) as client:
                assert ask(client).status_code == 200
        used = {
            new.key.id: place.accounts.meter.month_to_date(new.key.id).tokens
            for new in (one, other)
        }
        assert used[one.key.id] == 3 * 7
        assert used[other.key.id] == 2 * 7


def test_a_model_that_has_failed_meanwhile_is_an_error_on_the_callers_account() -> None:
    accounts, deployments, entry = Notebook(), FakeDeployments(), ModelEntry(id="a/model")
    settings, cache = Settings(), Cache(MemoryTier(2**20))
    service = Service(Catalog([entry]), deployments, settings, cache=cache, accounts=accounts)
    with TestClient(create_app(service, settings), base_url="http://127.0.0.1:8080") as client:
        for _ in range(3):
            assert ask(client).status_code == 200
        deployments.set(entry.id, state="failed", reason="it is gone")
        assert ask(client).status_code == 503
    assert [one.errors for one in accounts.records] == [0, 0, 0, 1]


def test_nobody_is_given_an_answer_that_they_may_not_ask_for(tmp_path: Path) -> None:
    with Keyed(tmp_path, cache=Cache(MemoryTier(2**20))) as place:
        may, may_not = place.key("may"), place.key("may not", models=("other/*",))
        for _ in range(3):
            assert ask(place.client(may)).status_code == 200
        assert ask(place.client(may_not)).status_code == 403
        assert ask(place.client("fl-wrong")).status_code == 401


def test_a_new_computation_takes_the_place_of_what_was_kept() -> None:
    class Changing(FakeBackend):
        change = 0.0

        async def embed(self, job: EmbedJob) -> EmbedResult:
            result = await super().embed(job)
            return replace(result, vectors=result.vectors + np.float32(self.change))

    backend = Changing()
    with serving(backend) as client:
        before = [ask(client).content for _ in range(3)][-1]
        backend.change = 1.0
        new = ask(client, **{"x-use-cache": "false"}).content
        assert new != before
        assert ask(client).content == ask(client).content == new


def test_limits_hold_for_what_is_given_again(tmp_path: Path) -> None:
    with Keyed(tmp_path, cache=Cache(MemoryTier(2**20))) as place:
        secret = place.key(requests_per_minute=4)
        answers = [ask(place.client(secret)) for _ in range(5)]
        assert [one.status_code for one in answers] == [200, 200, 200, 200, 429]
        left = [one.headers["x-ratelimit-remaining-requests"] for one in answers]
        assert left == ["3", "2", "1", "0", "0"]


ANSWER = Answer(
    card=fake_card(),
    token_counts=[1],
    truncated_count=0,
    hit_count=1,
    standing=Standing(),
    prompt=Prompt(),
    warnings=(),
    timings=Timings(),
)


def given_of(size: int) -> Given:
    return Given(ANSWER, None, JsonResponse(b"x" * size))


def test_what_is_kept_has_no_prompt_that_may_be_as_long_as_the_request() -> None:
    assert replace(ANSWER, prompt=Prompt(text="x" * 1000)).again().prompt == Prompt()


def test_names_in_a_path_count_as_well() -> None:
    repeats = Repeats(40_000)
    key = repeats.key(EMBEDDINGS, b"{}", Headers(), {"model_id": "b" * 10_000})
    assert key is not None
    repeats.put(key, given_of(1))
    assert repeats.size_bytes > 10_000


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20_000)), max_size=60))
def test_answers_stay_within_their_budget_and_the_latest_are_kept(
    puts: list[tuple[int, int]],
) -> None:
    repeats = Repeats(40_000)
    kept: OrderedDict[Key, int] = OrderedDict()
    for name, size in puts:
        key = repeats.key(EMBEDDINGS, json.dumps(name).encode(), Headers(), {})
        assert key is not None
        repeats.put(key, given_of(size))
        kept.pop(key, None)
        kept[key] = size
        assert repeats.size_bytes <= repeats.budget_bytes
        newest = list(kept)[-1]
        found = repeats.get(newest)
        assert found is not None
        assert len(found.response.body) == size
    for key in kept:
        repeats.drop(key)
    assert repeats.size_bytes == 0


def test_nothing_is_kept_without_a_budget_and_of_large_requests() -> None:
    assert Repeats(0).key(EMBEDDINGS, b"{}", Headers(), {}) is None
    assert Repeats(2**20).key(EMBEDDINGS, b" " * (2**18 + 1), Headers(), {}) is None
