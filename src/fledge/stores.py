"""Settings -> where state lives: the accounts' database, their limits, the tiers of the cache.

What is slow to import, or an extra, is looked up by name when the settings first ask for it.
"""

import asyncio
import importlib
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.accounts.accounts import Accounts
from fledge.accounts.limits import Limits
from fledge.accounts.limits_memory import MemoryLimits
from fledge.accounts.usage import KEYLESS
from fledge.accounts.usage_query import UsageQuery
from fledge.batches.store import BatchStore
from fledge.cache.cache import Cache
from fledge.cache.memory import MemoryTier
from fledge.cache.tiers import Tier
from fledge.errors import DatabaseUnavailable, SettingsError
from fledge.names import without_password
from fledge.settings import Settings

if TYPE_CHECKING:
    from fledge.accounts.database import Database
    from fledge.accounts.key_store import KeyStore

_log = logging.getLogger(__name__)

NO_DATABASE = "none"
"""The `database_url` of a server that keeps neither keys nor usage."""


def _found(module: str) -> Any:
    return importlib.import_module(f"fledge.{module}")


def _found_with_redis(module: str) -> Any:
    """A module that needs the extra.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return _found(module)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"redis_url needs the extra `redis`: pip install 'fledge[redis]' ({error})"
        ) from None


def database_url(settings: Settings) -> str:
    """Where the accounts are; the folder of the default is made."""
    if settings.database_url is not None:
        return settings.database_url
    folder = _data_dir(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(
            f"data_dir: {folder} cannot be made: {error.strerror}; set data_dir to a folder that "
            "may be written to, or database_url to none if there are to be no keys and no usage"
        ) from None
    return _default_url(settings)


def _data_dir(settings: Settings) -> Path:
    return settings.data_dir.expanduser().absolute()


def _default_url(settings: Settings) -> str:
    return f"sqlite:///{_data_dir(settings)}/accounts.db"


def open_database(settings: Settings) -> "Database":
    """The database of keys and usage, its tables up to date. Blocks.

    Raises:
        SettingsError: there is none, or its URL is malformed.
        DatabaseUnavailable: it cannot be reached.
    """
    if settings.database_url == NO_DATABASE:
        raise SettingsError("database_url is none: there are no keys here, and no usage")
    database: Database = _found("accounts.database").open_database(database_url(settings))
    return database


@contextmanager
def opened_keys(settings: Settings) -> "Iterator[KeyStore]":
    """The keys, for a command that looks at them or changes them. Blocks.

    Raises:
        SettingsError, DatabaseUnavailable: as `open_database`.
    """
    database = open_database(settings)
    try:
        yield _found("accounts.key_store").KeyStore(database)
    finally:
        database.close()


def report_usage(
    settings: Settings, query: UsageQuery, *, key: str | None = None
) -> list[dict[str, Any]]:
    """What was used, for a command. Blocks.

    Args:
        query: what about.
        key: of the key with this id or name alone.

    Raises:
        KeyNotFound: there is no such key.
        InvalidRequest: the query is no report.
        SettingsError, DatabaseUnavailable: as `open_database`.
    """
    database = open_database(settings)
    try:
        if key is not None:
            store: KeyStore = _found("accounts.key_store").KeyStore(database)
            query = replace(query, key_id=KEYLESS if key == KEYLESS else store.show(key).id)
        rows: list[dict[str, Any]] = _found("accounts.usage_report").usage_report(database, query)
    finally:
        database.close()
    return rows


def describe_stores(settings: Settings) -> list[tuple[str, str]]:
    """Whether the database and Redis answer, for people: no passwords, nothing made. Blocks."""
    return [("database", _describe_database(settings)), ("redis server", _describe_redis(settings))]


def _describe_database(settings: Settings) -> str:
    url = settings.database_url
    if url == NO_DATABASE:
        return "none: no keys, and no usage is counted"
    shown = without_password(url or _default_url(settings))
    try:
        is_there = _found("accounts.database").probe(url or _default_url(settings))
    except (SettingsError, DatabaseUnavailable) as error:
        return f"{shown}: {error}"
    return f"{shown}: {'answers' if is_there else 'not there yet; made when it is first needed'}"


def _describe_redis(settings: Settings) -> str:
    url = settings.redis_url
    if url is None:
        return "not set"
    try:
        reason = asyncio.run(_found_with_redis("accounts.redis_line").probe(url))
    except SettingsError as error:
        reason = str(error)
    return f"{without_password(url)}: {f'does not answer: {reason}' if reason else 'answers'}"


def warn_without_redis(settings: Settings) -> None:
    """Say in the log that Redis does not answer, where there should be one. Blocks for a second.

    Nothing needs it to start, so that a slip in its address would be seen at the first limit only.
    """
    url = settings.redis_url
    if url is None:
        return
    try:
        reason = asyncio.run(_found_with_redis("accounts.redis_line").probe(url))
    except SettingsError:
        return  # that is told by whoever needs it
    if reason:
        shown = without_password(url)
        _log.warning(
            "redis_url: %s does not answer: %s; going on without it until it does", shown, reason
        )


def open_accounts(settings: Settings) -> Accounts:
    """The accounts, counting and keeping up with the database. Blocks.

    Raises:
        SettingsError: a URL is malformed, or an extra is missing.
        DatabaseUnavailable: the database cannot be reached.
    """
    if settings.database_url == NO_DATABASE:
        return Accounts()
    make_limits = _limits(settings)
    database = open_database(settings)
    keyring = _found("accounts.keyring").Keyring(
        _found("accounts.key_store").KeyStore(database), max_stale_s=settings.keys_max_stale_s
    )
    try:
        meter = _found("accounts.meter").Meter(database)
        accounts: Accounts = _found("accounts.stored").StoredAccounts(
            database, keyring, meter, make_limits
        )
        keyring.start()
        meter.start()
    except BaseException:
        keyring.close()
        database.close()
        raise
    return accounts


def _limits(settings: Settings) -> Callable[[Callable[[str], int]], Limits]:
    if settings.redis_url is None:
        return lambda spent: MemoryLimits(spent=spent)
    redis_limits = _found_with_redis("accounts.limits_redis").RedisLimits

    def limits(spent: Callable[[str], int]) -> Limits:
        alone = MemoryLimits(spent=spent) if settings.limits_without_redis == "instance" else None
        shared: Limits = redis_limits(settings.redis_url, fallback=alone, spent=spent)
        return shared

    return limits


def open_batches(settings: Settings) -> BatchStore:
    """The files and batches. Nothing is made on the disk before the first file comes."""
    return BatchStore(_data_dir(settings), max_stored_bytes=settings.max_stored_bytes)


def open_cache(settings: Settings) -> Cache:
    """The cache, its tiers as the settings say. Nothing is opened before it is first used.

    Raises:
        SettingsError: the URL of Redis is malformed, or its extra is missing.
    """
    tiers: list[Tier] = []
    if settings.cache_files_bytes:
        folder = settings.cache_dir.expanduser() / "vectors"
        tiers.append(_found("cache.files").FileTier(folder, settings.cache_files_bytes))
    if settings.redis_url is not None and settings.cache_redis_ttl_s:
        tier = _found_with_redis("cache.redis").RedisTier
        tiers.append(tier(settings.redis_url, ttl_s=math.ceil(settings.cache_redis_ttl_s)))
    memory = MemoryTier(settings.cache_memory_bytes) if settings.cache_memory_bytes else None
    return Cache(memory, tiers)
