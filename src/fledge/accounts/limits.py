"""What a key may ask of this server: the words, and the arithmetic that every store of them shares.

Requests and tokens per minute are limited by the generic cell rate algorithm, in the form that
ITU-T I.371 (annex A) calls the continuous-state leaky bucket: what was used leaks away at the pace
of the limit, and a request passes if it fits on top of what is left. A key that has rested may use
a whole minute's limit at once, and in any t seconds at most limit x (1 + t / 60). Chosen over
windows that begin on the minute, where everybody who was refused comes back in the same second,
and over a log of the last minute, which grows with the requests: this is one number, exact in whole
milliseconds, and nothing where nothing was used.

Tokens are reserved by an estimate before a request is computed, and corrected when it is over: what
was too much is given back, what was too little is charged, also beyond the limit, and then holds
later requests back. A month's budget is kept alike, without leaking; it is never taken to be less
than what the meter has counted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self, TypeAlias

from fledge.errors import BudgetExceeded, ConcurrencyExceeded, LimitExceeded
from fledge.money import shown_money
from fledge.types import Room, Standing

WINDOW_S = 60
PARTS = 60_000
"""Of one request or token: as many as a minute has milliseconds, so that `limit` of them leak away
in each, and everything is counted in whole numbers."""

CONCURRENCY_RETRY_S = 1.0
"""A guess: nobody knows when one of the running requests will end."""

SpentTokens: TypeAlias = Callable[[str], int]
"""From a holder's id to the tokens that were counted for it in this calendar month, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Whoever limits are held against. None does not limit; 0 lets nothing pass.

    Attributes:
        id: of the key.
    """

    id: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    monthly_token_budget: int | None = None

    @property
    def is_limited(self) -> bool:
        """Whether there is anything to look at."""
        return not (
            self.requests_per_minute is None
            and self.tokens_per_minute is None
            and self.concurrent_requests is None
            and self.monthly_token_budget is None
        )


class Books(NamedTuple):
    """What is on a holder's books at one moment.

    Attributes:
        requests: used, in `PARTS`, after leaking.
        tokens: likewise.
        running: requests that are not over.
        spent: tokens of this month, reserved ones included.
        month_left_s: seconds until a new month begins.
    """

    requests: int
    tokens: int
    running: int
    spent: int
    month_left_s: float


class Reservation(Protocol):
    """A request that was let in: a place among the running ones, and tokens set aside.

    As a context manager it is released at the end of the block, however that comes. Unless it was
    settled, all its tokens are given back then; the request itself stays counted.
    """

    @property
    def standing(self) -> Standing:
        """How the holder stands, this request included: by its estimate until it is settled."""
        ...

    def settle(self, tokens: int) -> None:
        """Say how many tokens it was. Takes effect at the release; the last word counts."""
        ...

    async def release(self) -> None:
        """Give back the place and correct the tokens. Never fails; safe to call twice."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Limits(Protocol):
    """Where the books are kept. For use from one event loop."""

    @property
    def are_shared(self) -> bool | None:
        """Whether the books are those of all instances now, or have not been seen to be others;
        None: they never are."""
        ...

    async def reserve(self, holder: Holder, tokens: int) -> Reservation:
        """Let a request in. Who is refused is not charged.

        Args:
            tokens: an estimate; better too many than too few.

        Raises:
            LimitExceeded: a limit is used up; of several, the one that takes longest to recover.
            LimitsUnavailable: the books cannot be reached, and nothing passes without them.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections and tasks. Safe to call twice."""
        ...


class Releasing:
    """What makes a reservation a context manager; to inherit from."""

    __slots__ = ()

    async def release(self) -> None:
        """Give back what was reserved."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.release()


class Unlimited(Releasing):
    """The reservation of a holder without limits."""

    __slots__ = ()
    standing = Standing()

    def settle(self, tokens: int) -> None:
        """Nothing is counted."""


class Months:
    """The calendar month, UTC, of a wall clock, quickly: the last one is remembered."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._name = ""
        self._begins_s = self._ends_s = 0.0

    def now(self) -> tuple[str, float]:
        """The month's name, as 2026-11, and the seconds that are left of it."""
        now_s = self._wall()
        if not self._begins_s <= now_s < self._ends_s:
            day = datetime.fromtimestamp(now_s, UTC)
            begins = datetime(day.year, day.month, 1, tzinfo=UTC)
            ends = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
            self._name = f"{begins:%Y-%m}"
            self._begins_s, self._ends_s = begins.timestamp(), ends.timestamp()
        return self._name, self._ends_s - now_s


def leaked(used: int, limit: int | None, elapsed_ms: int) -> int:
    """What is left of `used` parts after some time; without a limit nothing is kept."""
    if limit is None:
        return 0
    left = used - limit * elapsed_ms
    return left if left > 0 else 0


