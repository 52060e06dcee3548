"""What requests use, added up in memory: per day, key, model, deployment and bill-to.

Nothing here blocks or knows a database. What is kept grows with the number of different sums, not
with the number of requests, and no further than a limit.
"""

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple, TypeAlias

KEYLESS = "keyless"
"""The key id of requests that carry no key: no key has it."""

OTHER = "other"
"""Stands for names that are too many, or too odd, to be kept apart."""

MOST_SUMS = 100_000
"""Beyond so many different sums, models and deployments of a key are no longer told apart."""

_MOST_BILL_TOS = 100
_BILL_TO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_MOST_COMPUTE_S = 1e9


class UsageRecord(NamedTuple):
    """What one request used. A tuple, since one is made for every request.

    Attributes:
        key_id: whose account; `KEYLESS` without a key.
        model: the public id; empty for a request that failed before it had one.
        deployment: where it ran, such as `local`; empty when it ran nowhere.
        requests: how many requests this stands for.
        texts: inputs that were answered.
        tokens: of those inputs, prompt and special tokens included, on cache hits too.
        cache_hits: inputs among `texts` that were not computed.
        errors: 1 for a request that failed.
        compute_s: seconds of computation, this request's part of shared batches.
        cost_nanos: what it costs, in billionths of the operator's currency.
        bill_to: the organisation that the caller asked to be billed, as it was sent.
    """

    key_id: str
    model: str
    deployment: str = "local"
    requests: int = 1
    texts: int = 0
    tokens: int = 0
    cache_hits: int = 0
    errors: int = 0
    compute_s: float = 0.0
    cost_nanos: int = 0
    bill_to: str = ""


SumKey: TypeAlias = tuple[date, str, str, str, str]
"""Day, key id, model, deployment, bill-to: what a sum is about."""


@dataclass(slots=True)
class Sum:
    """Everything that was used under one `SumKey`; the fields are those of `UsageRecord`."""

    requests: int = 0
    texts: int = 0
    tokens: int = 0
    cache_hits: int = 0
    errors: int = 0
    compute_s: float = 0.0
    cost_nanos: int = 0

    def columns(self) -> dict[str, int]:
        """As the database keeps it: whole numbers, which add up without rounding."""
        return {
            "requests": self.requests,
            "texts": self.texts,
            "tokens": self.tokens,
            "cache_hits": self.cache_hits,
            "errors": self.errors,
            "compute_us": round(self.compute_s * 1e6),
            "cost_nanos": self.cost_nanos,
        }


class Tally:
    """Sums of usage that are not in the database yet. Not safe for several threads at once."""

    def __init__(self) -> None:
        self.sums: dict[SumKey, Sum] = {}

    def add(self, day: date, record: UsageRecord, bill_to: str) -> None:
        """Count one request; `bill_to` is the record's, made harmless."""
        key = (day, record.key_id, record.model, record.deployment, bill_to)
        found = self.sums.get(key)
        if found is None:
            found = self._new_sum(key)
        found.requests += record.requests
        found.texts += record.texts
        found.tokens += record.tokens
        found.cache_hits += record.cache_hits
        found.errors += record.errors
        found.cost_nanos += record.cost_nanos
        # Also false for NaN, which would spoil the sum for ever.
        if 0 < record.compute_s < _MOST_COMPUTE_S:
            found.compute_s += record.compute_s

    def _new_sum(self, key: SumKey) -> Sum:
        if len(self.sums) >= MOST_SUMS:
            day, key_id, *_ = key
            return self.sums.setdefault((day, key_id, OTHER, OTHER, ""), Sum())
        self.sums[key] = found = Sum()
        return found


class Calendar:
    """The UTC day of a Unix time, quickly: the last one is remembered.

    Attributes:
        day: the day that `turn_to` found.
        month: the first day of its month.
    """

    def __init__(self) -> None:
        self.day = self.month = date.min
        self._begins = self._ends = math.inf

    def turn_to(self, now: float) -> date:
        """The day of a moment."""
        if not self._begins <= now < self._ends:
            begin = datetime.fromtimestamp(now, UTC).replace(
                hour=0, minute=0, second=0, microsecond=0
            )
            self._begins = begin.timestamp()
            self._ends = (begin + timedelta(days=1)).timestamp()
            self.day = begin.date()
            self.month = month_of(self.day)
        return self.day


@dataclass(frozen=True, slots=True)
class MonthSum:
    """What one key used in one month, as far as budgets limit it."""

    tokens: int
    cost_nanos: int


@dataclass(slots=True)
class _Account:
    """One key's month: what the database has, and what was counted here but is not known there."""

    stored_tokens: int = 0
    stored_cost_nanos: int = 0
    own_tokens: int = 0
    own_cost_nanos: int = 0


class MonthToDate:
    """What each key has used of one month. Not safe for several threads at once.

    Attributes:
        first: the month's first day.
        since_ms: from when on to ask the database what has changed; 0: everything.
    """

    def __init__(self, first: date) -> None:
        self.first = first
        self.since_ms = 0
        self._accounts: dict[str, _Account] = {}

    def total(self, key_id: str) -> MonthSum:
        """All of it, from every instance."""
        account = self._accounts.get(key_id)
        if account is None:
            return MonthSum(0, 0)
        return MonthSum(
            account.stored_tokens + account.own_tokens,
            account.stored_cost_nanos + account.own_cost_nanos,
        )

    def count(self, key_id: str, tokens: int, cost_nanos: int) -> None:
        """Used here, just now."""
        account = self._accounts.get(key_id)
        if account is None:
            account = self._accounts[key_id] = _Account()
        account.own_tokens += tokens
        account.own_cost_nanos += cost_nanos

    def settle(self, key_id: str, written: MonthSum) -> None:
        """What was counted here is in the database now."""
        account = self._accounts.setdefault(key_id, _Account())
        account.stored_tokens += written.tokens
        account.stored_cost_nanos += written.cost_nanos
        # Less was counted in this object where the clock went back over the end of a month.
        account.own_tokens = max(0, account.own_tokens - written.tokens)
        account.own_cost_nanos = max(0, account.own_cost_nanos - written.cost_nanos)

    def learn(self, key_id: str, stored: MonthSum) -> None:
        """What the database has, at a time when nothing that was sent to it is in doubt."""
        account = self._accounts.setdefault(key_id, _Account())
        account.stored_tokens = stored.tokens
        account.stored_cost_nanos = stored.cost_nanos


class BillTos:
    """Keeps what callers write into a header from making rows without end."""

    def __init__(self) -> None:
        self._day = date.min
        self._by_key: dict[str, set[str]] = {}

    def clean(self, day: date, record: UsageRecord) -> str:
        """The name to record: `OTHER` for what is no name, or one too many of a key's day."""
        name = record.bill_to
        if not _BILL_TO.fullmatch(name):
            return OTHER
        if day != self._day:
            self._day = day
            self._by_key.clear()
        known = self._by_key.setdefault(record.key_id, set())
        if name not in known:
            if len(known) >= _MOST_BILL_TOS:
                return OTHER
            known.add(name)
        return name


def month_of(day: date) -> date:
    """The first day of its month."""
    return day.replace(day=1)
