"""Opening a database: what it is made of, who may open it, and what goes wrong with it."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import column, table, text

from fledge.accounts.database import Database, open_database
from fledge.accounts.migrate import VERSION_TABLE
from fledge.accounts.tables import keyring, metadata
from fledge.errors import DatabaseTooNew, DatabaseUnavailable, SettingsError
from tests.postgres import PostgresServer


def scalar(database: Database, statement: str) -> object:
    with database.read() as connection:
        return connection.execute(text(statement)).scalar()


def test_the_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


def test_a_database_is_opened_again_as_it_was(database_url: str) -> None:
    first = open_database(database_url)
    epoch = scalar(first, "SELECT epoch FROM keyring")
    first.close()

    second = open_database(database_url)

    assert scalar(second, "SELECT epoch FROM keyring") == epoch
    second.close()


def test_many_instances_that_start_at_once_migrate_once(database_url: str) -> None:
    everybody = Barrier(8)

    def start(_: int) -> Database:
        everybody.wait()
        return open_database(database_url)

    with ThreadPoolExecutor(8) as threads:
        databases = list(threads.map(start, range(8)))

    assert scalar(databases[0], "SELECT count(*) FROM keyring") == 1
    for database in databases:
        database.close()


def test_a_migration_that_fails_leaves_nothing_behind(database_url: str) -> None:
    empty = open_database(database_url)
    with empty.write() as connection:
        metadata.drop_all(connection)
        connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
        # Made in the migration's second half.
        connection.execute(text("CREATE TABLE usage_batches (instance TEXT)"))
    empty.close()

    with pytest.raises(DatabaseUnavailable, match="usage_batches"):
        open_database(database_url)

    with empty.read() as connection:
        assert not connection.dialect.has_table(connection, "api_keys")
        assert not connection.dialect.has_table(connection, VERSION_TABLE)
    with empty.write() as connection:
        connection.execute(text("DROP TABLE usage_batches"))
    empty.close()
    open_database(database_url).close()


def test_a_database_of_a_newer_version_is_refused(database_url: str) -> None:
    database = open_database(database_url)
    with database.write() as connection:
        version = table(VERSION_TABLE, column("version_num"))
        connection.execute(version.update().values(version_num="9999"))
    database.close()

    with pytest.raises(DatabaseTooNew, match="9999, which is newer than this Fledge"):
        open_database(database_url)


def test_a_write_that_fails_changes_nothing(database: Database) -> None:
    def change() -> None:
        with database.write() as connection:
            connection.execute(keyring.update().values(counter=5))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change()

    assert scalar(database, "SELECT counter FROM keyring") == 0


def test_a_statement_that_fails_is_told_without_its_words(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable) as caught, database.read() as connection:
        connection.execute(text("SELECT * FROM missing"))
    assert str(caught.value) == "the accounts' database does not answer"


def test_writers_wait_for_each_other(database: Database, other: Database) -> None:
    def add(which: Database) -> None:
        for _ in range(20):
            with which.write() as connection:
                connection.execute(keyring.update().values(counter=keyring.c.counter + 1))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, [database, other, database, other]))

    assert scalar(database, "SELECT counter FROM keyring") == 80


# --- one kind only


def test_a_file_is_made_with_its_folders_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.db"
    database = open_database(f"sqlite:///{path}")
    with database.write() as connection:
        connection.execute(keyring.update().values(counter=1))
        for name in (path, f"{path}-wal", f"{path}-shm"):
            assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600
    assert scalar(database, "PRAGMA journal_mode") == "wal"
    assert scalar(database, "PRAGMA foreign_keys") == 1
    assert scalar(database, "PRAGMA synchronous") == 2
    assert scalar(database, "PRAGMA busy_timeout") == 5000
    database.close()


def test_a_home_folder_may_be_written_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    open_database("sqlite:///~/accounts.db").close()
    assert (tmp_path / "accounts.db").exists()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("to whom it may concern\n" * 100)
    with pytest.raises(DatabaseUnavailable, match="file is not a database"):
        open_database(f"sqlite:///{tmp_path}/a.db")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseUnavailable, match=r"cannot open .*file/a\.db: (File|Not a)"):
        open_database(f"sqlite:///{tmp_path}/file/a.db")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "malformed"),
        ("", "malformed"),
        ("postgresql://me:hunter2@host:port/name", "malformed"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("mysql://me:hunter2@host/name", "begins with mysql"),
        ("postgresql+psycopg2://me:hunter2@host/name", r"begins with postgresql\+psycopg2"),
    ],
)
def test_a_url_that_will_not_do_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        open_database(url)
    assert "hunter2" not in str(caught.value)


def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    with pytest.raises(DatabaseUnavailable, match="refused") as caught:
        open_database("postgresql://me:hunter2@127.0.0.1:1/name")
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__}"


def test_passwords_are_not_shown(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database().replace("postgres@", "postgres:hunter2@")
    database = open_database(url.replace("postgresql://", "postgres://"))
    assert "hunter2" not in repr(database)
    assert "127.0.0.1" in repr(database)
    database.close()


def test_statements_and_idle_transactions_have_an_end(postgres_server: PostgresServer) -> None:
    database = open_database(postgres_server.new_database())
    assert scalar(database, "SHOW statement_timeout") == "10s"
    assert scalar(database, "SHOW idle_in_transaction_session_timeout") == "10s"
    database.close()
