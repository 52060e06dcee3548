"""What is asked of the service, and what it answers: plain data that every dialect shares."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fledge.accounts.callers import NOBODY, Caller
from fledge.prompts import Prompt, PromptChoice
from fledge.routing.wishes import USUAL, Route
from fledge.types import Item, ModelCard, Standing, Timings, Truncation, Vectors
from fledge.vectors import ranking

Normalization: TypeAlias = bool | Literal["model", "similarity"]
"""True, false; `model`: as the model's own modules decide; `similarity`: normalized unless the
card says that its vectors are compared by the dot product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """Inputs to embed, as the caller asked for it.

    Attributes:
        inputs: texts, or lists of token ids; at least one.
        model: a name of the model; None means the first one served.
        prompt_choice: what goes before each text, and which side of a search the texts are on.
        dimensions: length of the vectors; None means the model's own.
        normalize: see `Normalization`.
        truncation: what happens to inputs that are too long.
        priority: smaller is sooner.
        use_cache: whether an answer that was computed before, or for another request, will do.
        caller: whose account it is on.
        route: where it may be computed; nothing: as the settings say.
        patience_s: how long to wait for a model that is not warm; None: as the settings say.
        timeout_s: how long its answer may take once the model is warm; None: as long as it takes.
        field: how the caller spells the field of the inputs, for error messages.
        is_single: whether the caller gave one bare input, so that errors name no index.
        dimensions_field: how the caller spells the field of the dimensions, for error messages.
    """

    inputs: Sequence[Item]
    model: str | None = None
    prompt_choice: PromptChoice = field(default_factory=PromptChoice)
    dimensions: int | None = None
    normalize: Normalization = "model"
    truncation: Truncation = field(default_factory=Truncation)
    priority: int = 0
    use_cache: bool = True
    caller: Caller = NOBODY
    route: Route = USUAL
    patience_s: float | None = None
    timeout_s: float | None = None
    field: str = "inputs"
    is_single: bool = False
    dimensions_field: str = "dimensions"

    @property
    def items(self) -> Sequence[Item]:
        """Everything in it that is to be embedded."""
        return self.inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """One text to compare with many, as the caller asked for it.

    Attributes:
        query: the one text.
        documents: the many; at least one.
        model: a name of the model; None means the first one served.
        query_prompt_choice: what goes before the query, and its side if that is not the query's.
        document_prompt_choice: likewise, for each of the documents.
        truncation: what happens to texts that are too long.
        priority: smaller is sooner.
        use_cache: whether an answer that was computed before, or for another request, will do.
        caller: whose account it is on.
        route: where it may be computed; nothing: as the settings say.
        patience_s: how long to wait for a model that is not warm; None: as the settings say.
        timeout_s: how long its answer may take once the model is warm; None: as long as it takes.
        query_field: how the caller spells the field of the query, for error messages.
        documents_field: likewise, the field of the documents.
    """

    query: str
    documents: Sequence[str]
    model: str | None = None
    query_prompt_choice: PromptChoice = field(default_factory=PromptChoice)
    document_prompt_choice: PromptChoice = field(default_factory=PromptChoice)
    truncation: Truncation = field(default_factory=Truncation)
    priority: int = 0
    use_cache: bool = True
    caller: Caller = NOBODY
    route: Route = USUAL
    patience_s: float | None = None
    timeout_s: float | None = None
    query_field: str = "query"
    documents_field: str = "documents"

    @property
    def items(self) -> Sequence[Item]:
        """Everything in it that is to be embedded."""
        return [self.query, *self.documents]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What every answer tells beside its result.

    Attributes:
        card: the model that computed it.
        token_counts: tokens of each input, in the order of the request; a comparison counts its
            query first.
        truncated_count: how many inputs were cut.
        hit_count: how many inputs were computed before.
        standing: how the caller stands with its limits now.
        prompt: what was put before the inputs (a comparison's query).
        warnings: what the caller should know, one sentence each.
        timings: where the time went.
        cost_nanos: what it costs, in billionths of the operator's currency; None: it was computed
            here, and no provider is ever asked.
    """

    card: ModelCard
    token_counts: Sequence[int]
    truncated_count: int
    hit_count: int
    standing: Standing
    prompt: Prompt
    warnings: tuple[str, ...]
    timings: Timings
    cost_nanos: int | None = None

    @property
    def is_kept(self) -> bool:
        """Whether all of it was computed before."""
        return self.hit_count == len(self.token_counts)

    def again(self) -> "Answer":
        """What would be told of it if it were given again: nothing took time, and no vectors. Nor
        the prompt, which may be as long as the request, and was told in a header."""
        facts = {one.name: getattr(self, one.name) for one in fields(Answer)}
        return Answer(**facts | {"timings": Timings(), "standing": Standing(), "prompt": Prompt()})


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResponse(Answer):
    """One vector for each input, in the order of the request."""

    vectors: Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResponse(Answer):
    """One score for each document, in the order of the request: larger is closer."""

    scores: NDArray[np.float32]

    def ranking(self, top_n: int | None = None) -> list[tuple[int, float]]:
        """Index and score of the `top_n` best documents, best first; ties keep their order."""
        return ranking(self.scores, top_n)
