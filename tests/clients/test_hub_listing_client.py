"""The unmodified `huggingface_hub` lists, filters and resolves models; its endpoint is set here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from huggingface_hub import HfApi, InferenceClient, constants
from huggingface_hub.errors import (
    BadRequestError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.inference._providers import PROVIDERS, _common, hf_inference

from fledge.types import ModelEntry
from tests.clients.serving import Recording, serving
from tests.unit.api.catalogue import IDS, KNOWN, Catalogue


@dataclass(frozen=True)
class Listing:
    """Where the server of a catalogue is, and what arrived there."""

    url: str
    recording: Recording


@contextmanager
def listing() -> Iterator[Listing]:
    recording = Recording(Catalogue().app)
    with serving(recording) as url:
        yield Listing(url, recording)


@pytest.fixture(scope="module")
def server() -> Iterator[Listing]:
    with listing() as listed:
        yield listed


@pytest.fixture
def api(server: Listing) -> HfApi:
    return HfApi(endpoint=server.url, token=False)


def ids(models: Any) -> list[str]:
    return [model.id for model in models]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, IDS),
        ({"inference": "warm", "pipeline_tag": "feature-extraction"}, ["org/known"]),
        ({"pipeline_tag": "feature-extraction", "sort": "trending_score", "limit": 2}, IDS[:2]),
        ({"sort": "downloads", "limit": 1}, IDS[:1]),
        ({"sort": "likes"}, IDS),
        ({"sort": "created_at", "limit": 1}, ["Other/Large-Model"]),
        ({"sort": "last_modified", "limit": 1}, ["Other/Large-Model"]),
        ({"search": "large"}, ["Other/Large-Model"]),
        ({"author": "org"}, ["org/known", "org/plain"]),
        ({"filter": "de"}, ["org/known"]),
        ({"filter": ["sentence-transformers", "license:mit"]}, ["Other/Large-Model"]),
        ({"trained_dataset": "squad"}, []),
        ({"gated": True}, ["Other/Large-Model"]),
        ({"inference_provider": "all", "full": True}, IDS),
        ({"inference_provider": ["hf-inference", "together"]}, IDS),
        ({"inference_provider": "together"}, []),
        ({"num_parameters": "min:6B,max:128B"}, ["Other/Large-Model"]),
        ({"cardData": True, "fetch_config": True}, IDS),
    ],
)
def test_models_are_listed(api: HfApi, arguments: dict[str, Any], expected: list[str]) -> None:
    assert ids(api.list_models(**arguments)) == expected


def test_every_fact_is_read(api: HfApi) -> None:
    (model,) = api.list_models(inference="warm")
    assert isinstance(model, ModelInfo)
    assert (model.author, model.sha, model.inference) == ("org", "0123abc", "warm")
    assert (model.pipeline_tag, model.library_name) == (
        "feature-extraction",
        "sentence-transformers",
    )
    assert model.created_at == datetime(2023, 9, 12, tzinfo=UTC)
    assert model.safetensors is not None
    assert model.safetensors.total == 33_000_000
    assert model.card_data is not None
    assert (model.card_data.license, model.card_data.language) == ("apache-2.0", ["en", "de"])
    assert (model.private, model.gated, model.disabled) == (False, False, False)


def test_the_client_follows_the_link_to_the_next_page() -> None:
    models = [f"org/model-{number}" for number in range(1001)]
    recording = Recording(Catalogue(*(ModelEntry(id=model) for model in models)).app)
    with serving(recording) as url:
        listed = HfApi(endpoint=url, token=False).list_models(search="model", expand=["tags"])
        assert ids(listed) == models
    assert len(recording.seen) == 2


def test_lists_can_be_expanded(api: HfApi) -> None:
    for model in api.list_models(expand=["inferenceProviderMapping", "inference", "tags"]):
        assert model.inference_provider_mapping is not None
        (mapping,) = model.inference_provider_mapping
        assert (mapping.provider, mapping.provider_id) == ("hf-inference", model.id)
        assert (mapping.status, mapping.task) == ("live", "feature-extraction")
        assert model.inference == ("warm" if model.id == KNOWN.id else None)
        assert model.downloads is None


@pytest.mark.parametrize("name", ["org/known", "old-name", "ORG/known"])
def test_a_model_is_resolved_by_any_name(api: HfApi, name: str) -> None:
    assert api.model_info(name).id == "org/known"
    assert api.model_info(name, revision="main").sha == "0123abc"
    expanded = api.model_info(name, expand=["inferenceProviderMapping", "inference"])
    assert expanded.inference == "warm"
    assert expanded.inference_provider_mapping is not None
    assert expanded.inference_provider_mapping[0].provider == "hf-inference"


def test_errors_are_the_client_s_own(api: HfApi) -> None:
    with pytest.raises(RepositoryNotFoundError, match="Repository Not Found"):
        api.model_info("org/none")
    with pytest.raises(RevisionNotFoundError, match="Revision Not Found"):
        api.model_info("org/known", revision="v2")
    with pytest.raises(BadRequestError, match="`expand` must be one of"):
        api.model_info("org/known", expand=["nothing"])  # type: ignore[list-item] # on purpose
    assert not api.repo_exists("org/none")
    assert api.repo_exists("org/known")


@pytest.fixture
def inference(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listing]:
    """The client as HF_ENDPOINT makes it; its router, which no variable moves, is moved by hand."""
    remembered = (
        hf_inference._fetch_recommended_models,
        hf_inference._check_supported_task,
        _common._fetch_inference_provider_mapping,
    )
    with listing() as listed:
        monkeypatch.setattr(constants, "ENDPOINT", listed.url)
        for helper in PROVIDERS["hf-inference"].values():
            monkeypatch.setattr(helper, "base_url", f"{listed.url}/hf-inference")
        for cache in remembered:
            cache.cache_clear()
        yield listed
    for cache in remembered:
        cache.cache_clear()


@pytest.mark.parametrize("provider", ["hf-inference", "auto", None])
@pytest.mark.parametrize("model", ["org/known", "my-folder"])
def test_a_model_is_found_and_asked(inference: Listing, provider: Any, model: str) -> None:
    client = InferenceClient(provider=provider, api_key="hf_any")
    assert client.feature_extraction("a", model=model).shape[0] == 1
    assert len(client.sentence_similarity("a", other_sentences=["b", "c"], model=model)) == 2


def test_without_a_model_the_first_of_the_tasks_is_asked(inference: Listing) -> None:
    client = InferenceClient(provider="hf-inference", api_key="hf_any")
    assert client.feature_extraction("a").shape == (1, 384)
    assert inference.recording.seen[-1].path.startswith("/hf-inference/models/org/known/pipeline/")


def test_an_unknown_model_is_found_nowhere(inference: Listing) -> None:
    with pytest.raises(RepositoryNotFoundError):
        InferenceClient(api_key="hf_any").feature_extraction("a", model="org/none")