def fits(holder: Holder, tokens: int, books: Books) -> bool:
    """Whether a request of so many tokens may pass."""
    per_minute, tokens_per_minute = holder.requests_per_minute, holder.tokens_per_minute
    concurrent, budget = holder.concurrent_requests, holder.monthly_token_budget
    return (
        (per_minute is None or books.requests + PARTS <= per_minute * PARTS)
        and (
            tokens_per_minute is None or books.tokens + tokens * PARTS <= tokens_per_minute * PARTS
        )
        and (concurrent is None or books.running < concurrent)
        and (budget is None or books.spent + tokens <= budget)
    )


def standing(holder: Holder, books: Books) -> Standing:
    """The books as numbers for headers."""
    return Standing(
        _room(holder.requests_per_minute, books.requests),
        _room(holder.tokens_per_minute, books.tokens),
    )


def _room(limit: int | None, used: int) -> Room | None:
    if limit is None:
        return None
    remaining = (limit * PARTS - used) // PARTS
    return Room(limit, remaining if remaining > 0 else 0, _wait_ms(used, limit) / 1000)


def _wait_ms(parts: int, limit: int) -> int:
    """Milliseconds until so many parts have leaked away."""
    return -(-parts // limit) if limit and parts > 0 else 0


def refusal(holder: Holder, tokens: int, books: Books) -> LimitExceeded:
    """Why a request that does not fit may not pass: what will hold it back for longest."""
    candidates = (
        _rate_refusal("requests", holder.requests_per_minute, 1, books.requests),
        _rate_refusal("tokens", holder.tokens_per_minute, tokens, books.tokens),
        _concurrency_refusal(holder.concurrent_requests, books),
        _budget_refusal(holder.monthly_token_budget, tokens, books),
    )
    error = max(filter(None, candidates), key=_patience)
    error.standing = standing(holder, books)
    return error


def _patience(error: LimitExceeded) -> float:
    return float("inf") if error.retry_after_s is None else error.retry_after_s


def _rate_refusal(
    name: Literal["requests", "tokens"], limit: int | None, amount: int, used: int
) -> LimitExceeded | None:
    if limit is None or used + amount * PARTS <= limit * PARTS:
        return None
    left = max(0, limit * PARTS - used) // PARTS
    retry_after_s: float | None = None
    if not limit:
        what = "none may pass"
    elif amount > limit:
        what = f"this request has about {amount} tokens: send it in parts"
    else:
        retry_after_s = _wait_ms(used + (amount - limit) * PARTS, limit) / 1000
        about = f"this request has about {amount}: " if name == "tokens" else ""
        what = f"{left} are left now; {about}try again in {retry_after_s:.1f} s"
    return LimitExceeded(
        f"this key may use {limit} {name} a minute; {what}",
        limit=name,
        allowed=limit,
        used=-(-used // PARTS),
        retry_after_s=retry_after_s,
    )


def _concurrency_refusal(limit: int | None, books: Books) -> LimitExceeded | None:
    if limit is None or books.running < limit:
        return None
    return ConcurrencyExceeded(
        f"this key may have {limit} requests running at the same time, and has {books.running}: "
        "try again when one of them is over",
        limit="concurrency",
        allowed=limit,
        used=books.running,
        retry_after_s=CONCURRENCY_RETRY_S if limit else None,
    )


def _span(seconds: float) -> str:
    """A time of up to a month, for people."""
    for name, unit_s in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds:.0f} s"


def _budget_refusal(budget: int | None, tokens: int, books: Books) -> LimitExceeded | None:
    if budget is None or books.spent + tokens <= budget:
        return None
    when = f"; a new month begins in {_span(books.month_left_s)}" if tokens <= budget else ""
    return BudgetExceeded(
        f"this key may use {budget} tokens a calendar month (UTC), and {books.spent} are used or "
        f"reserved; this request has about {tokens}{when}",
        limit="budget",
        allowed=budget,
        used=books.spent,
        retry_after_s=books.month_left_s if tokens <= budget else None,
    )


def money_refusal(
    budget_nanos: int, spent_nanos: int, month_left_s: float
) -> BudgetExceeded | None:
    """Why a key may not spend more money this month; None: it may.

    Nothing is reserved, since nobody knows what a request will cost: it depends on who answers, and
    on what the cache has. The requests that run when the last of a budget is spent still end.

    Args:
        budget_nanos: what it may spend in a calendar month, in billionths.
        spent_nanos: what it has.
        month_left_s: seconds until a new month begins.
    """
    if spent_nanos < budget_nanos:
        return None
    return BudgetExceeded(
        f"this key may spend {shown_money(budget_nanos)} a calendar month (UTC), and "
        f"{shown_money(spent_nanos)} are spent; a new month begins in {_span(month_left_s)}",
        limit="budget",
        allowed=budget_nanos,
        used=spent_nanos,
        retry_after_s=month_left_s,
    )
