"""The folder outlives the process, keeps to its budget, and is never the reason for an error."""

import asyncio
import logging
import sqlite3
import stat
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from fledge.cache import files
from fledge.cache.breaker import FAILURES
from fledge.cache.database import TRIMMED_ROWS, TRIMS, Database
from fledge.cache.entry import Cached, pack
from fledge.cache.files import FileTier
from fledge.cache.tiers import Pair
from tests.unit.cache.fakes import answer, entry, key, pairs
from tests.unit.cache.folders import (
    MIB,
    database_file,
    found_in_time,
    keep,
    kept,
    lost_in_time,
    opened,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def large(text: str) -> Pair:
    return key(text), entry(text, dimension=1024)


async def test_entries_survive_the_process(tmp_path: Path) -> None:
    await keep(tmp_path, "a", "b")
    assert await kept(tmp_path, "b", "x", "a") == [entry("b"), None, entry("a")]


async def test_the_folder_is_made_and_is_nobody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "cache"
    await keep(folder, "a")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_in_a_folder_that_others_may_look_into_is_nobody_elses(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    database = Database(tmp_path, MIB)
    database.put(pairs("a"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    database.close()
    assert len(modes) > 1  # and its log
    assert set(modes.values()) == {0o600}


async def test_what_was_put_is_found_a_moment_later(tmp_path: Path) -> None:
    async with opened(tmp_path) as tier:
        tier.put(pairs("a"))
        assert await found_in_time(tier, "a")


async def test_an_entry_replaces_an_older_one(tmp_path: Path) -> None:
    newer = pack([key("a")], answer(["newer"]))[0]
    async with opened(tmp_path) as tier:
        tier.put(pairs("a"))
        tier.put([(key("a"), newer)])
    assert await kept(tmp_path, "a") == [newer]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 511, 512, 513, 1500])
async def test_any_number_of_keys_is_one_question(tmp_path: Path, count: int) -> None:
    texts = [str(number) for number in range(count)]
    await keep(tmp_path, *texts[::2])
    found = await kept(tmp_path, *texts)
    assert found[::2] == [entry(text) for text in texts[::2]]
    assert found[1::2] == [None] * (count // 2)


async def test_one_key_many_times_is_answered_many_times(tmp_path: Path) -> None:
    await keep(tmp_path, "a")
    assert await kept(tmp_path, "a", "a", "x", "a") == [entry("a"), entry("a"), None, entry("a")]


async def test_hits_misses_and_what_was_written_are_counted(tmp_path: Path) -> None:
    await keep(tmp_path, "a", "b")
    async with opened(tmp_path) as tier:
        await tier.get([key("a"), key("b"), key("x")])
        tier.put(pairs("c"))
    assert (tier.counts.hits, tier.counts.misses, tier.counts.written) == (2, 1, 1)
    assert (tier.counts.dropped, tier.counts.damaged, tier.counts.failures) == (0, 0, 0)


async def test_the_file_keeps_to_its_budget_and_what_was_written_first_leaves(
    tmp_path: Path,
) -> None:
    database = Database(tmp_path, 2 * MIB)
    texts = [str(number) for number in range(1000)]
    for first in range(0, len(texts), 50):
        database.put([large(text) for text in texts[first : first + 50]])
    found = [one is not None for one in database.get([key(text) for text in texts])]
    database.close()
    assert database_file(tmp_path).stat().st_size <= 2 * MIB
    count = sum(found)
    assert found == [False] * (1000 - count) + [True] * count
    assert count * len(large("a")[1]) > MIB  # they leave by steps, not by the whole budget


async def test_a_file_larger_than_a_new_budget_shrinks_step_by_step(tmp_path: Path) -> None:
    database = Database(tmp_path, 64 * MIB)
    database.put([large(str(number)) for number in range(2000)])
    database.close()
    before = database_file(tmp_path).stat().st_size
    database = Database(tmp_path, 2 * MIB)
    assert database.trim()
    first_step = sum(
        one is None for one in database.get([key(str(number)) for number in range(2000)])
    )
    assert first_step == TRIMMED_ROWS * TRIMS
    while database.trim():
        pass
    database.close()
    assert database_file(tmp_path).stat().st_size <= 2 * MIB < before


async def test_a_smaller_budget_is_reached_after_the_next_write(tmp_path: Path) -> None:
    database = Database(tmp_path, 64 * MIB)
    database.put([large(str(number)) for number in range(2000)])
    database.close()
    async with opened(tmp_path, budget_bytes=2 * MIB) as tier:
        tier.put(pairs("new"))
        assert await lost_in_time(tier, *map(large, map(str, range(1600))))
        assert await tier.get([key("new")]) == [entry("new")]
    assert database_file(tmp_path).stat().st_size <= 2 * MIB


async def test_two_tiers_share_a_folder(tmp_path: Path) -> None:
    texts = [str(number) for number in range(300)]
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        for text in texts:
            (one if int(text) % 2 else other).put(pairs(text))
            await asyncio.sleep(0)
    assert await kept(tmp_path, *texts) == [entry(text) for text in texts]


async def test_while_another_process_holds_the_file_nothing_is_written_and_all_is_read(
    tmp_path: Path,
) -> None:
    await keep(tmp_path, "a")
    with closing(sqlite3.connect(database_file(tmp_path), isolation_level=None)) as connection:
        connection.execute("begin immediate")
        async with opened(tmp_path) as tier:
            tier.put(pairs("b"))
            assert await tier.get([key("a")]) == [entry("a")]
        assert (tier.counts.dropped, tier.counts.failures) == (1, 1)
        connection.execute("rollback")
    assert await kept(tmp_path, "a", "b") == [entry("a"), None]


async def test_a_folder_that_cannot_be_used_is_left_alone_after_a_few_tries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    async with opened(tmp_path / "file" / "cache") as tier:
        for _ in range(FAILURES + 3):
            assert await tier.get([key("a")]) == [None]
        tier.put(pairs("a"))
    assert tier.counts.failures == FAILURES + 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "going on without it" in caplog.text


async def test_a_folder_deleted_under_way_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    async with opened(folder) as tier:
        tier.put(pairs("a"))
        await tier.get([key("a")])
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        assert (await tier.get([key("a")]))[0] in (None, entry("a"))
        tier.put(pairs("b"))
    await keep(folder, "c")
    assert await kept(folder, "c") == [entry("c")]


class Stuck(Database):
    """A store on a disk that hangs until it is released."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        super().__init__(folder, budget_bytes)
        self.may_go = threading.Event()
        self.reads = 0

    def get(self, keys: Sequence[bytes]) -> list[Cached | None]:
        self.reads += 1
        self.may_go.wait()
        return super().get(keys)


async def test_a_disk_that_hangs_is_a_miss_and_nobody_waits_for_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keep(tmp_path, "a")
    monkeypatch.setattr(files, "Database", Stuck)
    monkeypatch.setattr(files, "PATIENCE_S", 0.01)
    async with opened(tmp_path) as tier:
        disk = tier._database
        assert isinstance(disk, Stuck)
        tier.put(pairs("a"))
        for _ in range(50):
            assert await tier.get([key("a")]) == [None]
        assert (disk.reads, tier.counts.late) == (1, 1)
        disk.may_go.set()
        assert await found_in_time(tier, "a")


async def test_closing_does_not_wait_for_ever_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await keep(tmp_path, "a")
    monkeypatch.setattr(files, "Database", Stuck)
    monkeypatch.setattr(files, "PATIENCE_S", 0.01)
    monkeypatch.setattr(files, "CLOSE_S", 0.01)
    async with opened(tmp_path) as tier:
        disk = tier._database
        await tier.get([key("a")])
    assert "were not closed" in caplog.text
    assert isinstance(disk, Stuck)
    disk.may_go.set()
    await asyncio.to_thread(tier._ended.result, 20)


async def test_what_does_not_fit_into_the_queue_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "QUEUE_BYTES", 3 * len(entry("a")))
    async with opened(tmp_path) as tier:
        tier.put(pairs("a", "b", "c", "d", "e"))
    assert (tier.counts.written, tier.counts.dropped) == (3, 2)
    assert await kept(tmp_path, "c", "d") == [entry("c"), None]


async def test_a_closed_tier_has_nothing_and_takes_nothing(tmp_path: Path) -> None:
    tier = FileTier(tmp_path / "cache", MIB)
    await tier.aclose()
    await tier.aclose()
    tier.put(pairs("a"))
    assert await tier.get([key("a")]) == [None]
    assert tier.counts.dropped == 1
    assert not (tmp_path / "cache").exists()


async def test_a_mistake_in_one_piece_of_work_does_not_end_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as tier:
        with monkeypatch.context() as patched:
            patched.setattr(tier._database, "get", lambda keys: 1 / 0)
            assert await tier.get([key("a")]) == [None]
        tier.put(pairs("a"))
    assert "ZeroDivisionError" in caplog.text
    assert await kept(tmp_path, "a") == [entry("a")]
