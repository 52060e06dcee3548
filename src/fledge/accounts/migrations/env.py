"""What Alembic runs for every migration: always on a connection that `migrate` has opened."""

from alembic import context

from fledge.accounts.migrate import VERSION_TABLE
from fledge.accounts.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
