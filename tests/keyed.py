"""A server that asks for keys: real accounts in SQLite, and a clock that tests set.

with Keyed(tmp_path) as place, place.client() as client:
    secret = place.key("app", requests_per_minute=60)
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastapi import FastAPI
from starlette.testclient import TestClient

from fledge.accounts.database import open_database
from fledge.accounts.key_store import KeyStore
from fledge.accounts.keyring import Keyring
from fledge.accounts.keys import KeySpec, NewKey, Scope
from fledge.accounts.limits import Limits
from fledge.accounts.limits_memory import MemoryLimits
from fledge.accounts.meter import Meter
from fledge.accounts.stored import StoredAccounts
from fledge.api.app import create_app
from fledge.cache.cache import Cache
from fledge.fixed import FixedDeployments, catalog_of
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend

MAX_STALE_S = 60.0
# Looked at when a test says so.
_SELDOM_S = 3600.0


class Clock:
    """Unix time that stands still until a test lets some pass."""

    def __init__(self, start: datetime) -> None:
        self.time = start.timestamp()

    def __call__(self) -> float:
        return self.time

    def after(self, seconds: float) -> datetime:
        """The moment in so many seconds."""
        return datetime.fromtimestamp(self.time + seconds, UTC)


class Keyed:
    """A service over backends, and the accounts of those who may use it.

    The database is not looked at by itself: what is done here counts at once. `limits` takes the
    place of those in memory.

    Attributes:
        clock: what keys, limits and months go by.
        backend: the first of those that answer.
        store: the keys.
        accounts: all of it.
        settings: in force.
        app: the application.
    """

    def __init__(
        self,
        folder: Path,
        backends: Sequence[FakeBackend] = (),
        *,
        limits: Limits | None = None,
        cache: Cache | None = None,
        **settings: Any,
    ) -> None:
        # Ten seconds are left of the day, and nine days of the month.
        self.clock = Clock(datetime(2026, 11, 21, 23, 59, 50, tzinfo=UTC))
        self._database = open_database(f"sqlite:///{folder}/accounts.db")
        self.store = KeyStore(self._database, now=self.clock)
        keyring = Keyring(
            self.store,
            refresh_s=_SELDOM_S,
            max_stale_s=MAX_STALE_S,
            now=self.clock,
            monotonic=self.clock,
        )
        meter = Meter(self._database, now=self.clock)
        self.accounts = StoredAccounts(
            self._database,
            keyring,
            meter,
            lambda spent: limits or MemoryLimits(spent=spent, clock=self.clock, wall=self.clock),
        )
        self.settings = Settings(**settings)
        backends = backends or [FakeBackend()]
        self.backend = backends[0]
        service = Service(
            catalog_of(backends),
            FixedDeployments(backends),
            self.settings,
            cache=cache,
            accounts=self.accounts,
        )
        self.app: FastAPI = create_app(service, self.settings)

    def __enter__(self) -> Self:
        self.accounts.keyring.start()
        self.accounts.meter.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.accounts.close()

    def client(self, secret: str | None = None) -> TestClient:
        """A client, with the key of a secret."""
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        return TestClient(
            self.app,
            base_url="http://127.0.0.1:8080",
            headers=headers,
            raise_server_exceptions=False,
        )

    def new_key(self, name: str = "app", *scopes: Scope, **spec: Any) -> NewKey:
        """A key that is accepted from now on; for inference, unless told otherwise."""
        if scopes:
            spec["scopes"] = frozenset(scopes)
        new = self.store.create(KeySpec(name=name, **spec))
        self.accounts.keyring.refresh()
        return new

    def key(self, name: str = "app", *scopes: Scope, **spec: Any) -> str:
        """Its secret."""
        return self.new_key(name, *scopes, **spec).secret

    def revoke(self, name: str = "app") -> None:
        """Refuse a key from now on."""
        self.store.revoke(name)
        self.accounts.keyring.refresh()
