"""What providers show of their work, in numbers that may become metrics: no texts, no keys."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol, TypeAlias

from fledge.errors import CannotCarry, InvalidRequest, ProviderDenied, ProviderRefused
from fledge.types import Backend, EmbedJob, EmbedResult, Health, ModelCard, Tokens

ProviderOutcome: TypeAlias = Literal[
    "ok", "unavailable", "refused", "denied", "cannot_carry", "abandoned"
]
"""`abandoned`: nobody waited for it any longer, since the caller left, its time was over, or
another deployment was faster."""


class ProviderObserver(Protocol):
    """Is told what becomes of every request to a provider, probes included."""

    def on_request(self, provider: str, outcome: ProviderOutcome, seconds: float) -> None:
        """A request is over.

        Args:
            provider: its name in the settings.
            outcome: what became of it.
            seconds: that it took.
        """
        ...

    def on_charge(self, provider: str, tokens: int, nanos: int) -> None:
        """An answer of a provider was charged.

        Args:
            provider: likewise.
            tokens: that it has computed; what came out of the cache is not among them.
            nanos: what they cost, in billionths.
        """
        ...


class Unobserved:
    """An observer that makes nothing of it."""

    def on_request(self, provider: str, outcome: ProviderOutcome, seconds: float) -> None:
        """Nothing."""

    def on_charge(self, provider: str, tokens: int, nanos: int) -> None:
        """Nothing."""


UNOBSERVED: Final = Unobserved()


class Observed:
    """A provider's backend that tells an observer what becomes of its requests."""

    def __init__(
        self,
        backend: Backend,
        provider: str,
        observer: ProviderObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._provider = provider
        self._observer = observer
        self._clock = clock

    @property
    def card(self) -> ModelCard:
        """The backend's."""
        return self._backend.card

    async def embed(self, job: EmbedJob) -> EmbedResult:
        """As the backend does."""
        began_s = self._clock()
        outcome: ProviderOutcome = "unavailable"
        try:
            result = await self._backend.embed(job)
            outcome = "ok"
        except BaseException as error:
            outcome = _outcome_of(error)
            raise
        finally:
            self._observer.on_request(self._provider, outcome, self._clock() - began_s)
        return result

    async def tokenize(self, texts: Sequence[str], *, prompt: str | None = None) -> list[Tokens]:
        """As the backend does."""
        return await self._backend.tokenize(texts, prompt=prompt)

    def health(self) -> Health:
        """The backend's own."""
        return self._backend.health()

    async def aclose(self) -> None:
        """As the backend does."""
        await self._backend.aclose()


def _outcome_of(error: BaseException) -> ProviderOutcome:
    match error:
        case asyncio.CancelledError():
            return "abandoned"
        case CannotCarry():
            return "cannot_carry"
        case ProviderDenied():
            return "denied"
        case ProviderRefused() | InvalidRequest():
            return "refused"
    return "unavailable"
