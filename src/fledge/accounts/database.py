"""The database of keys and usage: SQLite in one file, or PostgreSQL by URL.

Everything here blocks, so an event loop calls it in threads. What a driver raises is translated
here and nowhere else.
"""

import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from fledge.accounts.migrate import migrate
from fledge.errors import DatabaseUnavailable, SettingsError

_log = logging.getLogger(__name__)

# Long enough for the writes of other instances, which take milliseconds; shorter than the
# patience of whoever waits for an admin route.
_BUSY_S = 5.0
_STATEMENT_S = 10.0
_IS_WRITE = "fledge_is_write"
# What else stands where the host should is a part of a password, which would be told.
_HOST = re.compile(r"[\w.:,%~/-]*")
_MALFORMED = (
    "database_url is malformed; write it as sqlite:////folder/file.db or "
    "postgresql://user:password@host/name, with %40 for an @ in the password and likewise for "
    "other marks, or as none"
)
_POSTGRES_NAMES = ("postgresql", "postgresql+psycopg", "postgres")


class Database:
    """A database that was migrated, and its connections. Safe to use from many threads.

    `open_database` makes one.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(**{_IS_WRITE: True})

    def __repr__(self) -> str:
        return f"Database({self._engine.url.render_as_string(hide_password=True)})"

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of this machine."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for the length of a block that changes nothing.

        Raises:
            DatabaseUnavailable: the database cannot be reached, or failed.
        """
        with _translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: committed when the block ends, rolled back when it raises.

        When it raises `DatabaseUnavailable` the outcome is not known: the connection may have
        broken after the commit.

        Raises:
            DatabaseUnavailable: the database cannot be reached, or failed.
        """
        with _translated(), self._writer.begin() as connection:
            yield connection

    def insert(self, table: Table[Any]) -> "sqlite.Insert | postgresql.Insert":
        """An INSERT into the table that can say what to do about a row that is there already."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def close(self) -> None:
        """Close the connections that nobody uses. Safe to call twice."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Connect, and bring the tables up to date; a SQLite file that is missing is made.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, or
            `postgresql://user:password@host:5432/name`, with what libpq knows as `?sslmode=...`.

    Raises:
        SettingsError: the URL is malformed, or of another kind of database.
        DatabaseTooNew: a newer version of Fledge has changed the tables.
        DatabaseUnavailable: it cannot be reached, or is damaged.
    """
    parsed = _parsed(url)
    engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgres(parsed)
    database = Database(engine)
    try:
        with _translated(says_why=True):
            migrate(engine, engine.execution_options(**{_IS_WRITE: True}))
    except BaseException:
        database.close()
        raise
    return database


def probe(url: str) -> bool:
    """Ask a database whether it is there, and change nothing; False: its file was not made yet.

    Raises:
        SettingsError: the URL is malformed, or of another kind of database.
        DatabaseUnavailable: it does not answer, or is damaged.
    """
    parsed = _parsed(url)
    is_file = parsed.get_backend_name() == "sqlite"
    if is_file and not Path(parsed.database or "").exists():
        return False
    engine = _sqlite(parsed) if is_file else _postgres(parsed)
    try:
        with _translated(says_why=True), engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    finally:
        engine.dispose()
    return True


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # from None, and without the value: it may hold a password
        raise SettingsError(_MALFORMED) from None
    if parsed.drivername == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise SettingsError("database_url names no file; write it as sqlite:////folder/file.db")
        path = Path(parsed.database).expanduser().absolute()
        return parsed.set(drivername="sqlite+pysqlite", database=str(path))
    if parsed.drivername in _POSTGRES_NAMES:
        if not _HOST.fullmatch(parsed.host or "") or "@" in (parsed.database or ""):
            raise SettingsError(_MALFORMED)
        return parsed.set(drivername="postgresql+psycopg")
    raise SettingsError(
        f"database_url begins with {parsed.drivername}; Fledge knows sqlite and postgresql"
    )


def _sqlite(url: URL) -> Engine:
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Made here, since SQLite would let others read it; its other files get the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise DatabaseUnavailable(f"cannot open {path}: {error.strerror}") from error
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY_S})

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # Python would begin transactions by itself, but for reads not, and for writes too late.
        connection.isolation_level = None
        _use_wal(connection)
        # FULL, which WAL does not need to stay whole: a revoked key must not come back after a
        # power cut, and two commits a second can afford it.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        # A transaction that reads first and then writes fails at once where another one has
        # written meanwhile; one that takes the write lock at its beginning waits for it.
        is_write = connection.get_execution_options().get(_IS_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Let readers go on while one writes. The mode stays with the file."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        except sqlite3.OperationalError:
            # Where two change the mode of a new file at once, SQLite does not wait by itself.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            if mode != "wal":
                _log.warning("SQLite cannot use WAL on this file system; writers will block all")
            return


def _postgres(url: URL) -> Engine:
    # Without them a database that is cut off is noticed after minutes.
    wanted: dict[str, Any] = {
        "application_name": "fledge",
        "connect_timeout": 5,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    try:
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_timeout=_BUSY_S,
            connect_args={name: value for name, value in wanted.items() if name not in url.query},
        )
    except ModuleNotFoundError:
        raise SettingsError(
            "a PostgreSQL database needs psycopg: pip install 'fledge[postgres]'"
        ) from None

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: ConnectionPoolEntry) -> None:
        # Outside of a transaction, whose end would undo it; not by `options` when connecting,
        # which poolers refuse.
        connection.autocommit = True
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(f"SET {name} = {_STATEMENT_S * 1000:.0f}")
        connection.autocommit = False

    return engine


@contextmanager
def _translated(*, says_why: bool = False) -> Iterator[None]:
    """Drivers' errors become ours; what broke a rule of the tables is left to whoever asked.

    `says_why` adds the driver's words, for who starts the program: they may name hosts and files.
    """
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeout) as error:
        why = ""
        if says_why and isinstance(error, DBAPIError):
            why = ": " + next(iter(str(error.orig).strip().splitlines()), "")
        raise DatabaseUnavailable(f"the accounts' database does not answer{why}") from error
