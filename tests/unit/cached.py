"""A service over a cache, whose every answer is compared with that of the model alone."""

import asyncio
from typing import Any

from fledge.accounts.accounts import Accounts
from fledge.accounts.usage import UsageRecord
from fledge.cache.cache import Cache
from fledge.cache.memory import MemoryTier
from fledge.catalog.catalog import Catalog
from fledge.requests import EmbedRequest, EmbedResponse
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, FakeDeployments
from fledge.types import ModelEntry
from tests.unit.cache.fakes import FakeTier


class Notebook(Accounts):
    """Accounts that write everything down."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[UsageRecord] = []
        self.is_closed = False

    def count(self, record: UsageRecord) -> None:
        self.records.append(record)

    async def aclose(self) -> None:
        self.is_closed = True


class Place:
    """A service over one fake model and a cache, and the same without a cache to compare with."""

    def __init__(
        self, *tiers: FakeTier, memory: bool = True, card: Any = None, **settings: Any
    ) -> None:
        self.model = FakeBackend(card)
        self.cache = Cache(MemoryTier(2**20) if memory else None, tiers)
        self.deployments = FakeDeployments(self.model)
        self.accounts = Notebook()
        chosen = Settings(**settings)
        self.entry = ModelEntry(id=self.model.card.id, aliases=("other-name",))
        self.service = Service(
            Catalog([self.entry]),
            self.deployments,
            chosen,
            cache=self.cache,
            accounts=self.accounts,
        )
        self._plain = Service.over(
            [FakeBackend(self.model.card)], chosen.model_copy(update={"model": {}})
        )

    @property
    def computed(self) -> list[object]:
        """Everything that was computed, in order."""
        return [item for job in self.model.jobs for item in job.items]

    async def embed(self, *inputs: Any, **facts: Any) -> EmbedResponse:
        """An answer, which is the one that there is without a cache."""
        request = EmbedRequest(inputs=inputs, **facts)
        answer = await self.service.embed(request)
        plain = await self._plain.embed(request)
        assert answer.vectors.tobytes() == plain.vectors.tobytes()
        assert list(answer.token_counts) == list(plain.token_counts)
        assert answer.truncated_count == plain.truncated_count
        assert (answer.prompt, answer.warnings) == (plain.prompt, plain.warnings)
        return answer

    def begin(self, *inputs: str, **facts: Any) -> "asyncio.Task[EmbedResponse]":
        return asyncio.create_task(self.embed(*inputs, **facts))
