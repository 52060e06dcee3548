"""What is not in the store costs no thread, and what is there is never taken for absent."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from fledge.cache import files, known
from fledge.cache.database import Database
from fledge.cache.entry import Cached
from fledge.cache.files import FileTier
from fledge.cache.key import Space
from fledge.cache.known import CROWDED_BITS, MAX_BITS, MIN_BITS, KeyFilter, KnownKeys
from tests.unit.cache.fakes import SPACE, entry, key, pairs
from tests.unit.cache.folders import MIB, database_file, keep, kept, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Asked(Database):
    """A store that remembers which keys it was asked for."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        super().__init__(folder, budget_bytes)
        self.keys: list[bytes] = []

    def get(self, keys: Sequence[bytes]) -> list[Cached | None]:
        self.keys += keys
        return super().get(keys)


def asked(tier: FileTier) -> list[bytes]:
    assert isinstance(tier._database, Asked)
    return tier._database.keys


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "Database", Asked)


def texts(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def keys(count: int, prefix: str = "") -> list[bytes]:
    return SPACE.keys(texts(count, prefix))


def known_of(database: Database) -> KnownKeys:
    """All of a store's keys, read to the end."""
    known = KnownKeys(database, MIB)
    while known.has_more:
        known.step()
    return known


async def until_known(tier: FileTier) -> None:
    """Wait until no question is needed to know what is absent."""
    strange = Space("never", "asked", dimension=1, max_tokens=1).keys(["for"])
    async with asyncio.timeout(20):
        while tier._known.among(strange):
            await tier.get(strange)
            await asyncio.sleep(0.001)


def test_a_filter_knows_every_key_and_few_others() -> None:
    one = KeyFilter(MIB)
    added = keys(one.size // CROWDED_BITS)
    for first in range(0, len(added), 100):
        one.add(added[first : first + 100])
    assert all(map(one.may_have, added))
    strange = keys(5000, "other ")
    assert sum(map(one.may_have, strange)) < len(strange) / 20
    assert one.added == len(added)


@pytest.mark.parametrize("budget_bytes", [0, 1, 1000, MIB, 2**30, 2**33, 2**50])
def test_a_filter_takes_little_of_a_budget(budget_bytes: int) -> None:
    size = KeyFilter(budget_bytes).size
    assert MIN_BITS <= size <= MAX_BITS
    assert size <= max(2 * budget_bytes // 64, MIN_BITS)


def test_what_cannot_be_a_key_is_in_no_filter() -> None:
    one = KeyFilter(MIB)
    one.add([b"", b"short", None, 5, key("a")])  # as a damaged file may have them
    assert one.added == 1
    assert one.may_have(key("a"))


@pytest.mark.parametrize("count", [0, 1, known.STEP - 1, known.STEP, 3 * known.STEP + 1])
def test_all_keys_of_a_store_are_found_when_it_is_opened(tmp_path: Path, count: int) -> None:
    database = Database(tmp_path, 64 * MIB)
    database.put(pairs(*texts(count)))
    found = known_of(database)
    assert found.among([*keys(count), key("strange")]) == keys(count)
    database.close()


def test_what_is_written_while_the_keys_are_read_is_known_too(tmp_path: Path) -> None:
    database, other = Database(tmp_path, 64 * MIB), Database(tmp_path, 64 * MIB)
    database.put(pairs(*texts(3 * known.STEP)))
    found = KnownKeys(database, MIB)
    for number in range(10):
        if found.has_more:
            found.step()
        database.put(pairs(f"own {number}"))
        found.wrote([key(f"own {number}")])
        other.put(pairs(f"another's {number}"))
    while found.has_more:
        found.step()
    # the last one may have come after the last look
    everything = [*keys(3 * known.STEP), *keys(10, "own "), *keys(9, "another's ")]
    assert found.among(everything) == everything
    database.close()
    other.close()


def test_what_another_process_wrote_is_known_after_the_next_writing(tmp_path: Path) -> None:
    database, other = Database(tmp_path, MIB), Database(tmp_path, MIB)
    found = known_of(database)
    other.put(pairs("a"))
    assert found.among([key("a")]) == []
    database.put(pairs("b"))
    found.wrote([key("b")])
    assert found.among([key("a"), key("b")]) == [key("a"), key("b")]
    database.close()
    other.close()


def test_a_crowded_filter_is_made_anew_of_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "CROWDED_BITS", MIN_BITS // 100)
    database = Database(tmp_path, 2**15)  # room for few
    found = KnownKeys(database, 0)
    for number in range(1000):
        database.put(pairs(f"{number}"))
        found.wrote([key(f"{number}")])
        if found.has_more:
            found.step()
    left = [one for one, entry in zip(keys(1000), database.get(keys(1000)), strict=True) if entry]
    assert set(left) <= set(found.among(keys(1000)))
    assert len(found.among(keys(1000))) < 500
    database.close()


def test_keys_in_no_order_end_the_reading(tmp_path: Path) -> None:
    class Damaged(Database):
        def keys_after(self, key: bytes, count: int) -> list[object]:
            return [b"\0"] * count

    found = KnownKeys(Damaged(tmp_path, MIB), MIB)
    while found.has_more:
        found.step()
    assert found.among([key("a")]) == [key("a")]  # so the store is asked


async def test_what_was_never_written_is_a_miss_without_a_question(
    tmp_path: Path, asking: None
) -> None:
    await keep(tmp_path, "a", "b")
    async with opened(tmp_path) as tier:
        await until_known(tier)
        asked(tier).clear()
        found = await tier.get([key("x"), key("a"), key("y"), key("a")])
        assert found == [None, entry("a"), None, entry("a")]
        assert asked(tier) == [key("a"), key("a")]
        before = tier.counts.misses
        assert await tier.get(keys(50, "never ")) == [None] * 50
        assert asked(tier) == [key("a"), key("a")]
        assert tier.counts.misses == before + 50
        assert (tier.counts.late, tier.counts.failures) == (0, 0)


async def test_what_is_written_is_asked_for_from_then_on(tmp_path: Path, asking: None) -> None:
    async with opened(tmp_path) as tier:
        await until_known(tier)
        tier.put(pairs(*texts(300)))
        async with asyncio.timeout(20):
            while tier.counts.written < 300:  # noqa: ASYNC110 - a thread of the tier's writes
                await asyncio.sleep(0.001)
        assert None not in await tier.get(keys(300))


async def test_a_file_that_was_set_aside_is_known_no_more(tmp_path: Path) -> None:
    await keep(tmp_path, *texts(500))
    async with opened(tmp_path) as tier:
        await until_known(tier)
        database_file(tmp_path).write_bytes(b"this is no database" * 1000)
        async with asyncio.timeout(20):
            while not database_file(tmp_path, 2).exists():
                await tier.get(keys(500))
                tier.put(pairs("new"))
                await asyncio.sleep(0.001)
            while await tier.get([key("new")]) != [entry("new")]:
                tier.put(pairs("new"))
                await asyncio.sleep(0.001)
        await until_known(tier)
        assert tier._known.among(keys(500)) == []
    assert await kept(tmp_path, "new") == [entry("new")]
