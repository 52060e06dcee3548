"""The Python API: `load` a model, then `embed`, compare and rerank, with no server.

    import fledge

    with fledge.load("sentence-transformers/all-MiniLM-L6-v2") as model:
        vectors = model.embed(["a text", "another one"])

Everything is computed by the same service that answers HTTP. It is asynchronous inside; the plain
methods run it on one event loop in a thread of its own, so they work anywhere, in a notebook too.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fledge import bootstrap
from fledge.arguments import (
    as_count,
    as_items,
    as_side,
    as_text,
    as_text_or_none,
    as_texts,
)
from fledge.background import BackgroundLoop
from fledge.errors import InvalidRequest
from fledge.files.ordered import CHUNK_ITEMS, in_order, next_chunk
from fledge.inputs import check_inputs, check_token_ids, item_path
from fledge.prompts import PromptChoice
from fledge.requests import CompareRequest, CompareResponse, EmbedRequest, EmbedResponse
from fledge.service import Service
from fledge.settings import Settings, load_settings
from fledge.types import Backend, Item, ModelCard, Precision, Truncation, TruncationSide, Vectors
from fledge.vectors import ranking, similarity

Result = TypeVar("Result")
Texts: TypeAlias = Item | Sequence[Item]
"""One text, or one list of token ids; or a list of them."""

CHARS_PER_TOKEN = 4
"""A guess, only to weigh token ids against texts when a long list is cut into chunks."""
UNLIMITED = 2**62


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document and its place in a ranking.

    Attributes:
        index: where it stood in the list that was ranked.
        score: its similarity to the query; larger is closer.
        document: its text.
    """

    index: int
    score: float
    document: str


_background = BackgroundLoop()


def load(
    model: str | None = None,
    *,
    precision: Precision | None = None,
    threads: int | None = None,
    cache_dir: str | Path | None = None,
) -> "Model":
    """Load a model, downloading it when it is not on this machine yet.

    What is left out is taken from `FLEDGE_*` variables and `fledge.toml`, as everywhere.

    Args:
        model: a hub id or a folder; by default sentence-transformers/all-MiniLM-L6-v2.
        precision: "auto" (bf16 where the CPU computes it natively, else fp32), "fp32", "bf16" or
            "int8".
        threads: for the computation; 0 takes every core this process may use.
        cache_dir: where converted weights are kept.

    Raises:
        SettingsError: a value is not one of those above.
        ModelLoadError: the model cannot be found, fetched, or computed; its subclasses say which.
    """
    settings = load_settings(
        models=None if model is None else (model,),
        precision=precision,
        threads=threads,
        cache_dir=cache_dir,
    )
    return load_from(settings)


def load_from(settings: Settings) -> "Model":
    """Load the first model of the settings."""
    return Model(bootstrap.load_model(settings), without_limits(settings))


def without_limits(settings: Settings) -> Settings:
    """The same settings for one model and one caller, who needs no protection from itself.

    What bounds the memory of a long list is that it is computed in chunks.
    """
    return settings.model_copy(
        update={
            "models": settings.models[:1],
            "max_inputs_per_request": UNLIMITED,
            "max_tokens_per_request": UNLIMITED,
            "max_body_bytes": UNLIMITED,
            "max_queued_tokens": UNLIMITED,
        }
    )


