"""Who may have requests answered elsewhere, what each is told of it, and who is never asked."""

from pathlib import Path
from typing import Any

import pytest

from fledge.bootstrap import build_service
from fledge.catalog.catalog import Catalog
from fledge.errors import (
    ProviderUnavailable,
    UnknownModel,
)
from fledge.remotes import enabled_providers, with_providers
from fledge.requests import EmbedRequest
from fledge.routing.wishes import Route
from fledge.service import Service
from fledge.settings import Settings
from fledge.switching import open_switchboard
from fledge.testing import FakeBackend, FakeDeployments, fake_card
from fledge.types import ModelEntry
from tests.keyed import Keyed
from tests.providers.fakes import fake_provider
from tests.unit.routed import MODEL, NANOS_OF_A_TOKEN, Routed, down
from tests.unit.test_bootstrap import folder

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# Keys and limits


def ask(place: Routed, secret: str | None, model: str, text: str = "a") -> Any:
    body = {"input": text, "model": model}
    return place.client(secret).post("/v1/embeddings", json=body)


def test_a_key_is_needed_and_may_use_its_models_only_wherever_they_are(tmp_path: Path) -> None:
    with Keyed(tmp_path) as keyed:
        place = Routed(accounts=keyed.accounts)
        mine, other = keyed.key("mine", models=("org/*",)), keyed.key("o", models=("else/*",))
        assert ask(place, None, f"{MODEL}:nebius").status_code == 401
        assert ask(place, other, f"{MODEL}:nebius").status_code == 403
        assert ask(place, other, "nebius-name:nebius").status_code == 403
        assert place.jobs() == {}
        assert ask(place, mine, f"{MODEL}:nebius").status_code == 200


def test_limits_count_what_is_answered_elsewhere(tmp_path: Path) -> None:
    with Keyed(tmp_path) as keyed:
        place = Routed(accounts=keyed.accounts)
        secret = keyed.key("app", requests_per_minute=2)
        names = (f"{MODEL}:nebius", f"{MODEL}:scaleway", f"{MODEL}:nebius")
        found = [ask(place, secret, name, name) for name in names]
        assert [one.status_code for one in found] == [200, 200, 429]
        assert found[0].headers["x-ratelimit-remaining-requests"] == "1"
        assert place.jobs() == {"nebius": 1, "scaleway": 1}


# Every dialect tells who answered

EMBEDDINGS = {"input": "a b", "model": f"{MODEL}:nebius"}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", EMBEDDINGS),
    ("/embeddings", EMBEDDINGS),
    ("/nebius/v1/embeddings", {"input": "a b", "model": MODEL}),
    ("/nebius/v1/embeddings", {"input": "a b"}),
    ("/nebius/v1/openai/embeddings", {"input": "a b", "model": "nebius-name"}),
    (f"/models/{MODEL}:nebius", {"inputs": "a b"}),
    (f"/hf-inference/models/{MODEL}:nebius/pipeline/feature-extraction", {"inputs": "a b"}),
    (f"/pipeline/feature-extraction/{MODEL}:nebius", {"inputs": ["a b"]}),
    ("/rerank", {"query": "a", "documents": ["b"], "model": f"{MODEL}:nebius"}),
    ("/v1/rerank", {"query": "a", "documents": ["b"], "model": f"{MODEL}:nebius"}),
]


@pytest.mark.parametrize(("path", "body"), CALLS, ids=str)
def test_an_answer_says_who_gave_it_and_what_it_cost(path: str, body: dict[str, Any]) -> None:
    place = Routed()
    with place.client() as client:
        response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["x-fledge-provider"] == "nebius"
    tokens = 6 if "rerank" in path else 4
    assert float(response.headers["x-fledge-cost"]) == tokens * NANOS_OF_A_TOKEN["nebius"] / 1e9
    assert place.jobs() == {"nebius": 2 if "rerank" in path else 1}


def test_an_answer_from_here_costs_nothing_and_says_so() -> None:
    place = Routed()
    with place.client() as client:
        response = client.post("/v1/embeddings", json={"input": "a"})
    told = response.headers["x-fledge-provider"], response.headers["x-fledge-cost"]
    assert told == ("local", "0.000000000")


def test_where_no_provider_is_enabled_nothing_is_told_of_providers() -> None:
    place = Routed()
    place.service = Service.over([place.local], Settings())
    with place.client() as client:
        headers = client.post("/v1/embeddings", json={"input": "a"}).headers
        assert client.post("/nebius/v1/embeddings", json={"input": "a"}).status_code == 404
    assert not [name for name in headers if name in ("x-fledge-provider", "x-fledge-cost")]


# Who is never asked


async def test_a_key_in_the_environment_enables_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("NEBIUS_API_KEY", "HF_TOKEN", "OPENAI_API_KEY", "COHERE_API_KEY"):
        monkeypatch.setenv(variable, "sk-secret")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    settings = Settings(models=(str(folder(tmp_path / "model")),), preload=False)
    service = build_service(settings)
    assert service.switchboard is None
    assert all(not one.providers for one in service.models())
    await service.aclose()


async def test_a_provider_that_is_switched_off_is_never_asked_whatever_fails(
    tmp_path: Path,
) -> None:
    with fake_provider() as on, fake_provider() as off:
        sections = {
            "far": {"shape": "openai", "base_url": on.url, "models": {MODEL: "m"}},
            "nebius": {"enabled": False, "base_url": off.url, "models": {MODEL: "m"}},
        }
        settings = Settings(
            providers=sections,
            model={MODEL: {"providers": {"nebius": "m", "far": "m"}}},
            allow_private_providers=True,
            space_check="off",
            data_dir=tmp_path,
        )
        catalog = Catalog(with_providers(settings, [ModelEntry(id=MODEL, dimension=8)]))
        remotes = enabled_providers(settings, {"NEBIUS_API_KEY": "sk-secret"})
        deployments = FakeDeployments(FakeBackend(fake_card(id=MODEL)))
        service = Service(catalog, deployments, settings)
        service.switch_through(open_switchboard(settings, catalog, deployments, remotes, {}))
        answer = await service.embed(EmbedRequest(inputs=["a"], model=f"{MODEL}:far"))
        assert answer.card.deployment == "far"
        deployments.backends[MODEL].error = down("local")
        on.always(lambda writer, _: _nothing())
        with pytest.raises(ProviderUnavailable):
            await service.embed(EmbedRequest(inputs=["b"], timeout_s=5))
        request = EmbedRequest(inputs=["b"], model=MODEL, route=Route.alone("nebius"))
        with pytest.raises(UnknownModel):
            await service.embed(request)
        await service.aclose()
        assert (off.connections, len(on.requests) > 1) == (0, True)


async def _nothing() -> bool:
    return False


async def test_closing_hangs_up() -> None:
    place = Routed()
    await place.service.aclose()
    assert place.is_hung_up


async def test_a_model_that_only_providers_have_is_not_loaded_here() -> None:
    """Nor is a hub asked for it."""
    place = Routed(runs_locally=False)
    with pytest.raises(UnknownModel, match="at providers alone"):
        await place.service.load(MODEL)
    assert place.deployments.loads == []
    assert (await place.embed("a")).card.deployment == "nebius"
    assert place.deployments.uses == []
