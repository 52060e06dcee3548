"""Limits of one instance: plain numbers, on its event loop, no server."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from fledge.accounts.limits import (
    PARTS,
    Books,
    Holder,
    Months,
    Releasing,
    Reservation,
    SpentTokens,
    Unlimited,
    fits,
    leaked,
    refusal,
    standing,
)
from fledge.types import Standing

MANY = 1024
"""Accounts that are kept without looking whether there is anything on them."""


@dataclass(eq=False, slots=True)
class _Account:
    """One holder's books.

    Attributes:
        at_ms: when `requests` and `tokens` were right, in parts.
        month: the one in which `spent` tokens were.
        tokens_per_minute: the limit by which tokens leaked last, as `requests_per_minute`.
    """

    at_ms: int
    requests: int = 0
    tokens: int = 0
    running: int = 0
    month: str = ""
    spent: int = 0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def turn_to(self, now_ms: int, holder: Holder) -> None:
        """Let leak what does by now."""
        elapsed_ms = now_ms - self.at_ms
        self.at_ms = now_ms
        self.requests_per_minute = holder.requests_per_minute
        self.tokens_per_minute = holder.tokens_per_minute
        self.requests = leaked(self.requests, self.requests_per_minute, elapsed_ms)
        self.tokens = leaked(self.tokens, self.tokens_per_minute, elapsed_ms)

    def is_blank(self, now_ms: int, month: str | None) -> bool:
        """Whether it is as good as a new one.

        Args:
            month: the one for which `spent` must be kept; None: it need not be.
        """
        elapsed_ms = now_ms - self.at_ms
        return not (
            self.running
            or leaked(self.requests, self.requests_per_minute, elapsed_ms)
            or leaked(self.tokens, self.tokens_per_minute, elapsed_ms)
            or (self.spent and self.month == month)
        )


class MemoryLimits:
    """Books in memory, forgotten when the process ends.

    Args:
        spent: what was counted for a holder this month; None: only what passes here counts.
        clock: seconds, of any beginning.
        wall: Unix time.
    """

    def __init__(
        self,
        *,
        spent: SpentTokens | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._spent = spent
        self._clock = clock
        self._months = Months(wall)
        self._accounts: dict[str, _Account] = {}

    def __len__(self) -> int:
        """Holders with something on their books, and some with nothing."""
        return len(self._accounts)

    async def reserve(self, holder: Holder, tokens: int) -> Reservation:
        """Let a request in, or raise. See `Limits.reserve`."""
        if not holder.is_limited:
            return Unlimited()
        now_ms = self.now_ms()
        account = self._account(holder.id, now_ms)
        account.turn_to(now_ms, holder)
        month_left_s = 0.0
        if holder.monthly_token_budget is not None:
            month_left_s = self._turn_month(account, holder.id)
        books = Books(
            account.requests, account.tokens, account.running, account.spent, month_left_s
        )
        if not fits(holder, tokens, books):
            raise refusal(holder, tokens, books)
        account.requests += PARTS
        account.tokens += tokens * PARTS
        account.spent += tokens
        account.running += 1
        return _MemoryReservation(self, account, holder, tokens)

    @property
    def are_shared(self) -> bool | None:
        """Never."""
        return None

    async def aclose(self) -> None:
        """Nothing to let go of."""

    def now_ms(self) -> int:
        """The clock, in whole milliseconds."""
        return int(self._clock() * 1000)

    def _turn_month(self, account: _Account, holder_id: str) -> float:
        """Begin a new month's account if there is one; the seconds that are left of it."""
        month, left_s = self._months.now()
        if account.month != month:
            account.month, account.spent = month, 0
        if self._spent is not None:
            # asked after the clock: the other way round, a month's last total could become the
            # next one's first
            account.spent = max(account.spent, self._spent(holder_id))
        return left_s

    def _account(self, holder_id: str, now_ms: int) -> _Account:
        account = self._accounts.get(holder_id)
        if account is None:
            self._look_at_two(now_ms)
            account = self._accounts[holder_id] = _Account(now_ms)
        return account

    def _look_at_two(self, now_ms: int) -> None:
        """Forget those of the oldest two that are blank, so that idle holders become fewer."""
        if len(self._accounts) < MANY:
            return
        month = self._months.now()[0] if self._spent is None else None
        for holder_id in [one for one, _ in zip(self._accounts, range(2), strict=False)]:
            account = self._accounts.pop(holder_id)
            if not account.is_blank(now_ms, month):
                self._accounts[holder_id] = account  # behind all others


class _MemoryReservation(Releasing):
    __slots__ = ("_account", "_actual", "_estimate", "_holder", "_is_open", "_limits", "_month")

    def __init__(
        self, limits: MemoryLimits, account: _Account, holder: Holder, estimate: int
    ) -> None:
        self._limits = limits
        self._account = account
        self._holder = holder
        self._month = account.month
        self._estimate = estimate
        self._actual: int | None = None
        self._is_open = True

    @property
    def standing(self) -> Standing:
        account = self._account
        tokens = account.tokens
        if self._is_open and self._actual is not None:
            tokens = max(0, tokens + (self._actual - self._estimate) * PARTS)
        return standing(self._holder, Books(account.requests, tokens, 0, 0, 0.0))

    def settle(self, tokens: int) -> None:
        self._actual = tokens

    async def release(self) -> None:
        if not self._is_open:
            return
        account, tokens = self._account, self._actual or 0
        account.turn_to(self._limits.now_ms(), self._holder)
        account.tokens = max(0, account.tokens + (tokens - self._estimate) * PARTS)
        if account.month == self._month:
            account.spent = max(0, account.spent + tokens - self._estimate)
        account.running -= 1
        self._is_open = False