class Model:
    """A loaded model. Safe to use from several threads and event loops at once.

    Close it to give back its memory: `close()`, or a `with` block.
    """

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._service = Service.over([backend], settings)
        self._card = backend.card
        self._is_closed = False

    def __repr__(self) -> str:
        card = self.card
        state = ", closed" if self._is_closed else ""
        return f"<fledge.Model {card.id}, {card.precision}, dimension {card.dimension}{state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def card(self) -> ModelCard:
        """What is known of the model: dimension, longest input, prompts, precision, ..."""
        return self._card

    @property
    def service(self) -> Service:
        """The service underneath, for answers with token counts and timings."""
        return self._service

    def embed(  # noqa: PLR0913 - all but the texts by name, and rarely more than one of them
        self,
        texts: Texts,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        input_type: str | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        truncate: bool = True,
        truncation_direction: TruncationSide | None = None,
    ) -> Vectors:
        """The vectors, float32: `[dim]` for one text, `[n, dim]` for a list, in its order.

        Args:
            texts: a text or a list of texts; a list of token ids, or a list of such lists, is
                embedded as it is, without a prompt or special tokens.
            prompt: a text of your own to put before each text, as "Instruct: ...\\nQuery: ".
            prompt_name: one of the card's prompts, in place of that; None means its default, if
                it has one, and "" means none.
            input_type: what the texts are, as "query" or "document": picks the model's own prompt
                for it, if it has one, and no prompt if it has none.
            normalize: whether vectors have length 1; None means as the model's own modules decide,
                like `SentenceTransformer.encode`.
            dimensions: keep the first so many numbers; sensible for models trained for it.
            truncate: cut texts that are too long; False raises `InputTooLong` instead.
            truncation_direction: the side that is cut away, "left" or "right" in any case; None
                means the one that the model's tokenizer names, mostly "right".

        Raises:
            EmptyInput: a text is empty. An empty list is fine, and gives an array `[0, dim]`.
            InvalidRequest: an argument cannot be used; its subclasses and the message say why.
        """
        choice = _choice(prompt, prompt_name, input_type)
        request = _request(
            choice, normalize, dimensions, refuse=not truncate, side=truncation_direction
        )
        return self._run(partial(self._embed, texts, request))

    async def aembed(  # noqa: PLR0913 - as `embed`
        self,
        texts: Texts,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        input_type: str | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        truncate: bool = True,
        truncation_direction: TruncationSide | None = None,
    ) -> Vectors:
        """As `embed`, from the running event loop; cancelling it takes its work off the queue."""
        choice = _choice(prompt, prompt_name, input_type)
        request = _request(
            choice, normalize, dimensions, refuse=not truncate, side=truncation_direction
        )
        self._check_open()
        return await self._embed(texts, request)

    def similarity(self, a: Texts | Vectors, b: Texts | Vectors) -> NDArray[np.float32]:
        """How alike each of `a` is to each of `b`, `[len(a), len(b)]`: larger is closer.

        Texts are embedded first; arrays are taken as vectors of this model, `[dim]` or `[n, dim]`.
        Compared as the model's card says, cosine for most.
        """
        return self._run(partial(self._similarity, a, b))

    def rerank(  # noqa: PLR0913 - as `embed`
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        input_type: str | None = None,
        document_prompt: str | None = None,
        document_prompt_name: str | None = None,
        document_input_type: str | None = None,
    ) -> list[Ranked]:
        """The documents by their similarity to the query, best first.

        Args:
            query: what to look for.
            documents: where to look; an empty list gives an empty list.
            top_n: how many to return; None means all.
            prompt, prompt_name, input_type: the query's prompt, as in `embed`.
            document_prompt, document_prompt_name, document_input_type: likewise, the documents'.

        Raises:
            EmptyInput: the query or a document is empty.
            InvalidRequest: `top_n` is less than 1, a prompt cannot be used, or an argument is
                of another kind.
        """
        best = as_count("top_n", top_n)
        if best is not None and best < 1:
            raise InvalidRequest(f"`top_n` is {best}; it must be at least 1", field="top_n")
        request = CompareRequest(
            query=as_text("query", query),
            documents=(),
            query_prompt_choice=_choice(prompt, prompt_name, input_type),
            document_prompt_choice=_choice(
                document_prompt, document_prompt_name, document_input_type, prefix="document_"
            ),
        )
        texts = as_texts("documents", documents)
        scores = self._run(partial(self._scores, request, texts))
        return [Ranked(index, score, texts[index]) for index, score in ranking(scores, best)]

    def close(self) -> None:
        """Finish what was asked, then give back memory and threads. Safe to call twice."""
        if not self._is_closed:
            self._is_closed = True
            _background.run(self._service.aclose)

    async def aclose(self) -> None:
        """As `close`, from the running event loop."""
        if not self._is_closed:
            self._is_closed = True
            await self._service.aclose()

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError(f"the model {self.card.id} is closed")

    def _run(self, call: Callable[[], Awaitable[Result]]) -> Result:
        self._check_open()
        return _background.run(call)

    async def _embed(self, texts: Texts, request: EmbedRequest) -> Vectors:
        items, is_single = as_items(texts)
        if 0 < len(items) <= CHUNK_ITEMS:
            request = replace(request, inputs=items, is_single=is_single)
            vectors = (await self._service.embed(request)).vectors
            return vectors[0] if is_single else vectors
        return await self._embed_many(items, request)

    async def _embed_many(self, items: list[Item], request: EmbedRequest) -> Vectors:
        """Chunk by chunk into one array made at the start: the peak is that and two chunks."""
        if items:
            # All of them before the first is computed: an error after an hour would be a waste.
            check_inputs(items, item_path("texts"), "texts", UNLIMITED)
            check_token_ids(items, item_path("texts"), self.card)
        dimension = self.card.dimension if request.dimensions is None else request.dimensions
        vectors = np.empty((len(items), dimension), np.float32)
        done = 0

        async def work(chunk: EmbedRequest) -> EmbedResponse:
            return await self._service.embed(chunk)

        chunks = _requests(items, replace(request, priority=1))
        async with aclosing(in_order(work, chunks)) as responses:
            async for response in responses:
                vectors[done : done + len(response.vectors)] = response.vectors
                done += len(response.vectors)
        return vectors

    async def _similarity(self, a: Texts | Vectors, b: Texts | Vectors) -> NDArray[np.float32]:
        rows = [np.atleast_2d(await self._as_vectors(side)) for side in (a, b)]
        widths = {side.shape[1] for side in rows}
        if len(widths) > 1 or any(side.ndim > 2 for side in rows):
            shapes = " and ".join(str(side.shape) for side in rows)
            raise InvalidRequest(f"vectors of the shapes {shapes} cannot be compared")
        return similarity(rows[0], rows[1], self.card.similarity)

    async def _as_vectors(self, side: Texts | Vectors) -> Vectors:
        if isinstance(side, np.ndarray):
            return side.astype(np.float32, copy=False)
        request = _request(PromptChoice(), None, None, refuse=False, side=None)
        return await self._embed(side, request)

    async def _scores(self, request: CompareRequest, documents: list[str]) -> NDArray[np.float32]:
        """Chunk by chunk; the query goes along with each, which costs next to nothing."""
        scores = np.empty(len(documents), np.float32)
        done = 0

        async def work(chunk: list[str]) -> CompareResponse:
            return await self._service.compare(replace(request, documents=chunk))

        async with aclosing(in_order(work, _chunks(documents))) as responses:
            async for response in responses:
                scores[done : done + len(response.scores)] = response.scores
                done += len(response.scores)
        return scores


