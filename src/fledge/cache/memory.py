"""The nearest tier: this process's memory."""

import sys
from collections import OrderedDict
from collections.abc import Sequence

from fledge.cache.entry import Cached
from fledge.cache.tiers import Pair

SLOT_BYTES = 120
"""What an `OrderedDict` takes for one entry, right after it has grown: CPython 3.11, 64 bits."""

_ALLOCATION_BYTES = 16
"""What malloc keeps beside each of the two objects, at most."""


class MemoryTier:
    """Entries by key, up to a number of bytes; the one that was used longest ago leaves first.

    For one event loop: it has no lock. Every operation costs the same however full it is.

    Args:
        budget_bytes: keys, entries and what the table itself takes, all together.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.size_bytes = 0
        # Not a dict: finding its first key takes longer the more have left from its front.
        self._entries: OrderedDict[bytes, Cached] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, keys: Sequence[bytes]) -> list[Cached | None]:
        """The entry of each key, now the one used last; None where there is none."""
        look_up, use = self._entries.get, self._entries.move_to_end
        found = []
        for key in keys:
            entry = look_up(key)
            if entry is not None:
                use(key)
            found.append(entry)
        return found

    def put(self, pairs: Sequence[Pair]) -> None:
        """Keep entries, in place of those that were kept under their keys."""
        entries = self._entries
        for key, entry in pairs:
            old = entries.pop(key, None)
            if old is not None:
                self.size_bytes -= _bytes(key, old)
            size_bytes = _bytes(key, entry)
            if size_bytes > self.budget_bytes:
                continue  # it would drive out all others, and then itself
            entries[key] = entry
            self.size_bytes += size_bytes
            while self.size_bytes > self.budget_bytes:
                self.size_bytes -= _bytes(*entries.popitem(last=False))


def _bytes(key: bytes, entry: Cached) -> int:
    return sys.getsizeof(key) + sys.getsizeof(entry) + SLOT_BYTES + 2 * _ALLOCATION_BYTES
