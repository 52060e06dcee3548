"""What the tiers behind the memory have in common."""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from fledge.cache.entry import Cached
from fledge.telemetry.states import TierCounts

TierName: TypeAlias = Literal["memory", "files", "redis"]

Pair: TypeAlias = tuple[bytes, Cached]
"""A key and its entry."""


class Tier(Protocol):
    """A place behind the memory that keeps entries. For use from one event loop.

    It never raises: what does not work is a miss, or is not kept, and is counted.
    """

    @property
    def name(self) -> TierName:
        """Which of them it is."""
        ...

    @property
    def counts(self) -> TierCounts:
        """What has happened so far."""
        ...

    @property
    def is_usable(self) -> bool:
        """Whether it works, as far as is known; one that does not is left alone for a while."""
        ...

    async def get(self, keys: Sequence[bytes]) -> Sequence[Cached | None]:
        """The entry of each key, whole and its own; None where there is none in time."""
        ...

    def put(self, pairs: Sequence[Pair]) -> None:
        """Keep entries some time soon, without waiting for it."""
        ...

    async def aclose(self) -> None:
        """Keep what still waits to be kept, if that is quick. Safe to call twice."""
        ...
