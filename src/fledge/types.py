"""The vocabulary that every layer shares, and the `Backend` protocol between serving and compute.

Plain frozen data: nothing here computes, reads a file, or knows a wire format.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
"""Embeddings, `[n, dim]`, float32, C-contiguous."""

Item: TypeAlias = str | Sequence[int]
"""One thing to embed: a text, or token ids that are used as they are."""

TruncationSide: TypeAlias = Literal["left", "right"]
"""The side that is cut away: `right` keeps the beginning of the text."""

Side: TypeAlias = Literal["query", "document"]
Precision: TypeAlias = Literal["auto", "fp32", "bf16", "int8"]
State: TypeAlias = Literal["cold", "loading", "warm", "failed"]
Similarity: TypeAlias = Literal["cosine", "dot", "euclidean", "manhattan"]
LogFormat: TypeAlias = Literal["text", "json"]
FailureKind: TypeAlias = Literal[
    "not_found", "gated", "offline", "corrupt", "unsupported", "out_of_memory", "unknown"
]
"""Why a model did not load, as far as it matters to whoever waits for it."""

Stage: TypeAlias = Literal["downloading", "waiting", "building"]
"""What a loading model is at: `waiting` is for other loads, or for memory to become free."""

LOCAL = "local"
"""The deployment of this very machine. No provider may be called so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A model of the catalogue: what is known of it while nothing of it is loaded.

    Facts are None, or empty, where they are not known; the card of a running model has the rest.

    Attributes:
        id: the public id, `org/name`, or a folder's name.
        folder: where its files are; None: the hub's model of that id.
        aliases: other names that requests may use; bare and lower-case ones go without saying.
        provider_ids: provider -> its own name for the model.
        family: the architecture, as `config.json` spells it in `model_type`.
        parameters: how many numbers the checkpoint has.
        dimension: length of one vector.
        matryoshka_dimensions: the shorter lengths it was trained for.
        max_seq_length: most tokens of one input.
        languages: ISO 639-1 codes; `multilingual` alone for more than can be named.
        license: its identifier on the hub, `apache-2.0`.
        prompts: name -> text put before an input.
        default_prompt_name: the prompt used when a request names none.
        pooling: the pooling modes, in the order in which their vectors are concatenated.
        similarity: how the model's vectors are meant to be compared.
        normalizes: whether the model's own last module is Normalize.
        is_recommended: a good choice of its size today.
        is_gated: the hub wants its conditions accepted first.
        summary: what it is for, one sentence.
        created: the day on which it was published.
        runs_locally: whether this machine may load it; else it runs at providers alone.
    """

    id: str
    folder: Path | None = None
    aliases: tuple[str, ...] = ()
    provider_ids: Mapping[str, str] = field(default_factory=dict)
    family: str | None = None
    parameters: int | None = None
    dimension: int | None = None
    matryoshka_dimensions: tuple[int, ...] = ()
    max_seq_length: int | None = None
    languages: tuple[str, ...] = ()
    license: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    pooling: tuple[str, ...] = ()
    similarity: Similarity | None = None
    normalizes: bool | None = None
    is_recommended: bool = False
    is_gated: bool = False
    summary: str = ""
    created: date | None = None
    runs_locally: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What is known of a model: what its folder says, and what its deployment decided.

    Attributes:
        id: the public id, `org/name`, or a folder's name.
        revision: the hub commit, or a fingerprint of a local folder's files.
        family: the architecture, as `config.json` spells it in `model_type`; of a static model
            its kind; of a model with several routes, all of theirs.
        precision: what the deployment really computes in: never `auto`; of a provider `fp32`,
            whatever it computes in.
        dimension: length of one vector; 0: not known before the first answer of a provider.
        max_seq_length: most tokens of one input, special tokens and prompt included; 0: the
            provider's secret.
        vocab_size: token ids are below it; 0: the provider's secret.
        pooling: the pooling modes, in the order in which their vectors are concatenated.
        prompts: name -> text put before an input.
        default_prompt_name: the prompt used when a request names none; rarely set.
        similarity: how the model's vectors are meant to be compared.
        normalizes: whether the model's own last module is Normalize.
        matryoshka_dimensions: the shorter lengths it was trained for; empty when unknown.
        arithmetic: the version of what computed; raised when its numbers change.
        origin: where its files came from, for people: a path, a package, a hub.
        deployment: where it runs: `local`, or the name of a provider.
        provider_id: the provider's own name for it; "" where it runs locally.
    """

    id: str
    revision: str
    family: str
    precision: Literal["fp32", "bf16", "int8"]
    dimension: int
    max_seq_length: int
    vocab_size: int
    pooling: tuple[str, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: Similarity = "cosine"
    normalizes: bool = False
    matryoshka_dimensions: tuple[int, ...] = ()
    arithmetic: str = ""
    origin: str = ""
    deployment: str = LOCAL
    provider_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """What happens to an input with more tokens than the model takes.

    Attributes:
        side: the side that is cut away; None means the one that the model's tokenizer names,
            which is the right one for nearly all.
        max_tokens: keep at most this many tokens; None means the model's `max_seq_length`.
        refuse: raise `InputTooLong` instead of cutting.
    """

    side: TruncationSide | None = None
    max_tokens: int | None = None
    refuse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedJob:
    """Work for one backend: one model, prompts already looked up, limits already checked.

    Attributes:
        items: what to embed, at least one.
        prompt: text put before each text; token ids never get one.
        side: which route of an asymmetric model computes it.
        priority: smaller is sooner; 0 for interactive work, 1 for bulk that may wait.
        deadline: `time.monotonic()` seconds after which nobody waits for the answer.
        tenant: who asks, as the id of a key; tenants with equal priority are served in turn, and
            all who have none count as one.
        max_total_tokens: most tokens of all items together, after truncation; more raises
            `TooManyInputs` before anything is computed.
    """

    items: Sequence[Item]
    prompt: str | None = None
    truncation: Truncation = field(default_factory=Truncation)
    side: Side | None = None
    priority: int = 0
    deadline: float | None = None
    tenant: str | None = None
    max_total_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where a request's time went, in milliseconds. Stages overlap between requests, not in one.

    Attributes:
        compute_ms: the time of every batch that it was in.
        busy_ms: its own part of that time, by tokens: over all requests, what computing took.
        load_ms: until the model was warm; next to nothing when it was already.
        cache_ms: until the cache had told what was left to compute.
    """

    tokenize_ms: float = 0.0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    busy_ms: float = 0.0
    load_ms: float = 0.0
    cache_ms: float = 0.0

    def __add__(self, other: "Timings") -> "Timings":
        mine, its = asdict(self), asdict(other)
        return Timings(**{stage: mine[stage] + its[stage] for stage in mine})


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """A backend's answer, in the order of the job's items.

    Attributes:
        vectors: `[n, dim]` float32, before a trailing Normalize unless `normalized`. Always finite.
        token_counts: `[n]`, tokens computed per item, prompt and special tokens included.
        truncated: `[n]`, whether the item was cut; of a provider that does not tell, whether it
            may have been.
        normalized: whether the vectors came with length 1 (a provider may offer nothing else).
        counts_estimated: whether some of `token_counts` are estimates; their sum may be exact.
    """

    vectors: Vectors
    token_counts: Sequence[int]
    truncated: Sequence[bool]
    normalized: bool = False
    counts_estimated: bool = False
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as tokens: ids, and for each its `[start, end)` in the text, in characters."""

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]


