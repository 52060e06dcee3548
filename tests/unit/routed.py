"""A service that answers here and at providers, all of them fakes that compute the same vectors."""

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.testclient import TestClient

from fledge.accounts.accounts import Accounts
from fledge.api.app import create_app
from fledge.cache.cache import Cache
from fledge.cache.memory import MemoryTier
from fledge.catalog.catalog import Catalog
from fledge.errors import ProviderUnavailable
from fledge.requests import EmbedRequest, EmbedResponse
from fledge.routing.options import RouterOptions
from fledge.routing.places import LocalPlace, Place, RemotePlace
from fledge.routing.router import Router
from fledge.routing.space_book import SpaceBook, SpaceRules
from fledge.routing.switchboard import Spending, Switchboard
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, FakeDeployments, fake_card
from fledge.types import ModelEntry
from tests.unit.cached import Notebook

MODEL = "org/name"
PRICES = {"nebius": 20_000_000, "scaleway": 10_000_000}
"""Of a million tokens, in billionths."""

NANOS_OF_A_TOKEN = {name: price // 10**6 for name, price in PRICES.items()}


def remote_card(name: str, **facts: Any) -> Any:
    """Of a provider: nobody knows a revision, and what it calls the model is its own affair."""
    defaults = {"revision": "", "deployment": name, "provider_id": f"{name}-name"}
    return fake_card(id=MODEL, **defaults | facts)


def down(name: str, status: int | None = 503) -> ProviderUnavailable:
    return ProviderUnavailable(f"{name} answered {status}", provider=name, status=status)


class Routed:
    """One model, here and at two providers, in this order unless a route says otherwise.

    Attributes:
        local: the model here.
        remote: the model elsewhere, by provider.
        notes: what was counted, unless other accounts were given.
        service: what answers.
    """

    def __init__(
        self,
        *,
        options: RouterOptions | None = None,
        budgets: Mapping[str, int] | None = None,
        cards: Mapping[str, Any] | None = None,
        runs_locally: bool = True,
        accounts: Accounts | None = None,
        **settings: Any,
    ) -> None:
        cards = cards or {}
        self.local = FakeBackend(fake_card(id=MODEL))
        self.remote = {name: FakeBackend(cards.get(name) or remote_card(name)) for name in PRICES}
        self.entry = ModelEntry(
            id=MODEL,
            aliases=("other-name",),
            runs_locally=runs_locally,
            provider_ids={name: f"{name}-name" for name in PRICES},
        )
        self.deployments = FakeDeployments(self.local)
        self.notes = Notebook()
        self.settings = Settings(**settings)
        self.is_hung_up = False
        self.spending = Spending(budgets or {}, {})
        self.service = Service(
            Catalog([self.entry]),
            self.deployments,
            self.settings,
            cache=Cache(MemoryTier(2**20)),
            accounts=accounts or self.notes,
        )
        self.service.switch_through(self.switchboard(options or RouterOptions()))

    def switchboard(self, options: RouterOptions) -> Switchboard:
        """Over the backends as they are now."""
        places: list[Place] = [
            RemotePlace(name, backend, PRICES[name]) for name, backend in self.remote.items()
        ]
        if self.entry.runs_locally:
            places.insert(0, LocalPlace(self.deployments))
        router = Router(
            lambda _: places,
            options,
            SpaceBook(SpaceRules(is_checked=False)),
            budget_left=self.spending.left,
        )

        async def hang_up() -> None:
            self.is_hung_up = True

        return Switchboard(router, tuple(self.remote), self.spending, hang_up)

    async def embed(self, *inputs: Any, **facts: Any) -> EmbedResponse:
        return await self.service.embed(EmbedRequest(inputs=inputs, **facts))

    def begin(self, *inputs: Any, **facts: Any) -> "asyncio.Task[EmbedResponse]":
        return asyncio.create_task(self.embed(*inputs, **facts))

    def jobs(self) -> dict[str, int]:
        """How many jobs came to each deployment, those without any left out."""
        backends = {"local": self.local, **self.remote}
        return {name: len(one.jobs) for name, one in backends.items() if one.jobs}

    def client(self, secret: str | None = None) -> TestClient:
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        app = create_app(self.service, self.settings)
        return TestClient(
            app,
            base_url="http://127.0.0.1:8080",
            headers=headers,
            raise_server_exceptions=False,
        )
