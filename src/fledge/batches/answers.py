"""What a batch needs of whoever answers requests: it knows neither a dialect nor the service."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

from fledge.accounts.callers import Caller
from fledge.batches.results import Reply

Rendering: TypeAlias = Callable[[], Awaitable[Reply]]
"""Makes the reply of what was computed and charged already."""


class Work(Protocol):
    """One request, understood."""

    @property
    def tokens(self) -> int:
        """About how many it has; better too many than too few."""
        ...

    @property
    def inputs(self) -> int:
        """How many vectors it asks for."""
        ...

    async def compute(self, caller: Caller) -> Rendering:
        """Compute it on an account, behind everything that somebody waits for.

        Raises:
            FledgeError: as it would be answered over HTTP.
        """
        ...


class Answerer(Protocol):
    """Answers the requests of an endpoint."""

    def parse(self, body: dict[str, Any]) -> Work:
        """A body as work.

        Raises:
            FledgeError: it cannot be answered.
        """
        ...

    def failure(self, error: Exception) -> Reply:
        """What HTTP would have answered for an error."""
        ...
