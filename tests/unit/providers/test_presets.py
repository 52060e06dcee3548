"""The services that are known by name, and what the catalogue says they serve."""

import pytest

from fledge.catalog.shipped import shipped_entries
from fledge.providers.presets import PRESETS, SHAPES
from fledge.providers.provider import Provider

KEY_VARIABLES = {
    "nebius": "NEBIUS_API_KEY",
    "sambanova": "SAMBANOVA_API_KEY",
    "scaleway": "SCALEWAY_API_KEY",
    "featherless": "FEATHERLESS_API_KEY",
    "together": "TOGETHER_API_KEY",
    "deepinfra": "DEEPINFRA_API_KEY",
    "openai": "OPENAI_API_KEY",
    "hf-inference": "HF_TOKEN",
    "cohere": "COHERE_API_KEY",
}
SERVED = [
    ("BAAI/bge-large-en-v1.5", "hf-inference", "BAAI/bge-large-en-v1.5"),
    ("Qwen/Qwen3-Embedding-8B", "nebius", "Qwen/Qwen3-Embedding-8B"),
    ("intfloat/e5-mistral-7b-instruct", "sambanova", "E5-Mistral-7B-Instruct"),
    ("BAAI/bge-multilingual-gemma2", "scaleway", "bge-multilingual-gemma2"),
    ("Qwen/Qwen3-Embedding-8B", "featherless", "Qwen/Qwen3-Embedding-8B"),
]


def test_every_service_has_its_variable() -> None:
    assert {name: preset.key_variable for name, preset in PRESETS.items()} == KEY_VARIABLES


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_makes_a_provider_that_is_called_over_tls(name: str) -> None:
    preset = PRESETS[name]
    assert preset.base_url is not None
    assert preset.base_url.startswith("https://")
    Provider(name=name, shape=preset.shape, base_url=preset.base_url, limits=preset.limits)


def test_a_shape_alone_sends_no_key_anywhere() -> None:
    assert {preset.key_variable for preset in SHAPES.values()} == {None}
    assert {preset.base_url for preset in SHAPES.values()} == {None}


@pytest.mark.parametrize(("model", "provider", "provider_id"), SERVED)
def test_the_catalogue_has_the_mappings_of_the_documentation(
    model: str, provider: str, provider_id: str
) -> None:
    (entry,) = [entry for entry in shipped_entries() if entry.id == model]
    assert entry.provider_ids[provider] == provider_id


def test_every_mapping_of_the_catalogue_is_to_a_service_that_is_known() -> None:
    for entry in shipped_entries():
        assert set(entry.provider_ids) <= set(PRESETS), entry.id
