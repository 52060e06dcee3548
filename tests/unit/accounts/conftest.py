"""Every test here runs on SQLite and on PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import Connection

from fledge.accounts.database import Database, open_database
from fledge.accounts.key_store import KeyStore
from fledge.errors import DatabaseUnavailable
from tests.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.time

    def set(self, moment: str) -> None:
        self.time = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()

    @property
    def moment(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)


class FlakyDatabase(Database):
    """A real database that fails as a test tells it to.

    How to use it: set `failure` to
        - "down": nothing can be read or written;
        - "midway": what is written is undone before the end, and reading works;
        - "unknown": what is written is committed, and the answer to the commit is lost;
        - None: all is well again.
    Set `before_commit` to what shall happen between what is written and its commit.
    """

    failure: Literal["down", "midway", "unknown"] | None = None
    before_commit: Callable[[], None] | None = None

    def __init__(self, real: Database) -> None:
        super().__init__(real._engine)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        if self.failure == "down":
            raise DatabaseUnavailable("down")
        with super().read() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        if self.failure == "down":
            raise DatabaseUnavailable("down")
        with super().write() as connection:
            yield connection
            if self.before_commit:
                self.before_commit()
            if self.failure == "midway":
                raise DatabaseUnavailable("undone")
        if self.failure == "unknown":
            raise DatabaseUnavailable("committed, but nobody knows")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/accounts.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with its tables."""
    database = open_database(database_url)
    yield database
    database.close()


@pytest.fixture
def flaky(database: Database) -> FlakyDatabase:
    return FlakyDatabase(database)


@pytest.fixture
def other(database: Database, database_url: str) -> Iterator[Database]:
    """The same database, as another instance has opened it."""
    other = open_database(database_url)
    yield other
    other.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> KeyStore:
    return KeyStore(database, now=clock)
