"""What the metrics ask when they are read: plain numbers, from whoever has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from fledge.types import State

ProviderHealth: TypeAlias = Literal["well", "resting", "trying"]
"""How a model does at a provider."""

Relation: TypeAlias = Literal["reference", "same", "differs", "unknown"]
"""Whether its vectors there are those of the model's first deployment."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model as the metrics show it."""

    id: str
    state: State
    memory_bytes: int


@dataclass(slots=True)
class TierCounts:
    """What has happened in a tier since it began.

    Attributes:
        hits: entries that were found.
        misses: keys that were not, for whatever reason.
        late: of the misses, those that were not waited for any longer.
        damaged: of the misses, those whose entry was not whole.
        written: entries that were kept.
        dropped: entries that were not, since too much was waiting or the store does not work.
        failures: reads and writes that failed altogether.
    """

    hits: int = 0
    misses: int = 0
    late: int = 0
    damaged: int = 0
    written: int = 0
    dropped: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TierState:
    """A tier of the cache behind the memory.

    Attributes:
        name: which of them.
        is_usable: it works, or has not been seen to fail; otherwise it is left alone for a while.
        counts: what has happened in it.
    """

    name: str
    is_usable: bool
    counts: TierCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheState:
    """The cache, since it began.

    Attributes:
        answers: how many came from where.
        memory_bytes: what its memory tier takes.
        memory_budget_bytes: what it may take.
        tiers: those behind the memory.
    """

    answers: Mapping[str, int]
    memory_bytes: int = 0
    memory_budget_bytes: int = 0
    tiers: Sequence[TierState] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountsState:
    """Keys, usage and limits, as this instance knows them.

    Attributes:
        keys: how many live.
        keys_age_s: seconds since their database last answered.
        sums_waiting: different sums of usage that are not in the database yet.
        unwritten_s: seconds since all were.
        are_limits_shared: whether the limits are those of all instances now; None: they never are.
    """

    keys: int
    keys_age_s: float
    sums_waiting: int
    unwritten_s: float
    are_limits_shared: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderState:
    """A provider with all of its models.

    Attributes:
        name: as the settings call it.
        healths: how each of its models does there.
        relations: whether each answers there as elsewhere.
        budget_left_nanos: what may still be spent this month, in billionths; None: no limit.
    """

    name: str
    healths: Sequence[ProviderHealth] = ()
    relations: Sequence[Relation] = ()
    budget_left_nanos: int | None = None


class QueueState(Protocol):
    """What waits for the engine at this moment."""

    @property
    def waiting_requests(self) -> int: ...  # noqa: D102 - its name says it

    @property
    def waiting_tokens(self) -> int: ...  # noqa: D102 - likewise

    @property
    def waiting_tenants(self) -> int: ...  # noqa: D102 - likewise
