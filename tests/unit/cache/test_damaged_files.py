"""Whatever is damaged is a miss: an entry, a page, or the whole file."""

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fledge.cache.database import PAGE_BYTES, Database, Unusable
from tests.unit.cache.fakes import entry, key, pairs
from tests.unit.cache.folders import MIB, database_file, keep, kept, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def damage_value(folder: Path, text: str) -> None:
    with closing(sqlite3.connect(database_file(folder))) as connection, connection:
        (value,) = connection.execute(
            "select value from entries where key = ?", [key(text)]
        ).fetchone()
        damaged = value[:-1] + bytes([value[-1] ^ 1])
        connection.execute("update entries set value = ? where key = ?", [damaged, key(text)])


async def test_a_damaged_entry_is_a_miss_and_may_be_written_anew(tmp_path: Path) -> None:
    await keep(tmp_path, "a", "b")
    damage_value(tmp_path, "a")
    async with opened(tmp_path) as tier:
        assert await tier.get([key("a"), key("b")]) == [None, entry("b")]
        assert tier.counts.damaged == 1
        tier.put(pairs("a"))
    assert await kept(tmp_path, "a") == [entry("a")]


async def test_entries_under_each_others_keys_are_misses(tmp_path: Path) -> None:
    await keep(tmp_path, "a", "b")
    with closing(sqlite3.connect(database_file(tmp_path))) as connection, connection:
        connection.execute("update entries set key = x'00' where key = ?", [key("a")])
        connection.execute("update entries set key = ? where key = ?", [key("a"), key("b")])
        connection.execute("update entries set key = ? where key = x'00'", [key("b")])
    assert await kept(tmp_path, "a", "b") == [None, None]


@pytest.mark.parametrize("value", [None, 5, 1.5, "text", b""])
async def test_what_is_no_entry_is_a_miss(tmp_path: Path, value: object) -> None:
    await keep(tmp_path, "a")
    with closing(sqlite3.connect(database_file(tmp_path))) as connection, connection:
        connection.execute("drop table entries")
        connection.execute("create table entries (id integer primary key, key unique, value)")
        connection.execute("insert into entries (key, value) values (?, ?)", [key("a"), value])
    assert await kept(tmp_path, "a") == [None]


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def scramble(path: Path) -> None:
    """Everything but the first page."""
    size = path.stat().st_size
    noise = np.random.default_rng(0).bytes(size - PAGE_BYTES)
    with path.open("r+b") as file:
        file.seek(PAGE_BYTES)
        file.write(noise)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 7)


def other_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("drop table entries")
        connection.execute("create table entries (something text)")


@pytest.mark.parametrize("damage", [overwrite, scramble, cut, other_tables])
async def test_a_damaged_file_is_set_aside_with_a_warning_and_begun_anew(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [str(number) for number in range(500)]
    await keep(tmp_path, *texts)
    assert callable(damage)
    damage(database_file(tmp_path))
    async with opened(tmp_path) as tier:
        # An entry on a page that is whole may still be found, and then is right.
        for found, text in zip(await tier.get([key(t) for t in texts]), texts, strict=True):
            assert found in (None, entry(text))
        tier.put(pairs(*texts))
    async with opened(tmp_path) as tier:
        tier.put(pairs(*texts))
    assert await kept(tmp_path, *texts) == [entry(text) for text in texts]
    assert "is damaged" in caplog.text
    assert "begun in its place" in caplog.text
    assert database_file(tmp_path).exists()
    assert database_file(tmp_path, 2).exists()


async def test_of_damaged_files_one_is_left(tmp_path: Path) -> None:
    for number in range(1, 5):
        await keep(tmp_path, "a")
        overwrite(database_file(tmp_path, number))
        assert await kept(tmp_path, "a") == [None]
    assert [number for number in range(1, 7) if database_file(tmp_path, number).exists()] == [4, 5]


def test_a_process_joins_another_that_has_begun_anew(tmp_path: Path) -> None:
    asyncio.run(keep(tmp_path, *map(str, range(500))))
    first, second = Database(tmp_path, MIB), Database(tmp_path, MIB)
    for database in (first, second):
        database.get([key("0")])
    scramble(database_file(tmp_path))
    for database in (first, second):
        _until_it_works(database)
    first.put(pairs("new"))
    assert second.get([key("new")]) == [entry("new")]
    first.close()
    second.close()
    assert not database_file(tmp_path, 3).exists()


def _until_it_works(database: Database) -> None:
    for _ in range(10):
        try:
            database.put(pairs("probe"))
            database.get([key(str(number)) for number in range(500)])
        except Unusable:
            continue
        return
    pytest.fail("it never works again")
