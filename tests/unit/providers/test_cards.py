"""What is kept of a provider's answers does not outlive a change of the provider."""

from dataclasses import replace

import pytest

from fledge.cache.key import Space
from fledge.providers.backend import card_of
from fledge.providers.parts import PartLimits
from fledge.providers.presets import SHAPES
from fledge.providers.provider import Provider
from fledge.routing.spaces import mark_of
from fledge.types import EmbedJob, ModelCard, ModelEntry

ENTRY = ModelEntry(id="org/name", dimension=8, max_seq_length=512)
PROVIDER = Provider(
    name="far",
    shape=SHAPES["openai"].shape,
    base_url="https://one.example/v1",
    limits=PartLimits(max_inputs=1, max_text_bytes=1),
)


def keys(card: ModelCard) -> list[bytes]:
    return Space.of(card, EmbedJob(items=["a"])).keys(["a"])


@pytest.mark.parametrize(
    "other",
    [
        replace(PROVIDER, base_url="https://other.example/v1"),
        replace(PROVIDER, shape=SHAPES["cohere"].shape),
        replace(PROVIDER, name="farther"),
    ],
)
def test_a_provider_that_is_elsewhere_or_another_shares_no_answer_and_no_verdict(
    other: Provider,
) -> None:
    one, changed = card_of(ENTRY, PROVIDER, "its-name"), card_of(ENTRY, other, "its-name")
    assert keys(one) != keys(changed)
    assert mark_of(one) != mark_of(changed)


def test_a_key_or_a_price_changes_neither() -> None:
    dearer = replace(PROVIDER, price_nanos_per_million_tokens=5)
    assert keys(card_of(ENTRY, PROVIDER, "x")) == keys(card_of(ENTRY, dearer, "x"))
