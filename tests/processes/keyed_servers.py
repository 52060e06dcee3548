"""Real servers that belong together: one database, one model, and keys that a test makes."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

from fledge.accounts.database import Database, open_database
from fledge.accounts.key_store import KeyStore
from fledge.accounts.keys import KeySpec, NewKey
from tests.processes.keyed_load import Client, Load, Used, save_model, used
from tests.servers import Server, serving


class Place:
    """A context manager: all that it started ends with it, the last first.

    Args:
        folder: for everything.
        database_url: SQLite in the folder, unless given.
        settings: of every server.

    Attributes:
        database: the servers', as the test sees it.
        store: their keys.
    """

    def __init__(self, folder: Path, *, database_url: str = "", **settings: Any) -> None:
        url = database_url or f"sqlite:///{folder}/accounts.db"
        model = save_model(folder / "static")
        self._folder = folder
        self._settings = {"models": [str(model)], "database_url": url, **settings}
        self._stack = ExitStack()
        self.database: Database = open_database(url)
        self.store = KeyStore(self.database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        self.database.close()

    def new_key(self, name: str, **spec: Any) -> NewKey:
        return self.store.create(KeySpec(name=name, **spec))

    def key(self, name: str, **spec: Any) -> str:
        """The secret of a new key."""
        return self.new_key(name, **spec).secret

    def serve(self, name: str, **settings: Any) -> Server:
        """A server with a folder of its own."""
        server = serving(self._folder / name, **{**self._settings, **settings})
        return self._stack.enter_context(server)

    def client(self, server: Server, secret: str) -> Client:
        return self._stack.enter_context(closing(Client(server.url, secret)))

    def load(self, server: Server, secret: str, **choices: Any) -> Load:
        """Clients that ask until the end."""
        return self._stack.enter_context(Load(server.url, secret, **choices))

    def stop(self) -> None:
        """End loads, clients and servers."""
        self._stack.close()

    def used(self, key: NewKey) -> Used:
        return used(self.database, key.key.id)