LimitName: TypeAlias = Literal["requests", "tokens", "concurrency", "budget"]


class Room(NamedTuple):
    """What is left of a limit per minute.

    Attributes:
        limit: requests or tokens a minute.
        remaining: of those, what may be used at once; 0 also when more was used than may be.
        reset_s: seconds until all of it may be, if nothing is used meanwhile.
    """

    limit: int
    remaining: int
    reset_s: float


class Standing(NamedTuple):
    """How a holder stands with its limits per minute; None: it has no such limit."""

    requests: Room | None = None
    tokens: Room | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a backend can take work now, and if not, why.

    Attributes:
        may_recover: of a failed one: it may take work again without being loaded anew.
    """

    state: State
    reason: str = ""
    may_recover: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A model's local deployment, as it is now.

    Attributes:
        state: cold, loading, warm or failed.
        card: of the running model; of one that left, its last.
        stage: while loading, what is being done.
        remaining_s: while loading, or cold, about how long until it would be warm; None: no idea.
        failure: of a failed one, what kind of failure.
        reason: of a failed one, for people; names no path of this machine.
        retry_in_s: of a failed one, seconds until it may be tried again.
        memory_bytes: what it takes, also while it is leaving and cold to newcomers already;
            estimated until it is warm.
        is_pinned: it does not leave by itself.
        users: requests that hold it now.
        idle_s: of a warm one, seconds since its last request ended; 0 in use.
    """

    state: State
    card: ModelCard | None = None
    stage: Stage | None = None
    remaining_s: float | None = None
    failure: FailureKind | None = None
    reason: str = ""
    retry_in_s: float = 0.0
    memory_bytes: int = 0
    is_pinned: bool = False
    users: int = 0
    idle_s: float = 0.0


