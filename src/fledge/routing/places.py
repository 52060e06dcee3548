"""The deployments of one model as the router sees them, and what they cost."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from fledge.types import LOCAL, Backend, Deployments, ModelEntry

PER_MILLION = 1_000_000

BudgetLeft: TypeAlias = Callable[[str], int | None]
"""What may still be spent at a deployment this month, in billionths; None: as much as one likes."""


def no_budgets(name: str) -> int | None:  # noqa: ARG001 - the same for all
    """What `BudgetLeft` says where there are no budgets."""
    return None


class Size(NamedTuple):
    """How large a request is, as far as its choice of a deployment goes."""

    texts: int = 1


class Place(Protocol):
    """One deployment of one model."""

    @property
    def name(self) -> str:
        """`local`, or the provider's."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether it is somebody else's: then it is spared while it does not work."""
        ...

    @property
    def price_nanos_per_million_tokens(self) -> int | None:
        """What it costs, in billionths; None: nobody knows."""
        ...

    def use(self, entry: ModelEntry, *, patience_s: float) -> AbstractAsyncContextManager[Backend]:
        """What computes, for as long as the block lasts; as `Deployments.use`."""
        ...


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """The engine of this process."""

    deployments: Deployments
    name: str = LOCAL
    is_remote: bool = False
    price_nanos_per_million_tokens: int | None = 0

    def use(self, entry: ModelEntry, *, patience_s: float) -> AbstractAsyncContextManager[Backend]:
        """The running model; a cold one is loaded."""
        return self.deployments.use(entry, patience_s=patience_s)


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """A provider that serves the model, always there."""

    name: str
    backend: Backend
    price_nanos_per_million_tokens: int | None = None
    is_remote: bool = True

    @asynccontextmanager
    async def use(self, entry: ModelEntry, *, patience_s: float) -> AsyncIterator[Backend]:  # noqa: ARG002 - there is nothing to wait for
        """The backend, at once."""
        yield self.backend


def cost_nanos(tokens: int, price_nanos_per_million_tokens: int) -> int:
    """What some tokens cost, in billionths, rounded up.

    Args:
        tokens: how many.
        price_nanos_per_million_tokens: billionths for a million of them.
    """
    return -(-tokens * price_nanos_per_million_tokens // PER_MILLION)
