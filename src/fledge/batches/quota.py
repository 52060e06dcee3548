"""How many bytes of files each owner keeps, and may keep.

Nobody looks through the disk for each piece of an upload: what there is was counted a few seconds
ago, and what has come since is added. Before anybody is refused it is counted again, so that what
was deleted a moment ago, by whatever process, is free.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from fledge.errors import StorageQuotaExceeded

RECOUNT_S = 5.0
"""For so long files that other processes have taken in may not be known of."""


class Quota:
    """The bytes of every owner. For any number of threads. Blocks while it counts.

    Args:
        most_bytes: what each owner may keep; None: as much as there is room for.
        count: what each owner keeps on the disk.
        clock: seconds, from anywhere.
    """

    def __init__(
        self,
        most_bytes: int | None,
        count: Callable[[], Mapping[str | None, int]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_bytes = most_bytes
        self._count = count
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: Counter[str | None] = Counter()
        self._coming: Counter[str | None] = Counter()
        self._counted_s = float("-inf")

    def take(self, owner: str | None, size_bytes: int) -> None:
        """Count bytes that are about to be written; `give_back` is to follow.

        Raises:
            StorageQuotaExceeded: the owner may not keep so many more; they are not counted.
            StorageUnavailable: nobody can say.
        """
        self.check(owner, size_bytes)
        with self._lock:
            self._coming[owner] += size_bytes

    def give_back(self, owner: str | None, size_bytes: int) -> None:
        """They are on their way no more: they are a file, or gone."""
        with self._lock:
            self._coming[owner] -= size_bytes
            if not self._coming[owner]:
                del self._coming[owner]

    def add(self, owner: str | None, size_bytes: int) -> None:
        """Count a file that is there now, whoever was asked before."""
        with self._lock:
            self._kept[owner] += size_bytes

    def check(self, owner: str | None, size_bytes: int = 1) -> None:
        """Whether an owner may keep so many more.

        Raises:
            StorageQuotaExceeded: it may not.
            StorageUnavailable: nobody can say.
        """
        most_bytes = self._most_bytes
        if most_bytes is None:
            return
        if self._clock() - self._counted_s > RECOUNT_S:
            self._recount()
        if self._bytes(owner) + size_bytes <= most_bytes:
            return
        self._recount()
        if self._bytes(owner) + size_bytes > most_bytes:
            raise StorageQuotaExceeded(
                f"{self._kept[owner]} bytes of your files are kept, and at most {most_bytes} may "
                "be, those that are being sent included (max_stored_bytes): delete some, as "
                "results that were fetched"
            )

    def _bytes(self, owner: str | None) -> int:
        return self._kept[owner] + self._coming[owner]

    def _recount(self) -> None:
        kept = Counter(self._count())
        with self._lock:
            self._kept, self._counted_s = kept, self._clock()
