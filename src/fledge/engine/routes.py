"""A model that computes queries and documents apart, as one `Backend` over one for each route.

Source: `Router` of sentence-transformers 6, which was called Asym.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Literal, Protocol

from fledge.engine.chain import Routing
from fledge.errors import CorruptModel, InvalidRequest
from fledge.types import Backend, EmbedJob, EmbedResult, Health, ModelCard, Side, Tokens

SIDES: tuple[Side | None, ...] = (None, "query", "document")
PLAINEST_LAST: tuple[Literal["fp32", "bf16", "int8"], ...] = ("fp32", "bf16", "int8")
WORST_FIRST = ("failed", "cold", "loading", "warm")


class RunningModel(Backend, Protocol):
    """A backend of the engine: it may also be closed where no event loop runs."""

    def close(self) -> None:
        """Give memory and threads back. Safe to call twice."""
        ...


def reachable(routing: Routing) -> list[str]:
    """The routes that some job can take, the one for neither side first; each once.

    Raises:
        CorruptModel: there is none.
    """
    found = [route for side in SIDES if (route := routing.find(side)) is not None]
    if not found:
        raise CorruptModel(
            f"none of the model's routes is for texts, queries or documents: "
            f"{', '.join(routing.routes)}"
        )
    return list(dict.fromkeys(found))


class RoutedBackend:
    """One model of several routes.

    Args:
        routing: which route a job takes.
        routes: a backend for each route that some job can take, in the order of `reachable`. They
            belong to this one.

    Raises:
        CorruptModel: the routes' vectors have different lengths.
    """

    def __init__(self, routing: Routing, routes: Mapping[str, RunningModel]) -> None:
        self._routing = routing
        self._routes = routes
        self._backends = list(routes.values())
        self._card = _joined_card([one.card for one in self._backends])

    @property
    def card(self) -> ModelCard:
        """What is true of every route; see `_joined_card`."""
        return self._card

    async def embed(self, job: EmbedJob) -> EmbedResult:
        """Compute the job by the route of its side.

        Raises:
            InvalidRequest: there is no route for that side; and whatever `Backend.embed` raises.
        """
        return await self._find(job.side).embed(job)

    def _find(self, side: Side | None) -> RunningModel:
        route = self._routing.find(side)
        if route is None:
            raise InvalidRequest(
                f"this model has no route for {side or 'texts that are neither query nor document'}"
                f", only {', '.join(self._routing.routes)}: send another `input_type`",
                field="input_type",
            )
        return self._routes[route]

    async def tokenize(self, texts: Sequence[str], *, prompt: str | None = None) -> list[Tokens]:
        """The tokens of the route for neither side, or of the first one."""
        return await self._backends[0].tokenize(texts, prompt=prompt)

    def health(self) -> Health:
        """The worst of all routes."""
        return min(
            (one.health() for one in self._backends),
            key=lambda health: WORST_FIRST.index(health.state),
        )

    async def aclose(self) -> None:
        """Unload all routes without holding up the loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def close(self) -> None:
        """Close all routes, also when one of them fails to. Safe to call twice."""
        close_all(self._backends)


def close_all(backends: Sequence[RunningModel]) -> None:
    """Close each of them, also when one fails to."""
    with ExitStack() as stack:
        for backend in backends:
            stack.callback(backend.close)


def _joined_card(cards: Sequence[ModelCard]) -> ModelCard:
    """The first route's card, with what must hold for all of them.

    The families are named side by side, and so is their arithmetic, any of which may change; the
    precision is the coarsest, the limit the lowest; token
    ids are checked again by the route that they take.
    """
    sizes = {card.dimension for card in cards}
    if len(sizes) > 1:
        raise CorruptModel(
            f"{cards[0].id}: its routes give vectors of {', '.join(map(str, sorted(sizes)))} "
            "numbers, which cannot be compared"
        )
    return replace(
        cards[0],
        family="+".join(dict.fromkeys(card.family for card in cards)),
        precision=max((card.precision for card in cards), key=PLAINEST_LAST.index),
        max_seq_length=min(card.max_seq_length for card in cards),
        vocab_size=max(card.vocab_size for card in cards),
        arithmetic="+".join(dict.fromkeys(card.arithmetic for card in cards)),
    )
