"""Keys in the database: make, list, show, revoke, rotate, and what has changed since.

Everything here blocks.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from fledge.accounts.database import Database
from fledge.accounts.keys import (
    ID_PREFIX,
    Key,
    KeySpec,
    NewKey,
    Scope,
    digest_of,
    new_id,
    new_secret,
    shown,
)
from fledge.accounts.tables import api_keys, key_secrets, keyring
from fledge.errors import InvalidRequest, KeyNameTaken, KeyNotFound

_KEY_FIELDS = tuple(one.name for one in fields(Key))
_KEY_COLUMNS = [api_keys.c[name] for name in _KEY_FIELDS]
_FOR_EVER = float("inf")
_LONGEST_GRACE_S = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Version:
    """A state of all keys: a counter, and which database it counts in."""

    epoch: str
    counter: int


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key, and the SHA-256 of each of its secrets with the Unix time at which that one ends."""

    key: Key
    secrets: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a keyring needs to catch up.

    Attributes:
        version: the state that it will then have, or a newer one.
        is_full: whether `keys` are all that live, rather than those that changed.
        keys: a key that was revoked has no secrets.
    """

    version: Version
    is_full: bool
    keys: list[StoredKey]


class KeyStore:
    """The keys of a database.

    A key is named by its id, or by its name; a name means the key that is not revoked, or, where
    all are, the one that was made last.

    Args:
        database: where they are.
        now: the Unix time.
    """

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    def create(self, spec: KeySpec) -> NewKey:
        """Make a key. Its secret cannot be had again.

        Raises:
            InvalidRequest: the spec will not do.
            KeyNameTaken: a key that is not revoked has the name.
            DatabaseUnavailable: it was not made, or nobody knows.
        """
        now = self._moment()
        spec.check(now)
        secret = new_secret()
        prefix, last_four = shown(secret)
        key = Key(
            **{one.name: getattr(spec, one.name) for one in fields(KeySpec)},
            id=new_id(),
            prefix=prefix,
            last_four=last_four,
            created=now,
        )
        try:
            with self._database.write() as connection:
                version = _next_version(connection)
                row = {**_as_row(key), "version": version}
                connection.execute(insert(api_keys).values(row))
                _add_secret(connection, key.id, secret)
        except IntegrityError:
            raise KeyNameTaken(
                f"there is a key named {spec.name} already; revoke it, or choose another name",
                field="name",
            ) from None
        return NewKey(key=key, secret=secret)

    def listed(self, *, with_ended: bool = False) -> list[Key]:
        """Every key that is accepted now, oldest first; with those that ended, if asked."""
        query = select(*_KEY_COLUMNS).order_by(api_keys.c.created, api_keys.c.id)
        if not with_ended:
            query = query.where(*self._is_living())
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(query)]

    def show(self, id_or_name: str) -> Key:
        """One key, living or not.

        Raises:
            KeyNotFound: there is none.
        """
        with self._database.read() as connection:
            return _find(connection, id_or_name)

    def has_any(self) -> bool:
        """Whether a key was ever made here, even if it was revoked or has expired since."""
        with self._database.read() as connection:
            return connection.execute(select(api_keys.c.id).limit(1)).first() is not None

    def revoke(self, id_or_name: str) -> Key:
        """End a key for ever, and forget its secrets. One that was revoked stays as it is.

        Raises:
            KeyNotFound: there is none.
        """
        with self._database.write() as connection:
            version = _next_version(connection)
            key = _find(connection, id_or_name)
            if key.revoked is None:
                connection.execute(
                    update(api_keys)
                    .where(api_keys.c.id == key.id)
                    .values(revoked=self._moment(), version=version)
                )
                connection.execute(delete(key_secrets).where(key_secrets.c.key_id == key.id))
            return _find(connection, key.id)

    def rotate(self, id_or_name: str, *, grace_s: float = 0.0) -> NewKey:
        """A new secret for the same key; the one before is accepted for `grace_s` seconds more.

        Raises:
            KeyNotFound: there is none.
            InvalidRequest: it is revoked or has expired, or `grace_s` is negative.
        """
        if not 0 <= grace_s <= _LONGEST_GRACE_S:
            raise InvalidRequest(
                f"`grace_s` must be from 0 to {_LONGEST_GRACE_S}, not {grace_s:g}", field="grace_s"
            )
        now = self._moment()
        secret = new_secret()
        prefix, last_four = shown(secret)
        with self._database.write() as connection:
            version = _next_version(connection)
            key = _find(connection, id_or_name)
            if (state := key.state(now)) != "active":
                raise InvalidRequest(f"{key.name} is {state}; create another key", field="key")
            _end_secrets(connection, key.id, now, now + timedelta(seconds=grace_s))
            _add_secret(connection, key.id, secret)
            connection.execute(
                update(api_keys)
                .where(api_keys.c.id == key.id)
                .values(prefix=prefix, last_four=last_four, version=version)
            )
            return NewKey(key=_find(connection, key.id), secret=secret)

    def changes(self, since: Version | None) -> Changes | None:
        """What has changed since a version; None: nothing. Without one, all that live.

        Asking when nothing has changed reads one row.
        """
        with self._database.read() as connection:
            # First: what changes while this reads is then read once more, and not missed.
            version = Version(*connection.execute(select(keyring.c.epoch, keyring.c.counter)).one())
            if version == since:
                return None
            query = select(
                *_KEY_COLUMNS, key_secrets.c.digest, key_secrets.c.expires.label("ends")
            ).join_from(api_keys, key_secrets, isouter=True)
            # A smaller counter, or another epoch, is a database that was put in this one's place.
            is_full = (
                since is None or version.epoch != since.epoch or version.counter < since.counter
            )
            if is_full or since is None:
                query = query.where(*self._is_living())
            else:
                query = query.where(api_keys.c.version > since.counter)
            return Changes(version, is_full, _stored(connection, query))

    def _is_living(self) -> tuple[Any, ...]:
        never_ends = api_keys.c.expires.is_(None)
        return (
            api_keys.c.revoked.is_(None),
            or_(never_ends, api_keys.c.expires > self._moment()),
        )

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)


def _next_version(connection: Connection) -> int:
    """Count a change, before anything else in its transaction.

    The row stays locked until the commit, so changes are committed in the order of their numbers,
    and nobody sees a number before what it stands for.
    """
    connection.execute(update(keyring).values(counter=keyring.c.counter + 1))
    return connection.execute(select(keyring.c.counter)).scalar_one()


def _add_secret(connection: Connection, key_id: str, secret: str) -> None:
    connection.execute(insert(key_secrets).values(digest=digest_of(secret).hex(), key_id=key_id))


def _end_secrets(connection: Connection, key_id: str, now: datetime, end: datetime) -> None:
    """Let every secret of a key end at a moment, or when it would have ended before that."""
    of_key, ends = key_secrets.c.key_id == key_id, key_secrets.c.expires
    connection.execute(
        update(key_secrets).where(of_key, or_(ends.is_(None), ends > end)).values(expires=end)
    )
    connection.execute(delete(key_secrets).where(of_key, ends <= now))


def _find(connection: Connection, id_or_name: str) -> Key:
    # The message does not repeat what was asked for, which may be a secret by mistake.
    missing = KeyNotFound("there is no key of that id or name")
    if not id_or_name.isprintable():  # PostgreSQL fails over some, and no key has them
        raise missing
    query = select(*_KEY_COLUMNS)
    if id_or_name.startswith(ID_PREFIX):
        query = query.where(api_keys.c.id == id_or_name)
    else:
        query = query.where(api_keys.c.name == id_or_name).order_by(
            api_keys.c.revoked.is_not(None),  # false comes first
            api_keys.c.created.desc(),
        )
    row = connection.execute(query.limit(1)).first()
    if row is None:
        raise missing
    return _key(row)


def _stored(connection: Connection, query: Select[Any]) -> list[StoredKey]:
    """Each key once, from a row for each of its secrets, or one without."""
    keys: dict[str, Key] = {}
    secrets: dict[str, list[tuple[bytes, float]]] = {}
    for row in connection.execute(query):
        if row.id not in keys:
            keys[row.id] = _key(row)
            secrets[row.id] = []
        if row.digest is not None:
            ends = row.ends.timestamp() if row.ends else _FOR_EVER
            secrets[row.id].append((bytes.fromhex(row.digest), ends))
    return [StoredKey(key, tuple(secrets[key_id])) for key_id, key in keys.items()]


def _key(row: Row[Any]) -> Key:
    """The key of a row that begins with `_KEY_COLUMNS`."""
    found = dict(zip(_KEY_FIELDS, row, strict=False))
    found["scopes"] = _scopes(tuple(found["scopes"]))
    found["models"] = _models(tuple(found["models"]))
    return Key(**found)


# Most keys have the same ones, and a hundred thousand keys are held in memory.
_scopes = lru_cache(maxsize=64)(frozenset[Scope])
_models = lru_cache(maxsize=1024)(tuple[str, ...])


def _as_row(key: Key) -> dict[str, Any]:
    row = {name: getattr(key, name) for name in _KEY_FIELDS}
    return row | {"scopes": sorted(key.scopes), "models": list(key.models)}
