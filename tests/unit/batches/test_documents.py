"""Records in a folder, while several threads and instances read and write them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fledge.batches.documents import Documents
from fledge.batches.records import StoredFile


def record(record_id: str, size: int) -> StoredFile:
    return StoredFile(
        id=record_id, owner=None, created=1.0, name="a", bytes=size, purpose="batch", expires=2.0
    )


def test_a_reader_sees_the_old_or_the_new_and_never_half(tmp_path: Path) -> None:
    ours, others = (Documents(tmp_path, StoredFile, "file-") for _ in "12")
    ids = [ours.new_id() for _ in range(5)]
    for one in ids:
        ours.write(record(one, 0))
    is_over = threading.Event()

    def read() -> None:
        last = dict.fromkeys(ids, 0)
        while not is_over.is_set():
            found = {one.id: one.bytes for one in others.all()}
            assert found.keys() == last.keys()
            assert all(found[one] >= last[one] for one in ids)
            last = found
            assert others.read(ids[0]) is not None

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for size in range(1, 20):
            for one in ids:
                ours.write(record(one, size))
        is_over.set()
        for reader in readers:
            reader.result()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_what_another_instance_wrote_or_removed_is_seen_at_once(tmp_path: Path) -> None:
    ours, others = (Documents(tmp_path, StoredFile, "file-") for _ in "12")
    first = record(ours.new_id(), 1)
    ours.write(first)
    assert others.read(first.id) == first
    for size in range(2, 50):
        ours.write(record(first.id, size))
        found = others.read(first.id)
        assert found is not None
        assert found.bytes == size
    ours.remove(first.id)
    assert others.read(first.id) is None
    assert others.all() == []