def _choice(
    prompt: str | None, prompt_name: str | None, input_type: str | None, *, prefix: str = ""
) -> PromptChoice:
    return PromptChoice(
        prompt=as_text_or_none(f"{prefix}prompt", prompt),
        prompt_name=as_text_or_none(f"{prefix}prompt_name", prompt_name),
        input_type=as_text_or_none(f"{prefix}input_type", input_type),
        prefix=prefix,
    )


def _request(
    prompt_choice: PromptChoice,
    normalize: bool | None,  # noqa: FBT001 - private, and named where it is called from
    dimensions: int | None,
    *,
    refuse: bool,
    side: TruncationSide | None,
) -> EmbedRequest:
    return EmbedRequest(
        inputs=(),
        prompt_choice=prompt_choice,
        normalize="model" if normalize is None else normalize,
        dimensions=as_count("dimensions", dimensions),
        truncation=Truncation(side=as_side("truncation_direction", side), refuse=refuse),
        field="texts",
    )


def _chars(item: Item) -> int:
    return len(item) if isinstance(item, str) else CHARS_PER_TOKEN * len(item)


async def _chunks(items: Sequence[Any]) -> AsyncGenerator[list[Any], None]:
    """A list in chunks, as the asynchronous iterator that `in_order` takes."""
    rest = iter(items)
    while chunk := next_chunk(rest, _chars):
        yield chunk


async def _requests(
    items: Sequence[Item], request: EmbedRequest
) -> AsyncGenerator[EmbedRequest, None]:
    start = 0
    async for chunk in _chunks(items):
        # An error counts from the chunk's first text; `texts[2000:][3]` is the true name of that.
        yield replace(request, inputs=chunk, field=f"texts[{start}:]" if start else "texts")
        start += len(chunk)
