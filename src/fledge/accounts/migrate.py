"""Bring the tables up to date, once, however many instances start at the same moment."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from fledge.errors import DatabaseTooNew

_FOLDER = Path(__file__).parent / "migrations"
VERSION_TABLE = "fledge_schema"
"""Where the database keeps its version: not Alembic's own name, which others may use beside us."""

# Any number will do, as long as no other program on the same database takes it.
_LOCK = 0x666C_6564_6765
_MIGRATION_S = 600


def migrate(reader: Engine, writer: Engine) -> None:
    """Run what is missing, in one transaction: afterwards all of it is there, or nothing.

    Args:
        reader: begins transactions that only read.
        writer: on SQLite, begins transactions that keep other writers out.

    Raises:
        DatabaseTooNew: the database has a version that this program does not know.
        sqlalchemy.exc.DBAPIError: the database fails.
    """
    with reader.connect() as connection:
        if _is_current(connection):
            return
    with writer.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Whoever came first may take longer than other statements may.
            connection.execute(text(f"SET LOCAL statement_timeout = '{_MIGRATION_S}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if not _is_current(connection):
            upgrade(connection)


def upgrade(connection: Connection) -> None:
    """Run every migration that is missing, in the connection's transaction."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _is_current(connection: Connection) -> bool:
    found = _version(connection)
    scripts = ScriptDirectory.from_config(_config())
    if found is not None and found not in {one.revision for one in scripts.walk_revisions()}:
        raise DatabaseTooNew(
            f"the accounts' database has version {found}, which is newer than this Fledge; install "
            "the version that made it, or name another database"
        )
    return found == scripts.get_current_head()


def _version(connection: Connection) -> str | None:
    """The version of the tables, None where there are none yet."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(
        text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - a constant
    ).scalar()
    return found


def _config() -> Config:
    config = Config()
    # Alembic reads % as the beginning of a variable.
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
