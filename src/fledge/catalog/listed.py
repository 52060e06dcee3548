"""A model as a listing shows it: the catalogue's facts, and better ones of a model that runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fledge.types import ModelCard, ModelEntry, Similarity, State, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedProvider:
    """A model at one provider, as it is now.

    Attributes:
        name: the provider's.
        provider_id: what the model is called there.
        is_live: whether requests for it are sent there now.
        reason: of one that is not live, why, in one line.
        latency_ms: what a request takes there, the mean of the last ones; None: not measured.
        price_nanos_per_million_tokens: billionths; None: nobody said.
        space: whether its vectors are those of the model's other deployments: `same`, `differs`
            (it never stands in for them), or `unknown` while nothing was compared.
        least_cosine: what that was measured to be.
    """

    name: str
    provider_id: str
    is_live: bool = True
    reason: str = ""
    latency_ms: float | None = None
    price_nanos_per_million_tokens: int | None = None
    space: Literal["same", "differs", "unknown"] = "unknown"
    least_cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry and the state of its deployments. Facts of its card win over the entry's.

    Attributes:
        status: of the local one.
        trending: how much it was asked for lately, in requests of which old ones count less.
        request_count: how often it was asked for since the server started.
        providers: the enabled ones that have it, in the order of the settings.
    """

    entry: ModelEntry
    status: Status
    trending: float = 0.0
    request_count: int = 0
    providers: Sequence[ListedProvider] = ()

    @property
    def id(self) -> str:
        """The public id."""
        return self.entry.id

    @property
    def state(self) -> State:
        """Of the local deployment; of a model without any, whether a provider answers."""
        if self.entry.runs_locally:
            return self.status.state
        return "warm" if any(one.is_live for one in self.providers) else "failed"

    @property
    def is_live(self) -> bool:
        """Whether a request for it would be answered, if only after loading."""
        return self.state != "failed" or any(one.is_live for one in self.providers)

    @property
    def card(self) -> ModelCard | None:
        """The running model's card; of one that left, its last."""
        return self.status.card

    @property
    def owner(self) -> str:
        """The part of the id before the slash; empty for a local folder."""
        return self.id.rpartition("/")[0]

    @property
    def family(self) -> str | None:
        """The architecture."""
        return self.card.family if self.card else self.entry.family

    @property
    def dimension(self) -> int | None:
        """Length of one vector."""
        return self.card.dimension if self.card else self.entry.dimension

    @property
    def matryoshka_dimensions(self) -> tuple[int, ...]:
        """The shorter lengths it was trained for, which few models' own files say."""
        own = self.card.matryoshka_dimensions if self.card else ()
        return own or self.entry.matryoshka_dimensions

    @property
    def max_seq_length(self) -> int | None:
        """Most tokens of one input."""
        return self.card.max_seq_length if self.card else self.entry.max_seq_length

    @property
    def prompts(self) -> Mapping[str, str]:
        """Name -> text put before an input."""
        return self.card.prompts if self.card else self.entry.prompts

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt used when a request names none."""
        return self.card.default_prompt_name if self.card else self.entry.default_prompt_name

    @property
    def pooling(self) -> tuple[str, ...]:
        """The pooling modes."""
        return self.card.pooling if self.card else self.entry.pooling

    @property
    def similarity(self) -> Similarity | None:
        """How its vectors are meant to be compared."""
        return self.card.similarity if self.card else self.entry.similarity

    @property
    def normalizes(self) -> bool | None:
        """Whether the model's own last module is Normalize."""
        return self.card.normalizes if self.card else self.entry.normalizes
