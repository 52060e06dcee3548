"""A model as a listing shows it: the catalogue's facts, and better ones of a model that runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from fledge.types import ModelCard, ModelEntry, Similarity, Status


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry and the state of its local deployment. Facts of its card win over the entry's.

    Attributes:
        trending: how much it was asked for lately, in requests of which old ones count less.
        request_count: how often it was asked for since the server started.
    """

    entry: ModelEntry
    status: Status
    trending: float = 0.0
    request_count: int = 0

    @property
    def id(self) -> str:
        """The public id."""
        return self.entry.id

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
