"""A model of several routes over backends that compute nothing."""

import asyncio
from pathlib import Path
from typing import Any, get_args

import pytest

from fledge.engine.chain import Routing, Step
from fledge.engine.routes import RoutedBackend, reachable
from fledge.errors import CorruptModel, InvalidRequest
from fledge.testing import FakeBackend, fake_card
from fledge.types import EmbedJob, EmbedResult, Health, ModelCard, Side


class Route(FakeBackend):
    """Remembers the sides of its jobs, and whether it was closed."""

    def __init__(self, card: ModelCard, *, error: Exception | None = None) -> None:
        super().__init__(card)
        self.sides: list[Side | None] = []
        self.closed = 0
        self.state: Health = Health("warm")
        self._error = error

    async def embed(self, job: EmbedJob) -> EmbedResult:
        self.sides.append(job.side)
        return await super().embed(job)

    def health(self) -> Health:
        return self.state

    def close(self) -> None:
        self.closed += 1
        if self._error is not None:
            raise self._error


def routing(*names: str, default: str | None = None, **options: Any) -> Routing:
    return Routing({name: [Step("Transformer", Path())] for name in names}, default, **options)


def routed(**changes: Any) -> tuple[RoutedBackend, Route, Route]:
    query = Route(fake_card(family="static", precision="fp32", max_seq_length=1000, vocab_size=9))
    other = {"family": "bert", "precision": "bf16", "max_seq_length": 128, "vocab_size": 50}
    document = Route(fake_card(**{**other, **changes}))
    rules = routing("query", "document", default="document", mappings={})
    return RoutedBackend(rules, {"document": document, "query": query}), query, document


def embed(backend: RoutedBackend, side: Side | None) -> None:
    asyncio.run(backend.embed(EmbedJob(items=["a"], side=side)))


def test_a_job_takes_the_route_of_its_side_or_the_default() -> None:
    backend, query, document = routed()
    for side in get_args(Side):
        embed(backend, side)
    embed(backend, None)
    assert (query.sides, document.sides) == (["query"], ["document", None])


def test_a_side_without_a_route_is_refused_with_those_that_exist() -> None:
    only = Route(fake_card())
    rules = routing("query", "passage", default=None, mappings={})
    backend = RoutedBackend(rules, {"query": only})
    with pytest.raises(InvalidRequest, match="no route for document, only query, passage") as one:
        embed(backend, "document")
    with pytest.raises(InvalidRequest, match=r"neither query nor document.* `input_type`") as none:
        embed(backend, None)
    assert one.value.field == none.value.field == "input_type"


def test_the_card_says_what_holds_for_every_route() -> None:
    card = routed()[0].card
    assert (card.family, card.precision) == ("bert+static", "bf16")
    assert (card.max_seq_length, card.vocab_size) == (128, 50)


def test_routes_of_one_family_name_it_once() -> None:
    assert routed(family="static")[0].card.family == "static"


def test_vectors_of_different_lengths_are_a_corrupt_model() -> None:
    size = fake_card().dimension
    with pytest.raises(CorruptModel, match=f"vectors of {size}, {size + 1} numbers"):
        routed(dimension=size + 1)


def test_the_worst_route_speaks_for_the_health_of_all() -> None:
    backend, query, document = routed()
    assert backend.health().state == "warm"
    document.state = Health("cold")
    query.state = Health("failed", "it died")
    assert backend.health() == Health("failed", "it died")


def test_every_route_is_closed_once_also_when_one_fails_to() -> None:
    backend, query, document = routed()
    asyncio.run(backend.aclose())
    assert (query.closed, document.closed) == (1, 1)
    failing, good = Route(fake_card(), error=OSError("stuck")), Route(fake_card())
    rules = routing("query", "document", mappings={})
    both = RoutedBackend(rules, {"query": failing, "document": good})
    with pytest.raises(OSError, match="stuck"):
        both.close()
    assert good.closed == 1


def test_tokens_are_those_of_the_route_for_neither_side() -> None:
    backend, _, document = routed()
    expected = asyncio.run(document.tokenize(["a text"]))
    assert asyncio.run(backend.tokenize(["a text"])) == expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (routing("query", "document", default="document", mappings={}), ["document", "query"]),
        (routing("query", "document", default="query", mappings={}), ["query", "document"]),
        (routing("a", "b", default="b", mappings={}), ["b"]),
        (routing("query", "x", mappings={}), ["query"]),
    ],
)
def test_only_routes_that_a_job_can_take_are_loaded(rules: Routing, expected: list[str]) -> None:
    assert reachable(rules) == expected


def test_a_model_that_no_text_can_reach_is_corrupt() -> None:
    with pytest.raises(CorruptModel, match=r"none of the model's routes .*: image"):
        reachable(routing("image", mappings={}))
