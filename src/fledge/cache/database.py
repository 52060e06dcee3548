"""Entries in one SQLite file: what blocks, for one thread.

Why SQLite, of the standard library: several processes may write to one file and any of them may be
killed at any moment; what is damaged is an error and not a crash; it takes and gives bytes; it is
here anyway. LMDB reads faster, but a file that is damaged or cut short under it ends the process,
and its file never becomes smaller. diskcache is SQLite with pickles.

In WAL mode and `synchronous=NORMAL` a killed process loses what it had not committed, and a power
failure perhaps the last seconds. Whatever is left of an entry then, its own check tells.
"""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fledge.cache.entry import Cached
from fledge.cache.tiers import Pair

log = logging.getLogger(__name__)

BUSY_S = 0.1
"""How long to wait for another process that writes; its batches take a few milliseconds."""

PAGE_BYTES = 16 * 1024
"""An entry of 384 numbers takes 1,644 bytes of the file with such pages and 2,097 with the usual
ones of 4 KiB; one of 1,024 numbers 5,461, where pages of 8 KiB would hold just one."""

TRIMMED_ROWS = 32
TRIMS = 8
"""So many leave together, until there is room, and so often at most in one go: a budget that was
made smaller is reached step by step, between which others may read."""

_LOG_BYTES = 4 * 2**20
_CACHE_KIB = 8 * 1024
_ASKED_AT_ONCE = (1, 8, 32, 128, 512)
_NAME = re.compile(r"vectors-([1-9][0-9]{0,8})\.sqlite3")

# Somebody else is at it.
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT}
# The file may be as good as before. Whatever is in neither list means that it is damaged.
_PASSING = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}

_SCHEMA = """
create table if not exists entries (
    id integer primary key,
    key blob not null unique,
    value blob not null
)
"""


class Unusable(Exception):
    """The store does not work now."""


