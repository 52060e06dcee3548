"""Limits that instances share, in Redis. Needs the extra `redis`.

Each request asks once and tells once what it was. While Redis is down, or slower than the patience
that requests have, they are held against the limits of this instance alone, or refused: whoever
sets it up decides.

What was reserved belongs to a lease that this instance renews while the request is running. When
the instance dies, the lease lapses, and what it held is free again. A server that was restarted
without its data begins with empty books; what is running takes its places again, and a month's
budget goes on from what the meter has counted.
"""

import asyncio
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from contextvars import Context
from itertools import count
from typing import Any

from fledge.accounts.limits import (
    PARTS,
    Books,
    Holder,
    Limits,
    Months,
    Releasing,
    Reservation,
    SpentTokens,
    Unlimited,
    refusal,
    standing,
)
from fledge.accounts.limits_scripts import RENEW, RESERVE, SETTLE
from fledge.accounts.redis_line import FIRST_REST_S, PATIENCE_S, Call, Line, Script
from fledge.errors import LimitsUnavailable
from fledge.types import Standing

PREFIX = "fledge:limits:1:"
"""Before every key. The number is that of the form of the books."""

LEASE_S = 15.0
"""How long the places of an instance that died stay taken."""

PATIENCE_WITHOUT_FALLBACK_S = 0.5
"""How long a request waits for Redis where it would be refused without: a busy machine, which holds
up everybody for a moment, is no reason to send callers away."""

MOST_OWED = 10_000
"""Reservations whose last word Redis may not have heard."""

MOST = 10**11
"""Per minute; beyond it Lua's numbers are not exact, and nothing is limited."""


