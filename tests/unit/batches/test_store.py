"""Files and batches as they are kept: whose they are, what is left of them, when they go."""

import os
import time
from pathlib import Path

import pytest

from fledge.accounts.callers import NOBODY, Caller
from fledge.batches import store as stores
from fledge.batches.files import KEPT_S
from fledge.batches.paging import page_of
from fledge.batches.store import BatchSpec, BatchStore
from fledge.errors import (
    BatchEnded,
    FileInUse,
    InvalidRequest,
    Overloaded,
    StorageQuotaExceeded,
    StorageUnavailable,
    UnknownBatch,
    UnknownFile,
)
from tests.unit.batches.fakes import ADMIN, Clock, create, jsonl, key, requests, upload

A, B = Caller(key("key_a")), Caller(key("key_b"))
DATA = jsonl(requests(2))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> BatchStore:
    return BatchStore(tmp_path, now=clock)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("owner", [A, NOBODY])
def test_what_is_anothers_is_not_there(store: BatchStore, owner: Caller) -> None:
    batch = create(store, DATA, owner)
    for caller in (owner, ADMIN):
        assert store.files.find(batch.input_file_id, caller).name == "in.jsonl"
        assert store.find(batch.id, caller) == batch
        assert store.listed(caller) == [batch]
        assert len(store.files.listed(caller)) == 1
    others = [one for one in (A, B, NOBODY) if one is not owner]
    for caller in others:
        assert store.listed(caller) == []
        assert store.files.listed(caller) == []
        with pytest.raises(UnknownFile):
            store.files.find(batch.input_file_id, caller)
        with pytest.raises(UnknownFile):
            store.delete_file(batch.input_file_id, caller)
        with pytest.raises(UnknownBatch):
            store.find(batch.id, caller)
        with pytest.raises(UnknownBatch):
            store.cancel(batch.id, caller)
        with pytest.raises(UnknownFile):
            store.create(
                BatchSpec(endpoint="/", completion_window="24h", input_file_id=batch.input_file_id),
                caller,
            )


@pytest.mark.parametrize(
    "file_id",
    [
        "",
        ".",
        "../accounts.db",
        "file-",
        "file-" + "0" * 31,
        "file-" + "0" * 33,
        "a\x00b",
        "ü" * 999,
    ],
)
def test_an_id_is_never_a_path(store: BatchStore, file_id: str) -> None:
    upload(store, DATA)
    with pytest.raises(UnknownFile, match="No such File object"):
        store.files.find(file_id, ADMIN)
    with pytest.raises(UnknownBatch):
        store.find(file_id, ADMIN)