class Database:
    """The store of a folder; opened when it is first used.

    One that is damaged is left where it is, with a warning, and another is begun beside it, under
    the next number. It is not renamed: other processes may have it open, and would delete the new
    one's log on closing, which they know by name. At most one that is damaged is kept.

    Args:
        folder: made if need be, for this user alone: texts can be guessed from their vectors.
        budget_bytes: of the file; the entries written longest ago leave. The log beside it takes
            a few MiB more.

    Attributes:
        damaged: how many entries were found that are not whole.
        number: of the file that was opened last.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.damaged = 0
        self._folder = folder
        self._budget_pages = max(budget_bytes // PAGE_BYTES, 1)
        self.number = 0
        self._connection: sqlite3.Connection | None = None

    def get(self, keys: Sequence[bytes]) -> list[Cached | None]:
        """The entry of each key.

        Raises:
            Unusable: the store does not work now.
        """
        blobs: dict[bytes, object] = {}
        with self._open() as connection:
            for first in range(0, len(keys), _ASKED_AT_ONCE[-1]):
                some = list(keys[first : first + _ASKED_AT_ONCE[-1]])
                # Few different lengths, so that SQLite need not read the query every time.
                length = next(size for size in _ASKED_AT_ONCE if size >= len(some))
                marks = ",".join("?" * length)
                query = f"select key, value from entries where key in ({marks})"  # noqa: S608
                padding = some[-1:] * (length - len(some))
                blobs.update(connection.execute(query, some + padding))
        return [self._read(key, blobs.get(key)) for key in keys]

    def put(self, pairs: Sequence[Pair]) -> bool:
        """Keep entries, all or none, and let old ones leave; whether more have to, by `trim`.

        Raises:
            Unusable: the store does not work now.
        """
        with self._open() as connection, _transaction(connection):
            connection.executemany(
                "insert or replace into entries (key, value) values (?, ?)", pairs
            )
            return self._trim(connection)

    def trim(self) -> bool:
        """Let some old entries leave if there are too many; whether more have to.

        Raises:
            Unusable: the store does not work now.
        """
        with self._open() as connection, _transaction(connection):
            return self._trim(connection)

    def newest(self) -> int:
        """The number of the entry that was written last; 0 if there is none.

        Raises:
            Unusable: the store does not work now.
        """
        with self._open() as connection:
            row = connection.execute("select max(id) from entries").fetchone()
        return row[0] or 0

    def keys_since(self, number: int) -> list[object]:
        """The keys of the entries that were written after the one of a number, as they are there.

        Raises:
            Unusable: the store does not work now.
        """
        with self._open() as connection:
            rows = connection.execute("select key from entries where id > ?", [number])
            return [key for (key,) in rows]

    def keys_after(self, key: bytes, count: int) -> list[object]:
        """The next so many keys behind one, in their order, as they are there. Reads the index
        alone.

        Raises:
            Unusable: the store does not work now.
        """
        with self._open() as connection:
            query = "select key from entries where key > ? order by key limit ?"
            return [key for (key,) in connection.execute(query, [key, count])]

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _read(self, key: bytes, blob: object) -> Cached | None:
        entry = None if blob is None else Cached.read(key, blob)
        self.damaged += blob is not None and entry is None
        return entry

    def _trim(self, connection: sqlite3.Connection) -> bool:
        for _ in range(TRIMS):
            free = _pragma(connection, "freelist_count")
            if _pragma(connection, "page_count") - free <= self._budget_pages:
                break
            connection.execute(
                "delete from entries where id in (select id from entries order by id limit ?)",
                (TRIMMED_ROWS,),
            )
        surplus = _pragma(connection, "page_count") - self._budget_pages
        for _ in range(min(surplus, _pragma(connection, "freelist_count"))):
            # One page each time: Python's module does not go on with it by itself.
            connection.execute("pragma incremental_vacuum(1)")
        return _pragma(connection, "page_count") > self._budget_pages

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The open file. What goes wrong with it closes it, and may be what sets it aside."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except OSError as error:
            raise Unusable(str(error)) from error
        except sqlite3.Error as error:
            # An error of Python's own making has no code, and says nothing of the file.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_INTERRUPT) & 0xFF
            if code not in _BUSY:
                self.close()
                if code not in _PASSING:
                    self._set_aside(error)
            raise Unusable(str(error)) from error

    def _connect(self) -> sqlite3.Connection:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.number = max(self._numbers(), default=1)
        # Made here, since SQLite would let others read it; its other files get the same mode.
        os.close(os.open(self._path(self.number), os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(self._path(self.number), timeout=BUSY_S, isolation_level=None)
        try:
            if not _pragma(connection, "page_count"):
                # Settings of a new file; on another that is in use they would wait for it.
                connection.execute(f"pragma page_size={PAGE_BYTES}")
                connection.execute("pragma auto_vacuum=incremental")
            connection.execute("pragma journal_mode=wal")
            connection.execute("pragma synchronous=normal")
            connection.execute(f"pragma wal_autocheckpoint={_LOG_BYTES // PAGE_BYTES}")
            connection.execute(f"pragma journal_size_limit={_LOG_BYTES}")
            connection.execute(f"pragma cache_size=-{_CACHE_KIB}")
            connection.execute(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self, error: sqlite3.Error) -> None:
        """Begin anew, unless another process has done so already."""
        damaged = self._path(self.number)
        numbers = self._numbers()
        for number in numbers:
            if number < self.number:
                self._remove(self._path(number))
        if max(numbers, default=0) > self.number:
            return
        fresh = self._path(self.number + 1)
        with suppress(OSError):
            fresh.touch(mode=0o600)
        log.warning(
            "the cache's file %s is damaged (%s): it is left there, and %s begun in its place",
            damaged,
            error,
            fresh.name,
        )

    def _remove(self, path: Path) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(f"{path}{suffix}")  # noqa: PTH108 - a name and a suffix are no path

    def _numbers(self) -> list[int]:
        """The files that are here."""
        try:
            names = [_NAME.fullmatch(path.name) for path in self._folder.iterdir()]
        except OSError:
            return []
        return [int(name[1]) for name in names if name]

    def _path(self, number: int) -> Path:
        return self._folder / f"vectors-{number}.sqlite3"


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error):  # it may be over already
            connection.execute("rollback")
        raise
    connection.execute("commit")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    number: int = connection.execute(f"pragma {name}").fetchone()[0]
    return number
