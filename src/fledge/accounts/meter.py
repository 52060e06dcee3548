"""Counts what every request uses, without making it wait for a database.

`count` adds into memory. A thread writes the sums twice a second, so that a process that is killed
loses a second at most. What could not be written is kept and tried again, as the same batch under
the same number: the database takes each once, even where nobody knows whether a commit arrived.

Budgets ask for what a key has used this month: what the database had two seconds ago, from every
instance, and what was counted here since.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from operator import itemgetter

from fledge.accounts.database import Database
from fledge.accounts.ticker import Ticker
from fledge.accounts.usage import (
    BillTos,
    Calendar,
    MonthSum,
    MonthToDate,
    Tally,
    UsageRecord,
)
from fledge.accounts.usage_store import Batch, apply, forget_batches, month_changes, utc
from fledge.errors import DatabaseUnavailable

_log = logging.getLogger(__name__)

# Small enough that the transaction of one batch takes well under a second.
_BATCH_SUMS = 5_000
# An instance that has written nothing for so long has ended: one that waits tries all the time.
_FORGET_AFTER = timedelta(days=90)
_MONTHS_EVERY_S = 2.0
_RETRY_S = 0.1
_MOST_LOST_LINES = 100


@dataclass(frozen=True, slots=True)
class MeterStatus:
    """How the writing goes, for health and metrics.

    Attributes:
        waiting: different sums that are not in the database yet.
        written_s: seconds since everything was.
    """

    waiting: int
    written_s: float


class Meter:
    """Counts usage, and writes it. `count` and `month_to_date` may be called from any thread.

    Args:
        database: where the sums go.
        flush_s: seconds between two writings.
        now: the Unix time; it decides on which day something is used.

    Attributes:
        now: likewise.
    """

    def __init__(
        self,
        database: Database,
        *,
        flush_s: float = 0.5,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self.now = now
        self._instance = secrets.token_hex(8)
        # Guards what `count` touches. A thread lock, because the writing thread takes the sums
        # away; it is held for microseconds, and never while the database is asked.
        self._counting = threading.Lock()
        self._tally = Tally()
        self._calendar = Calendar()
        self._bill_tos = BillTos()
        self._month = MonthToDate(date.min)
        # Guards what is being written, for as long as the database takes.
        self._flushing = threading.Lock()
        self._batches: tuple[Batch, ...] = ()
        self._number = 0
        self._written = self._months_read = time.monotonic()
        self._ticker = Ticker("fledge-meter", self._tick, flush_s)

    def start(self) -> None:
        """Read what was used this month, then write until `close`.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        forget_batches(self._database, utc(self.now()) - _FORGET_AFTER)
        self.read_months()
        self._ticker.start()

    def count(self, record: UsageRecord) -> None:
        """Count what one request used. Takes microseconds and never fails."""
        with self._counting:
            day = self._calendar.turn_to(self.now())
            bill_to = self._bill_tos.clean(day, record) if record.bill_to else ""
            self._tally.add(day, record, bill_to)
            self._this_month().count(record.key_id, record.tokens, record.cost_nanos)

    def month_to_date(self, key_id: str) -> MonthSum:
        """What a key has used of this month, UTC, by what is known here: other instances' use of
        the last seconds may be missing. Takes microseconds and never fails."""
        with self._counting:
            self._calendar.turn_to(self.now())
            return self._this_month().total(key_id)

    def status(self) -> MeterStatus:
        """How the writing goes, without waiting for it."""
        waiting = len(self._tally.sums) + sum(len(batch.sums) for batch in self._batches)
        return MeterStatus(waiting, time.monotonic() - self._written)

    def flush(self) -> None:
        """Write everything that was counted before the call. Blocks.

        Raises:
            DatabaseUnavailable: it was not written, or nobody knows; it will be tried again.
        """
        with self._flushing:
            self._write_batches()  # of a time when that failed
            self._take_batches()
            self._write_batches()
            self._written = time.monotonic()

    def read_months(self) -> None:
        """Learn what other instances have written. Blocks.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        with self._flushing:
            if self._batches:
                return  # one of them may be in the database, and would be counted twice
            with self._counting:
                self._calendar.turn_to(self.now())
                month = self._this_month()
            changes = month_changes(self._database, month.first, month.since_ms)
            for key_id, stored in changes.by_key.items():
                with self._counting:  # for each alone, so that `count` never waits for long
                    month.learn(key_id, stored)
            month.since_ms = changes.since_ms

    def close(self, timeout_s: float = 5.0) -> None:
        """Write everything, trying for `timeout_s`; a database that hangs may take 15 s more.

        What cannot be written is lost, and told in the log.
        """
        deadline = time.monotonic() + timeout_s
        self._ticker.stop(timeout_s)
        while True:
            try:
                self.flush()
            except DatabaseUnavailable as error:
                if time.monotonic() > deadline:
                    self._tell_lost(error)
                    return
                time.sleep(_RETRY_S)
            else:
                return

    def _tick(self) -> None:
        self.flush()
        if time.monotonic() - self._months_read >= _MONTHS_EVERY_S:
            self.read_months()
            self._months_read = time.monotonic()

    def _this_month(self) -> MonthToDate:
        if self._month.first != self._calendar.month:
            self._month = MonthToDate(self._calendar.month)
        return self._month

    def _take_batches(self) -> None:
        with self._counting:
            tally, self._tally = self._tally, Tally()
        sums = sorted(tally.sums.items(), key=itemgetter(0))
        for begin in range(0, len(sums), _BATCH_SUMS):
            self._number += 1
            batch = Batch(self._number, sums[begin : begin + _BATCH_SUMS])
            self._batches = (*self._batches, batch)

    def _write_batches(self) -> None:
        while self._batches:
            batch = self._batches[0]
            apply(self._database, self._instance, batch, utc(self.now()))
            for (month, key_id), written in batch.months().items():
                with self._counting:
                    if month == self._month.first:
                        self._month.settle(key_id, written)
            self._batches = self._batches[1:]

    def _tell_lost(self, error: DatabaseUnavailable) -> None:
        self._take_batches()
        sums = [one for batch in self._batches for one in batch.sums]
        if not sums:
            return
        _log.error(
            "usage of %d requests and %d tokens is lost: %s",
            sum(one.requests for _, one in sums),
            sum(one.tokens for _, one in sums),
            error,
        )
        for (day, *names), one in sums[:_MOST_LOST_LINES]:
            _log.error("lost usage: %s %s %s", day, names, one)
