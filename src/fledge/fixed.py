"""Running models that neither come nor go: what a program of its own, or a test, puts to use."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from fledge.catalog.catalog import Catalog
from fledge.errors import InvalidRequest
from fledge.types import Backend, ModelCard, ModelEntry, Status


def entry_of(card: ModelCard) -> ModelEntry:
    """The entry of a model that is known by its card alone."""
    return ModelEntry(id=card.id)


def catalog_of(backends: Sequence[Backend]) -> Catalog:
    """A catalogue of just these."""
    return Catalog(entry_of(backend.card) for backend in backends)


class FixedDeployments:
    """`Deployments` of backends that run already. Safe for several event loops at once."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = {backend.card.id: backend for backend in backends}

    @asynccontextmanager
    async def use(self, entry: ModelEntry, *, patience_s: float) -> AsyncIterator[Backend]:  # noqa: ARG002 - there is nothing to wait for
        """The backend, at once."""
        yield self._backends[entry.id]

    def status(self, entry: ModelEntry) -> Status:
        """What the backend says of itself."""
        backend = self._backends[entry.id]
        health = backend.health()
        return Status(state=health.state, reason=health.reason, card=backend.card, is_pinned=True)

    async def load(self, entry: ModelEntry) -> Status:
        """It is loaded already."""
        return self.status(entry)

    async def unload(self, entry: ModelEntry) -> Status:
        """Not here.

        Raises:
            InvalidRequest: always.
        """
        raise InvalidRequest(f"{entry.id} is here to stay: this server has no other models")

    def pin(self, entry: ModelEntry, *, is_pinned: bool) -> Status:  # noqa: ARG002 - all of them are
        """They all are, always."""
        return self.status(entry)

    def problems(self) -> Mapping[str, str]:
        """The backends that cannot take work, and why."""
        found = {name: backend.health() for name, backend in self._backends.items()}
        return {
            name: health.reason or health.state
            for name, health in found.items()
            if health.state not in ("warm", "cold")
        }

    async def aclose(self) -> None:
        """Close every backend, also when one of them fails to."""
        async with AsyncExitStack() as stack:
            for backend in self._backends.values():
                stack.push_async_callback(backend.aclose)
