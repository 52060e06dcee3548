"""What an owner may keep: counted seldom, and never refused by an old count."""

from collections import Counter

import pytest

from fledge.batches.quota import RECOUNT_S, Quota
from fledge.errors import StorageQuotaExceeded
from tests.unit.batches.fakes import Clock


class Disk:
    """What each owner keeps, and how often somebody looked."""

    def __init__(self) -> None:
        self.kept: Counter[str | None] = Counter()
        self.looks = 0

    def __call__(self) -> Counter[str | None]:
        self.looks += 1
        return self.kept.copy()


def quota(disk: Disk, clock: Clock, most_bytes: int | None = 100) -> Quota:
    return Quota(most_bytes, disk, clock=clock)


def test_the_disk_is_looked_at_once_in_a_while_and_not_for_each_piece() -> None:
    disk, clock = Disk(), Clock()
    one = quota(disk, clock)
    for _ in range(50):
        one.take("a", 1)
    assert disk.looks == 1
    clock.now += RECOUNT_S + 1
    one.take("a", 1)
    assert disk.looks == 2


def test_nobody_is_refused_for_what_is_gone_meanwhile() -> None:
    disk, clock = Disk(), Clock()
    one = quota(disk, clock)
    disk.kept["a"] = 100
    with pytest.raises(StorageQuotaExceeded):
        one.check("a")
    disk.kept["a"] = 0
    one.take("a", 100)
    with pytest.raises(StorageQuotaExceeded):
        one.check("a")
    one.give_back("a", 100)
    one.take("a", 100)


def test_what_was_kept_counts_before_the_disk_is_looked_at_again() -> None:
    disk, clock = Disk(), Clock()
    one = quota(disk, clock)
    one.take("a", 60)
    one.add("a", 60)
    one.give_back("a", 60)
    one.take("a", 40)
    assert disk.looks == 1
    disk.kept["a"] = 60
    with pytest.raises(StorageQuotaExceeded, match=r"^60 bytes of your files are kept"):
        one.take("a", 1)


def test_without_a_bound_nobody_looks() -> None:
    disk = Disk()
    one = quota(disk, Clock(), None)
    one.take("a", 10**15)
    one.give_back("a", 10**15)
    assert disk.looks == 0