class Backend(Protocol):
    """One deployment: a place where one model can run.

    Implementations are safe to call from many tasks of one event loop. Cancelling `embed` takes
    its work out of the queue; what is already being computed is finished and thrown away.
    """

    @property
    def card(self) -> ModelCard:
        """What this deployment serves."""
        ...

    async def embed(self, job: EmbedJob) -> EmbedResult:
        """Compute the job.

        An error about one item names it in its `field` as `items[INDEX]`, counted in the job.

        Raises:
            InputTooLong: an item is too long and the job refuses to cut.
            InvalidRequest: a token id outside the vocabulary.
            TooManyInputs: more tokens in all than `max_total_tokens`.
            Overloaded: too much work is waiting already.
            DeadlineExceeded: the deadline passed before the work was done.
            ComputeError: the computation failed or gave a value that is not finite.
        """
        ...

    async def tokenize(self, texts: Sequence[str], *, prompt: str | None = None) -> list[Tokens]:
        """The tokens that `embed` would compute, before any truncation."""
        ...

    def health(self) -> Health:
        """The state now, without waiting for anything."""
        ...

    async def aclose(self) -> None:
        """Finish what was accepted, then give back memory and threads. Safe to call twice."""
        ...


class Deployments(Protocol):
    """Where the models of the catalogue run. For use from one event loop."""

    def use(self, entry: ModelEntry, *, patience_s: float) -> AbstractAsyncContextManager[Backend]:
        """The running model, for as long as the block lasts: it does not leave meanwhile.

        A cold one is loaded, once for all who wait. Leaving or being cancelled ends the waiting,
        never the load.

        Raises:
            ModelLoading: it was not warm within `patience_s`.
            ModelLoadError: it cannot be loaded, or could not a moment ago.
        """
        ...

    def status(self, entry: ModelEntry) -> Status:
        """Its state now, without waiting for anything."""
        ...

    async def load(self, entry: ModelEntry) -> Status:
        """Load it, whatever is remembered of failures, and wait until it is warm.

        Raises:
            ModelLoadError: it cannot be loaded.
        """
        ...

    async def unload(self, entry: ModelEntry) -> Status:
        """Let its requests end, then give its memory back. A pinned one leaves too."""
        ...

    def pin(self, entry: ModelEntry, *, is_pinned: bool) -> Status:
        """Keep it from leaving by itself, from now on or not any more. Loads nothing."""
        ...

    def problems(self) -> Mapping[str, str]:
        """What keeps this instance from answering: a name and a reason each; empty when healthy."""
        ...

    async def aclose(self) -> None:
        """Let requests end, unload everything. Safe to call twice."""
        ...
