"""What requests to a provider leave in the metrics, over a fake of one on the wire."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fledge.catalog.catalog import Catalog
from fledge.errors import FledgeError
from fledge.remotes import enabled_providers, with_providers
from fledge.requests import EmbedRequest
from fledge.service import Service
from fledge.settings import Settings
from fledge.switching import open_switchboard, provider_states
from fledge.testing import FakeDeployments
from fledge.types import ModelEntry
from tests.providers.fakes import FakeProvider, fake_provider
from tests.unit.telemetry.numbers import shown

MODEL = "org/name"

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def far() -> Iterator[FakeProvider]:
    with fake_provider() as one:
        yield one


def service_over(far: FakeProvider, folder: Path) -> Service:
    """A service whose only model is at a provider that has a price and a budget."""
    section = {
        "shape": "openai",
        "base_url": far.url,
        "models": {MODEL: "m"},
        "price_per_million_tokens": 1000,
        "monthly_budget": 1,
    }
    settings = Settings(
        providers={"far": section},
        catalog="none",
        allow_private_providers=True,
        data_dir=folder,
    )
    catalog = Catalog(with_providers(settings, [ModelEntry(id="org/here", dimension=8)]))
    deployments = FakeDeployments()
    service = Service(catalog, deployments, settings)
    observer = service.metrics.providers
    board = open_switchboard(
        settings, catalog, deployments, enabled_providers(settings, {}), {}, observer
    )
    service.switch_through(board)
    observer.show(lambda: provider_states(board, catalog.entries()))
    return service


def numbers(service: Service) -> Callable[[str], float]:
    """A provider's number by name, without the prefix that all have."""
    samples = shown(service.metrics)
    return lambda name: samples.get(f"fledge_provider_{name}", 0)


async def test_an_answer_leaves_its_time_tokens_and_cost(far: FakeProvider, tmp_path: Path) -> None:
    service = service_over(far, tmp_path)
    answer = await service.embed(EmbedRequest(inputs=["a b", "c"], model=MODEL))
    tokens = sum(answer.token_counts)
    of = numbers(service)
    assert of("requests_total{outcome: ok, provider: far}") == 1
    assert of("request_seconds_count{provider: far}") == 1
    assert of("tokens_total{provider: far}") == tokens > 0
    assert of("cost_total{provider: far}") == pytest.approx(tokens / 1000)
    assert of("budget_left{provider: far}") == pytest.approx(1 - tokens / 1000)
    assert of("models{provider: far, state: well}") == 1
    assert of("spaces{provider: far, verdict: reference}") == 1
    await service.aclose()


async def test_a_provider_that_denies_is_counted_and_shown_as_resting(
    far: FakeProvider, tmp_path: Path
) -> None:
    service = service_over(far, tmp_path)
    far.key = "another"
    with pytest.raises(FledgeError):
        await service.embed(EmbedRequest(inputs=["a"], model=MODEL))
    of = numbers(service)
    assert of("requests_total{outcome: denied, provider: far}") == 1
    assert of("request_seconds_count{provider: far}") == 0
    assert of("tokens_total{provider: far}") == 0
    assert of("models{provider: far, state: resting}") == 1
    await service.aclose()


async def test_before_anybody_has_asked_all_is_well(far: FakeProvider, tmp_path: Path) -> None:
    service = service_over(far, tmp_path)
    of = numbers(service)
    assert of("models{provider: far, state: well}") == 1
    assert of("models{provider: far, state: resting}") == 0
    assert of("budget_left{provider: far}") == 1
    assert not [name for name in shown(service.metrics) if "org/name" in name]
    await service.aclose()
