"""Accounts in a database, as a running server has them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from fledge.accounts.accounts import SPENDING_EVERY_S, Accounts, Spent
from fledge.accounts.callers import Caller
from fledge.accounts.database import Database
from fledge.accounts.key_store import KeyStore
from fledge.accounts.keyring import Keyring
from fledge.accounts.keys import Key
from fledge.accounts.limits import Limits, Months, Reservation, Unlimited, money_refusal
from fledge.accounts.meter import Meter
from fledge.accounts.ticker import Ticker
from fledge.accounts.usage import UsageRecord, month_of
from fledge.accounts.usage_query import UsageQuery
from fledge.accounts.usage_report import usage_report
from fledge.errors import DatabaseUnavailable
from fledge.telemetry.states import AccountsState

T = TypeVar("T")

_UNLIMITED = Unlimited()
_STOP_S = 5.0


class StoredAccounts(Accounts):
    """Keys, limits and usage of one instance.

    Args:
        database: where keys and usage are.
        keyring: the keys, in memory; started.
        meter: what counts; started.
        limits: makes the books of limits, given what was counted for a key this month.

    Attributes:
        keyring: likewise.
        meter: likewise.
    """

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        meter: Meter,
        limits: Callable[[Callable[[str], int]], Limits],
    ) -> None:
        self.keyring = keyring
        self.meter = meter
        self._database = database
        self._store = KeyStore(database)
        self._months = Months(meter.now)
        self._spending: Ticker | None = None
        self._limits = limits(lambda key_id: meter.month_to_date(key_id).tokens)

    @property
    def has_keys(self) -> bool:
        """Whether a key was ever made: from then on, requests need one."""
        return self.keyring.has_any

    def find(self, secret: str) -> Key | None:
        """The key that a secret opens. See `Accounts.find`."""
        return self.keyring.find(secret)

    def key_of(self, key_id: str) -> Key | None:
        """The living key of an id. See `Accounts.key_of`."""
        return self.keyring.get(key_id)

    async def reserve(self, caller: Caller, tokens: int) -> Reservation:
        """Let a request in. See `Accounts.reserve`."""
        holder = caller.holder()
        if holder is None:
            return _UNLIMITED
        self._check_money(caller)
        return await self._limits.reserve(holder, tokens)

    def _check_money(self, caller: Caller) -> None:
        key = caller.key
        if key is None or key.monthly_budget_nanos is None:
            return
        spent = self.meter.month_to_date(key.id).cost_nanos
        _, month_left_s = self._months.now()
        if refusal := money_refusal(key.monthly_budget_nanos, spent, month_left_s):
            raise refusal

    def count(self, record: UsageRecord) -> None:
        """Count what one request used."""
        self.meter.count(record)

    async def with_keys(self, do: Callable[[KeyStore], T]) -> T:
        """Look at the keys, or change them. See `Accounts.with_keys`."""

        def ask() -> T:
            result = do(self._store)
            # It is done: an error now would hide a secret that nobody can show again.
            with suppress(DatabaseUnavailable):
                self.keyring.refresh()
            return result

        return await asyncio.to_thread(ask)

    async def usage(self, query: UsageQuery) -> list[dict[str, Any]]:
        """What was used, this instance's last second included. See `Accounts.usage`."""

        def ask() -> list[dict[str, Any]]:
            self.meter.flush()
            return usage_report(self._database, query)

        return await asyncio.to_thread(ask)

    def state(self) -> AccountsState:
        """How keys, usage and limits are kept up with. See `Accounts.state`."""
        meter = self.meter.status()
        return AccountsState(
            keys=len(self.keyring),
            keys_age_s=self.keyring.age_s(),
            sums_waiting=meter.waiting,
            unwritten_s=meter.written_s,
            are_limits_shared=self._limits.are_shared,
        )

    def spent_this_month(self) -> dict[str, int]:
        """What each deployment has cost this calendar month. Blocks."""
        today = datetime.fromtimestamp(self.meter.now(), UTC).date()
        query = UsageQuery(since=month_of(today), until=today, group_by=("deployment",))
        rows = usage_report(self._database, query)
        return {row["deployment"]: row["cost_nanos"] for row in rows}

    def follow_spending(
        self, learn: Callable[[Spent], None], *, every_s: float = SPENDING_EVERY_S
    ) -> None:
        """Tell of all instances' spending. See `Accounts.follow_spending`."""
        self._spending = Ticker("fledge-spending", lambda: learn(self.spent_this_month), every_s)
        self._spending.start()

    async def aclose(self) -> None:
        """Write what was counted, and let go of the database."""
        try:
            await self._limits.aclose()
        finally:
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """The same where no loop runs."""
        if self._spending is not None:
            self._spending.stop(_STOP_S)
        try:
            self.meter.close()
        finally:
            self.keyring.close()
            self._database.close()
