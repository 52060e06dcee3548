"""Which keys a store may have, told without asking the thread that reads it.

Most of what is asked for was never computed, and to hear that from another thread costs ten times
what it costs to look at a few bits. So the keys are in a Bloom filter: it may take a key for one
that is there, and then the store is asked; what it does not know is not there.

Unless another process has written it since: that is a miss, and is learned with the next writing,
which every miss leads to.
"""

import struct
from collections.abc import Sequence

import numpy as np

from fledge.cache.database import Database, Unusable
from fledge.cache.key import KEY_BYTES

BYTES_PER_BIT = 64
"""Of the store's budget: an entry of 384 numbers has some 26 bits, one of 64 numbers 6 or 7."""

MIN_BITS, MAX_BITS = 2**13, 2**29
"""At most 64 MiB, however large the store is."""

CROWDED_BITS = 8
"""Bits for each key that was ever added, below which the filter is made anew: it is wrong about
one key in 40 then, and keys that have left the store are still in it."""

STEP = 512
"""Keys read at once while a filter is made: half a millisecond, after which others may read."""

_WORDS = struct.Struct("<4Q")  # a key is a digest: its words are as good as four hashes of it


class KeyFilter:
    """A set of keys, which only grows and may take a strange one for its own.

    One thread may add while another looks: it sees a key when adding it has ended.

    Args:
        budget_bytes: of the store.

    Attributes:
        added: how many keys were, those counted again that were added again.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.added = 0
        wanted = 1 << max(budget_bytes // BYTES_PER_BIT - 1, 0).bit_length()
        self.size = min(max(wanted, MIN_BITS), MAX_BITS)
        self._bits = bytearray(self.size // 8)

    def add(self, keys: Sequence[object]) -> None:
        """Take keys in; what cannot be one is left out."""
        whole = [key for key in keys if isinstance(key, bytes) and len(key) == KEY_BYTES]
        places = np.frombuffer(b"".join(whole), "<u8") & np.uint64(self.size - 1)
        masks = np.left_shift(1, places & np.uint64(7)).astype(np.uint8)
        np.bitwise_or.at(np.frombuffer(self._bits, np.uint8), places >> np.uint64(3), masks)
        self.added += len(whole)

    def may_have(self, key: bytes) -> bool:
        """Whether a key may be in it; False: it is not."""
        bits, mask = self._bits, self.size - 1
        for word in _WORDS.unpack(key):
            place = word & mask
            if not bits[place >> 3] >> (place & 7) & 1:
                return False
        return True


class KnownKeys:
    """The keys of a store. All but `among` is the thread's that has the store.

    Args:
        database: the store.
        budget_bytes: likewise.

    Attributes:
        has_more: whether there is something for `step` to do.
    """

    def __init__(self, database: Database, budget_bytes: int) -> None:
        self.has_more = True
        self._database = database
        self._budget_bytes = budget_bytes
        self._ready: KeyFilter | None = None
        self._growing: KeyFilter | None = None
        self._reached = b""  # by the growing one
        self._counted = 0  # keys of the store when the ready one was made
        self._number = 0  # of the store's file
        self._newest = 0  # id of an entry, up to which all are known

    def among(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Those that the store may have: all of them, before the first filter is ready."""
        ready = self._ready
        return keys if ready is None else [key for key in keys if ready.may_have(key)]

    def step(self) -> None:
        """Read some of the store's keys. Never fails: without a filter the store is asked."""
        try:
            self._step()
        except Unusable:
            self._growing = None
            self.has_more = False  # before something was written

    def wrote(self, keys: Sequence[bytes]) -> None:
        """Take in what was just written, and what others have written before it.

        Raises:
            Unusable: the store does not work now.
        """
        if self._number != self._database.number:
            self._ready = self._growing = None  # of another file
        filters = [one for one in (self._ready, self._growing) if one is not None]
        for one in filters:
            one.add(keys)
        if filters:
            newest = self._database.newest()
            if newest != self._newest + len(keys):
                others = self._database.keys_since(self._newest)
                for one in filters:
                    one.add(others)
            self._newest = newest
        self.has_more = self._growing is not None or self._ready is None or self._is_crowded()

    def _is_crowded(self) -> bool:
        ready = self._ready
        return ready is not None and ready.added > max(
            ready.size // CROWDED_BITS, 2 * self._counted
        )

    def _step(self) -> None:
        database = self._database
        if self._growing is None or self._number != database.number:
            self._newest = database.newest()  # before the first key: it may be written meanwhile
            self._number = database.number
            self._growing, self._reached = KeyFilter(self._budget_bytes), b""
        keys = database.keys_after(self._reached, STEP)
        self._growing.add(keys)
        if len(keys) == STEP:
            last = keys[-1]
            if not isinstance(last, bytes) or last <= self._reached:
                raise Unusable("the keys are not in order")  # and reading them might never end
            self._reached = last
            return
        newest = database.newest()
        self._growing.add(database.keys_since(self._newest))
        self._newest = newest
        self._counted = self._growing.added
        self._ready, self._growing, self.has_more = self._growing, None, False
