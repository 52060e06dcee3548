"""Every key that lives, in memory: what a request asks, without a database in its way.

A thread looks at the database's version of the keys once a second, and reads those that changed.
So a key that was revoked anywhere is refused here within two seconds, as long as the database
answers. While it does not, the last known keys stay valid for `max_stale_s`; after that nobody can
say which are, and all requests are refused as the server's own fault, not as the caller's.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest

from fledge.accounts.key_store import Changes, KeyStore, StoredKey, Version
from fledge.accounts.keys import Key, digest_of
from fledge.accounts.ticker import Ticker
from fledge.errors import DatabaseUnavailable

_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class _Entry:
    """One secret of a key; `ends` is the Unix time from which it is refused."""

    digest: bytes
    key: Key
    ends: float


class Keyring:
    """Finds keys by their secrets. `find` and `get` may be called from any thread.

    Args:
        store: where the keys are.
        refresh_s: seconds between two looks at the database.
        max_stale_s: seconds for which keys stay valid when the database does not answer.
        now: the Unix time.
        monotonic: seconds that never jump, to tell how long ago the database last answered.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        refresh_s: float = 1.0,
        max_stale_s: float = 3600.0,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._max_stale_s = max_stale_s
        self._now = now
        self._monotonic = monotonic
        self._version: Version | None = None
        self._had_any = False
        self._refreshed: float | None = None
        # Written by `refresh` alone, under its lock; read without one, since every reading is a
        # single look-up, which the interpreter does not interrupt.
        self._by_digest: dict[bytes, _Entry] = {}
        self._by_id: dict[str, tuple[_Entry, ...]] = {}
        self._refreshing = threading.Lock()
        self._ticker = Ticker("fledge-keyring", self.refresh, refresh_s)

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def has_any(self) -> bool:
        """Whether a key was ever made, even if none lives any more.

        Once it is so, it stays so: a server that strangers reach must not open to them because an
        empty database was put in the place of its own.
        """
        return self._had_any

    def start(self) -> None:
        """Read every key, then keep up with the database until `close`.

        Raises:
            DatabaseUnavailable: the keys cannot be read.
        """
        self.refresh()
        self._ticker.start()

    def close(self) -> None:
        """Stop keeping up. What is known stays."""
        self._ticker.stop(_STOP_S)

    def find(self, secret: str) -> Key | None:
        """The key that a secret opens; None: none, or one that is revoked or has expired.

        Raises:
            DatabaseUnavailable: the keys are older than `max_stale_s`.
        """
        self._check_age()
        digest = digest_of(secret)
        entry = self._by_digest.get(digest)
        # The look-up may tell by its time how much of a digest is right, but nobody can choose
        # the digest of what he sends; what could be guessed byte by byte is not compared there.
        if entry is None or not compare_digest(entry.digest, digest):
            return None
        return entry.key if self._now() < entry.ends else None

    def get(self, key_id: str) -> Key | None:
        """The living key of an id, for work that goes on after its request has ended.

        Raises:
            DatabaseUnavailable: the keys are older than `max_stale_s`.
        """
        self._check_age()
        now = self._now()
        for entry in self._by_id.get(key_id, ()):
            if now < entry.ends:
                return entry.key
        return None

    def age_s(self) -> float:
        """Seconds since the database last answered; infinite before it did."""
        return float("inf") if self._refreshed is None else self._monotonic() - self._refreshed

    def refresh(self) -> None:
        """Look at the database now. Blocks.

        Raises:
            DatabaseUnavailable: it does not answer.
        """
        with self._refreshing:
            asked = self._monotonic()
            changes = self._store.changes(self._version)
            if changes is not None:
                self._apply(changes)
            self._refreshed = asked

    def _check_age(self) -> None:
        if self.age_s() > self._max_stale_s:
            raise DatabaseUnavailable(
                f"keys cannot be checked: their database has not answered for {self.age_s():.0f} s"
            )

    def _apply(self, changes: Changes) -> None:
        if changes.is_full:
            by_id = {one.key.id: _entries(one) for one in changes.keys}
            self._by_digest = {entry.digest: entry for each in by_id.values() for entry in each}
            self._by_id = by_id
        else:
            for one in changes.keys:
                self._replace(one)
        self._version = changes.version
        self._had_any = self._had_any or changes.version.counter > 0

    def _replace(self, stored: StoredKey) -> None:
        """The new secrets first: a rotation must not leave a moment in which none is valid."""
        entries = _entries(stored)
        self._by_digest.update({entry.digest: entry for entry in entries})
        kept = {entry.digest for entry in entries}
        for entry in self._by_id.get(stored.key.id, ()):
            if entry.digest not in kept:
                del self._by_digest[entry.digest]
        if entries:
            self._by_id[stored.key.id] = entries
        else:
            self._by_id.pop(stored.key.id, None)


def _entries(stored: StoredKey) -> tuple[_Entry, ...]:
    key = stored.key
    if key.revoked is not None:
        return ()
    key_ends = float("inf") if key.expires is None else key.expires.timestamp()
    return tuple(_Entry(digest, key, min(ends, key_ends)) for digest, ends in stored.secrets)
