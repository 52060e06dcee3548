"""A fake provider and a backend that asks it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Protocol

import pytest
from pydantic import SecretStr

from fledge.providers.backend import CountTokens, ProviderBackend
from fledge.providers.client import ProviderClient
from fledge.providers.parts import PartLimits
from fledge.providers.presets import PRESETS, SHAPES, Preset
from fledge.providers.provider import Provider
from fledge.types import EmbedJob, ModelEntry
from tests.providers.fakes import FakeProvider, fake_provider
from tests.providers.wire import Flavour

PRESET_OF: dict[Flavour, Preset] = {
    "openai": PRESETS["openai"],
    "sambanova": PRESETS["sambanova"],
    "featherless": PRESETS["featherless"],
    "hf-inference": PRESETS["hf-inference"],
    "cohere": PRESETS["cohere"],
    "vllm": SHAPES["vllm"],
    "infinity": SHAPES["infinity"],
    "fledge": SHAPES["fledge"],
    "tei": SHAPES["tei"],
    "toolkit": SHAPES["endpoint"],
}
ENTRY = ModelEntry(id="org/name", dimension=8, max_seq_length=512)


def provider_at(fake: FakeProvider, **facts: Any) -> Provider:
    """The fake, as settings would describe it."""
    preset = PRESET_OF[fake.model.flavour]
    defaults: dict[str, Any] = {
        "name": "far",
        "shape": preset.shape,
        "base_url": fake.url,
        "limits": preset.limits,
        "says_400_while_loading": preset.says_400_while_loading,
    }
    return Provider(**defaults | facts)


def job(*items: Any, **facts: Any) -> EmbedJob:
    return EmbedJob(items=items, **facts)


Fakes = Callable[..., FakeProvider]


class Backends(Protocol):
    def __call__(
        self,
        fake: FakeProvider,
        entry: ModelEntry = ENTRY,
        *,
        count_tokens: CountTokens | None = None,
        **facts: Any,
    ) -> ProviderBackend: ...


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def fakes() -> Iterator[Fakes]:
    """Starts fakes."""
    with ExitStack() as stack:
        yield lambda *arguments, **facts: stack.enter_context(fake_provider(*arguments, **facts))


@pytest.fixture
async def backends() -> AsyncIterator[Backends]:
    """Makes backends for fakes; `key=` is a text, `limits=` a pair."""
    async with AsyncExitStack() as stack:

        def make(
            fake: FakeProvider,
            entry: ModelEntry = ENTRY,
            *,
            count_tokens: CountTokens | None = None,
            **facts: Any,
        ) -> ProviderBackend:
            if isinstance(facts.get("key"), str):
                facts["key"] = SecretStr(facts["key"])
            if isinstance(facts.get("limits"), tuple):
                facts["limits"] = PartLimits(*facts["limits"])
            client = ProviderClient(provider_at(fake, **facts), allow_private=True)
            stack.push_async_callback(client.aclose)
            return ProviderBackend(entry, client, provider_id="its-name", count_tokens=count_tokens)

        yield make