def test_folders_and_files_are_for_their_owner_alone(store: BatchStore) -> None:
    create(store, DATA)
    for folder in (store.files.folder, store.folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_an_upload_that_is_not_kept_leaves_nothing(store: BatchStore) -> None:
    with store.files.begin(None) as file:
        file.write(b"x" * 100_000)
    assert names(store.files.folder) == []


def test_another_instance_sees_everything_at_once(store: BatchStore, tmp_path: Path) -> None:
    other = BatchStore(tmp_path, now=store.now)
    batch = create(store, DATA)
    assert other.listed(NOBODY) == [batch]
    store.write(batch.entered("in_progress", 1.0, total=2))
    assert other.find(batch.id, NOBODY).total == 2
    assert other.cancel(batch.id, NOBODY).status == "cancelling"
    assert store.find(batch.id, NOBODY).status == "cancelling"


def test_a_batch_that_has_ended_is_not_cancelled(store: BatchStore) -> None:
    batch = create(store, DATA)
    store.cancel(batch.id, NOBODY)
    store.write(batch.entered("completed", 1.0))
    with pytest.raises(BatchEnded, match="'completed'"):
        store.cancel(batch.id, NOBODY)
    assert store.find(batch.id, NOBODY).status == "completed"
    assert names(store.folder) == [f"{batch.id}.json"]


def test_a_file_stays_while_a_batch_reads_it(store: BatchStore, clock: Clock) -> None:
    batch = create(store, DATA)
    with pytest.raises(FileInUse):
        store.delete_file(batch.input_file_id, NOBODY)
    clock.now += KEPT_S
    store.clean()
    assert store.files.path(batch.input_file_id).exists()
    store.write(batch.entered("cancelled", clock.now))
    store.clean()
    assert names(store.files.folder) == []


def test_files_and_batches_go_when_their_time_is_over(store: BatchStore, clock: Clock) -> None:
    file_id = upload(store, DATA)
    batch = create(store, DATA)
    store.write(batch.entered("completed", clock.now))
    clock.now += KEPT_S - 1
    store.clean()
    assert store.files.find(file_id, NOBODY).bytes == len(DATA)
    clock.now += 1
    with pytest.raises(UnknownFile):
        store.files.find(file_id, NOBODY)
    store.clean()
    assert names(store.files.folder) == names(store.folder) == []


def test_what_an_upload_left_behind_goes_after_a_while(store: BatchStore) -> None:
    file_id = upload(store, DATA)
    folder = store.files.folder
    old, orphan, new = folder / "upload-1.part", folder / ("file-" + "0" * 32), folder / "2.part"
    for path in (old, orphan, new):
        path.write_bytes(b"x")
    for path in (old, orphan, store.files.path(file_id)):
        os.utime(path, (time.time() - 7200,) * 2)
    store.clean()
    assert names(folder) == sorted([file_id, f"{file_id}.json", new.name])


def test_a_damaged_record_is_not_there_and_hurts_no_other(store: BatchStore) -> None:
    first, second = create(store, DATA), create(store, DATA)
    (store.folder / f"{first.id}.json").write_bytes(b'{"id"')
    assert store.listed(NOBODY) == [second]
    with pytest.raises(UnknownBatch):
        store.find(first.id, NOBODY)


def test_only_so_many_batches_of_an_owner_wait(
    store: BatchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "MOST_WAITING", 2)
    first, _ = create(store, DATA, A), create(store, DATA, A)
    with pytest.raises(Overloaded):
        create(store, DATA, A)
    create(store, DATA, B)
    store.write(first.entered("completed", 1.0))
    create(store, DATA, A)


def test_an_owner_keeps_so_many_bytes_and_no_more(tmp_path: Path, clock: Clock) -> None:
    store = BatchStore(tmp_path, max_stored_bytes=2 * len(DATA), now=clock)
    first, _ = upload(store, DATA, A), upload(store, DATA, A)
    with pytest.raises(StorageQuotaExceeded, match=rf"^{2 * len(DATA)} bytes"):
        store.files.begin(A.owner)
    upload(store, DATA, B)
    upload(store, DATA)
    store.delete_file(first, A)
    with store.files.begin(A.owner) as one, store.files.begin(A.owner) as other:
        one.write(DATA[:-1])
        with pytest.raises(StorageQuotaExceeded):  # what is on its way counts too
            other.write(b"xx")
        other.write(b"x")
    upload(store, DATA, A)  # and what was not kept does not


def test_files_that_another_instance_takes_in_or_removes_count_too(
    tmp_path: Path, clock: Clock
) -> None:
    store, other = (
        BatchStore(tmp_path, max_stored_bytes=2 * len(DATA), now=clock) for _ in range(2)
    )
    first = upload(other, DATA, A)
    upload(store, DATA, A)
    with pytest.raises(StorageQuotaExceeded):
        store.files.begin(A.owner)
    other.delete_file(first, A)
    upload(store, DATA, A)


def test_a_batch_that_was_accepted_keeps_its_results_and_then_no_other_is_made(
    tmp_path: Path, clock: Clock
) -> None:
    store = BatchStore(tmp_path, max_stored_bytes=2 * len(DATA), now=clock)
    batch = create(store, DATA, A)
    spec = BatchSpec(endpoint="/", completion_window="24h", input_file_id=batch.input_file_id)
    store.output_path(batch).write_bytes(b"x" * 9 * len(DATA))
    batch = batch.entered("completed", 1.0, has_output=True)
    store.publish(batch)
    store.write(batch)
    assert store.files.find(batch.output_file_id, A).bytes == 9 * len(DATA)
    for _ in range(2):
        with pytest.raises(StorageQuotaExceeded):
            store.create(spec, A)
    store.delete_file(batch.output_file_id, A)
    store.create(spec, A)


def test_a_folder_that_may_not_be_written_to_is_the_servers_own_fault(tmp_path: Path) -> None:
    (tmp_path / "files").write_bytes(b"a file")
    with pytest.raises(StorageUnavailable):
        BatchStore(tmp_path).files.begin(None)


def test_pages_follow_one_another(store: BatchStore, clock: Clock) -> None:
    for _ in range(5):
        upload(store, DATA)
        clock.now += 1
    files = store.files.listed(NOBODY)
    first = page_of(files, after=None, limit=2)
    second = page_of(files, after=first.records[-1].id, limit=3)
    assert [*first.records, *second.records] == files
    assert (first.has_more, second.has_more) == (True, False)
    with pytest.raises(InvalidRequest):
        page_of(files, after="file-none", limit=1)
