"""What may wait for computation: so many tokens, shared fairly, and nothing that is late."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from fledge.errors import DeadlineExceeded, Overloaded

Tenant: TypeAlias = str | None
"""Who asks, as the id of a key; all who have none count as one."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The limit on what waits.

    Attributes:
        max_tokens: of all together; one request alone always may wait.
    """

    max_tokens: int

    def check(
        self,
        tokens: int,
        tenant: Tenant,
        *,
        waiting: int,
        by_tenant: Callable[[], Mapping[Tenant, int]],
        tokens_per_s: float,
    ) -> None:
        """Refuse a request that finds no room.

        Args:
            tokens: about how many it has.
            tenant: who asks.
            waiting: tokens that wait.
            by_tenant: whose they are; only asked when the queue is full.
            tokens_per_s: how fast they are computed, for when to come back.

        Raises:
            Overloaded: there is no room.
        """
        if not waiting or waiting + tokens <= self.max_tokens:
            return
        if not self._has_room(tokens, tenant, waiting, by_tenant()):
            raise Overloaded(
                f"{waiting} tokens are waiting already, and at most {self.max_tokens} may "
                f"(max_queued_tokens); this request has about {tokens}: try again later",
                retry_after_s=max(1.0, waiting / tokens_per_s),
            )

    def _has_room(
        self, tokens: int, tenant: Tenant, waiting: int, by_tenant: Mapping[Tenant, int]
    ) -> bool:
        """Whether a tenant may come in although the queue is full: others may have filled it.

        It may up to its part of the queue, when each who waits has an equal one. Those who wait
        for more are not let in meanwhile, so the queue shrinks to its limit again; until then it
        is at most twice as long.
        """
        part = self.max_tokens / len({tenant, *by_tenant})
        is_within_part = by_tenant.get(tenant, 0) + tokens <= part
        return is_within_part and waiting + tokens <= 2 * self.max_tokens


class Tally:
    """Tokens by tenant. For any number of threads: a model may be asked from several event loops.

    Attributes:
        total: of all.
    """

    def __init__(self) -> None:
        self.total = 0
        self._by_tenant: dict[Tenant, int] = {}
        self._lock = threading.Lock()

    def by_tenant(self) -> dict[Tenant, int]:
        """Those of each tenant that has any, at this moment."""
        with self._lock:
            return self._by_tenant.copy()

    def add(self, tenant: Tenant, tokens: int) -> None:
        """Count tokens, or take them away; forget a tenant with none left."""
        with self._lock:
            self.total += tokens
            left = self._by_tenant.pop(tenant, 0) + tokens
            if left:
                self._by_tenant[tenant] = left

    @contextmanager
    def holding(self, tenant: Tenant, tokens: int) -> Iterator[None]:
        """Count tokens until the block ends."""
        self.add(tenant, tokens)
        try:
            yield
        finally:
            self.add(tenant, -tokens)


def check_deadline(deadline: float | None, entered: float) -> None:
    """Refuse what nobody waits for any more.

    Args:
        deadline: `time.monotonic()` seconds.
        entered: `time.perf_counter()` seconds.

    Raises:
        DeadlineExceeded: it has passed.
    """
    if deadline is not None and deadline < time.monotonic():
        raise DeadlineExceeded(f"gave up after {time.perf_counter() - entered:.1f} s")
