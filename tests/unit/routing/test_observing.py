"""What is told of requests to providers."""

import asyncio

import pytest

from fledge.errors import (
    CannotCarry,
    ComputeError,
    InvalidRequest,
    ProviderDenied,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from fledge.routing.observing import UNOBSERVED, Observed, ProviderOutcome
from fledge.testing import FakeBackend
from fledge.types import EmbedJob, EmbedResult
from tests.unit.routing.observers import Seen

pytestmark = pytest.mark.anyio

JOB = EmbedJob(items=["a b"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Failing(FakeBackend):
    """A provider that fails every request, after two seconds of its clock."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.time_s = 0.0
        self.begun = asyncio.Event()

    def clock(self) -> float:
        return self.time_s

    async def embed(self, job: EmbedJob) -> EmbedResult:
        self.begun.set()
        self.time_s += 2
        if self.error is None:
            await asyncio.Event().wait()
            raise AssertionError
        raise self.error


async def test_an_answer_is_told_with_its_time_and_passed_on() -> None:
    seen, backend, times = Seen(), FakeBackend(), iter([5.0, 5.25])
    result = await Observed(backend, "nebius", seen, lambda: next(times)).embed(JOB)
    assert seen.requests == [("nebius", "ok", 0.25)]
    assert result.token_counts == (await FakeBackend().embed(JOB)).token_counts


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ProviderUnavailable("x", provider="p", status=503), "unavailable"),
        (ProviderError("x", provider="p"), "unavailable"),
        (ProviderRefused("x", provider="p", status=400), "refused"),
        (InvalidRequest("x"), "refused"),
        (ProviderDenied("x", provider="p", status=401), "denied"),
        (CannotCarry("x"), "cannot_carry"),
        (ComputeError("x"), "unavailable"),
        (ConnectionError("x"), "unavailable"),
    ],
)
async def test_a_failure_is_told_as_what_it_means(
    error: Exception, outcome: ProviderOutcome
) -> None:
    seen, backend = Seen(), Failing(error)
    with pytest.raises(type(error)):
        await Observed(backend, "nebius", seen, backend.clock).embed(JOB)
    assert seen.requests == [("nebius", outcome, 2.0)]


async def test_a_request_that_nobody_waits_for_is_told_as_abandoned() -> None:
    seen, backend = Seen(), Failing()
    task = asyncio.create_task(Observed(backend, "nebius", seen, backend.clock).embed(JOB))
    await backend.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen.requests == [("nebius", "abandoned", 2.0)]


async def test_the_rest_is_the_backend_s_own() -> None:
    backend = FakeBackend()
    observed = Observed(backend, "nebius", UNOBSERVED)
    assert observed.card is backend.card
    assert observed.health() == backend.health()
    assert await observed.tokenize(["a b"]) == await backend.tokenize(["a b"])
    await observed.embed(JOB)
    await observed.aclose()