class RedisLimits:
    """Books in Redis.

    Args:
        url: `redis://`, `rediss://` or `unix://`. Not a cluster.
        fallback: what holds while Redis does not answer; None: every request is refused then.
        spent: what was counted for a holder this month; None: only what passes here counts.
        patience_s: how long a request waits for Redis; None: `PATIENCE_S`, or without a fallback
            `PATIENCE_WITHOUT_FALLBACK_S`.
        lease_s: as `LEASE_S`.

    Raises:
        SettingsError: the URL is none of Redis.
    """

    def __init__(
        self,
        url: str,
        *,
        fallback: Limits | None,
        spent: SpentTokens | None = None,
        patience_s: float | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        if patience_s is None:
            patience_s = PATIENCE_WITHOUT_FALLBACK_S if fallback is None else PATIENCE_S
        self._fallback = fallback
        self._spent = spent
        self._lease_s = lease_s
        self._months = Months()
        self._reserve, self._settle, self._renew = map(Script, (RESERVE, SETTLE, RENEW))
        self._instance = secrets.token_hex(6)
        self._numbers = count()
        self._running: dict[str, _RedisReservation] = {}
        self._owed: deque[tuple[Call, float]] = deque(maxlen=MOST_OWED)
        self._renewing: asyncio.Task[None] | None = None
        self._line = Line(
            url,
            "the limits of keys",
            patience_s=patience_s,
            on_lost=self._owe,
            on_return=self._catch_up,
        )

    @property
    def are_shared(self) -> bool | None:
        """Whether Redis answers, as far as it was asked. See `Limits.are_shared`."""
        return not self._line.is_resting

    async def reserve(self, holder: Holder, tokens: int) -> Reservation:
        """Let a request in, or raise. See `Limits.reserve`."""
        if not holder.is_limited:
            return Unlimited()
        if not self._line.is_clear:
            return await self._without_redis(holder, tokens)
        reservation = self._new_reservation(holder, tokens)
        arguments = self._question(reservation)
        try:
            answer = await self._line.ask(self._reserve, _keys(holder), arguments)
        except asyncio.CancelledError:
            self.tell(reservation, 0)  # Redis may have heard us
            raise
        if answer is None:
            self.tell(reservation, 0)  # likewise
            return await self._without_redis(holder, tokens)
        may_pass, requests, used, running, spent = map(int, answer)
        books = Books(requests, used, running, spent, self._months.now()[1])
        if not may_pass:
            raise refusal(holder, tokens, books)
        self._admit(reservation, books)
        return reservation

    async def aclose(self) -> None:
        """Tell what is left to be told, if Redis is there, and disconnect. Safe to call twice."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
            self._renewing = None
        await self._line.aclose()
        if self._fallback is not None:
            await self._fallback.aclose()

    async def _without_redis(self, holder: Holder, tokens: int) -> Reservation:
        if self._fallback is None:
            raise LimitsUnavailable(
                "the limits of this key cannot be looked up now: try again later",
                retry_after_s=FIRST_REST_S,
            )
        return await self._fallback.reserve(holder, tokens)

    def _new_reservation(self, holder: Holder, tokens: int) -> "_RedisReservation":
        name = f"{self._instance}{next(self._numbers):x}"
        label = f"{name}:{tokens}:{self._months.now()[0]}"
        return _RedisReservation(self, holder, tokens, label)

    def _question(self, reservation: "_RedisReservation") -> tuple[Any, ...]:
        holder, budget, counted = reservation.holder, -1, -1
        if holder.monthly_token_budget is not None:
            # counted after the month was named: the other way round, a month's last total could
            # become the next one's first
            budget = holder.monthly_token_budget
            counted = 0 if self._spent is None else self._spent(holder.id)
        return (
            *_arguments(reservation, counted),
            _limit(holder.concurrent_requests),
            budget,
            self._lease_ms,
        )

    @property
    def _lease_ms(self) -> int:
        return round(self._lease_s * 1000)

    def _admit(self, reservation: "_RedisReservation", books: Books) -> None:
        reservation.books = books._replace(
            requests=books.requests + PARTS, tokens=books.tokens + reservation.estimate * PARTS
        )
        self._running[reservation.label] = reservation
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._keep_renewing(), context=Context())

    async def finish(self, reservation: "_RedisReservation", tokens: int) -> None:
        """Say what a reservation was, and wait a little until that was heard. Never fails."""
        call = self.tell(reservation, tokens)
        if self._line.is_clear:
            await self._line.wait(call)

    def tell(self, reservation: "_RedisReservation", tokens: int) -> Call:
        """Say what a reservation was, whoever waits for that."""
        self._running.pop(reservation.label, None)
        counted = -1 if reservation.holder.monthly_token_budget is None else 0
        arguments = (*_arguments(reservation, counted), tokens, 0)
        return self._line.send(self._settle, _keys(reservation.holder), arguments, must_go=True)

    def _owe(self, call: Call) -> None:
        """Keep a last word that may not have been heard, for as long as it matters."""
        self._owed.append((call, time.monotonic() + self._lease_s))

    def _catch_up(self) -> None:
        """Redis is back: say what it has missed, and take the places of what is running."""
        owed, now_s = tuple(self._owed), time.monotonic()
        self._owed.clear()
        for call, until_s in owed:
            if now_s < until_s:
                again = (*call.arguments[:-1], 1)
                self._line.send(call.script, call.keys, again, must_go=True)
        self._renew_all(self._running.values())

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 6)
            if self._owed and self._line.is_clear:
                self._catch_up()
            before_s = time.monotonic() - self._lease_s / 3
            self._renew_all(one for one in self._running.values() if one.renewed_s <= before_s)

    def _renew_all(self, reservations: "Iterable[_RedisReservation]") -> None:
        by_key: dict[str, list[str]] = defaultdict(list)
        for one in reservations:
            by_key[_keys(one.holder)[1]].append(one.label)
            one.renewed_s = time.monotonic()
        for key, labels in by_key.items():
            self._line.send(self._renew, [key], [self._lease_ms, *labels], must_go=False)


class _RedisReservation(Releasing):
    """See `Reservation`.

    Attributes:
        label: how Redis knows it.
        books: after it was let in.
        renewed_s: when its lease was.
    """

    __slots__ = (
        "_actual", "_is_open", "_limits", "books", "estimate", "holder", "label", "renewed_s"
    )  # fmt: skip

    def __init__(self, limits: RedisLimits, holder: Holder, estimate: int, label: str) -> None:
        self._limits = limits
        self._actual: int | None = None
        self._is_open = True
        self.holder = holder
        self.estimate = estimate
        self.label = label
        self.books = Books(0, 0, 0, 0, 0.0)
        self.renewed_s = time.monotonic()

    @property
    def standing(self) -> Standing:
        more = 0 if self._actual is None else self._actual - self.estimate
        tokens = max(0, self.books.tokens + more * PARTS)
        return standing(self.holder, self.books._replace(tokens=tokens))

    def settle(self, tokens: int) -> None:
        self._actual = tokens

    async def release(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._limits.finish(self, self._actual or 0)


def _keys(holder: Holder) -> tuple[str, str]:
    return f"{PREFIX}{holder.id}:books", f"{PREFIX}{holder.id}:running"


def _limit(limit: int | None) -> int:
    return -1 if limit is None or limit > MOST else limit


def _arguments(reservation: _RedisReservation, counted: int) -> tuple[Any, ...]:
    """What both scripts are told."""
    holder = reservation.holder
    return (
        reservation.label,
        reservation.estimate,
        _limit(holder.requests_per_minute),
        _limit(holder.tokens_per_minute),
        reservation.label.rpartition(":")[2],
        counted,
    )
