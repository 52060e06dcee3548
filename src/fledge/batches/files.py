"""Files that callers upload and batches make. Everything here blocks.

A file lies under its id, which is made here; what its owner calls it is only written down. It is
written under another name first, so that a file is whole or not there.
"""

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Self

from fledge.accounts.callers import Caller
from fledge.batches.documents import (
    PART_SUFFIX,
    Documents,
    make_folder,
    open_new,
    storage,
    sync_folder,
)
from fledge.batches.quota import Quota
from fledge.batches.records import Purpose, StoredFile
from fledge.errors import UnknownFile

KEPT_S = 30 * 24 * 3600.0
"""How long a file is kept whose owner says nothing of it: as OpenAI keeps those of batches."""

LONGEST_SHOWN = 64
"""Characters of an id that an error repeats: the real ones have fewer."""

_ORPHANED_S = 3600.0
"""What was not written to for so long belongs to no upload, whose time-outs are shorter."""


class FileStore:
    """The files of one `data_dir`, for any number of threads and processes.

    Args:
        folder: where they are; made when the first comes.
        max_stored_bytes: what each owner may keep; None: as much as there is room for.
        now: the Unix time.

    Attributes:
        folder: likewise.
        quota: what each owner keeps; files that batches make count too, and are never refused.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_stored_bytes: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.quota = Quota(max_stored_bytes, self._stored_bytes)
        self._now = now
        self._documents = Documents(folder, StoredFile, "file-")

    def begin(self, owner: str | None) -> "Upload":
        """A file that is on its way.

        Raises:
            StorageQuotaExceeded: the owner keeps as much already as it may.
            StorageUnavailable: nothing can be written.
        """
        self.quota.check(owner)
        with storage():
            make_folder(self.folder)
            part = self.folder / f"upload-{secrets.token_hex(16)}{PART_SUFFIX}"
            return Upload(self, part, owner)

    def find(self, file_id: str, caller: Caller) -> StoredFile:
        """The caller's file of that id.

        Raises:
            UnknownFile: there is none, or it is another's.
            StorageUnavailable: nobody can say.
        """
        found = self._documents.read(file_id)
        if found is None or not found.is_for(caller) or found.expires <= self._now():
            raise UnknownFile(f"No such File object: {file_id[:LONGEST_SHOWN]}")
        return found

    def listed(self, caller: Caller) -> list[StoredFile]:
        """The caller's files, oldest first.

        Raises:
            StorageUnavailable: they cannot be read.
        """
        now = self._now()
        return [one for one in self._documents.all() if one.is_for(caller) and one.expires > now]

    def path(self, file_id: str) -> Path:
        """Where the bytes of a file are."""
        return self.folder / file_id

    def new_id(self) -> str:
        """An id for a file to be."""
        return self._documents.new_id()

    def keep(
        self,
        path: Path,
        *,
        file_id: str,
        name: str,
        owner: str | None,
        purpose: Purpose,
        kept_s: float,
    ) -> StoredFile:
        """Take a finished file in, from a path on the same disk. Safe to do again after a crash.

        Raises:
            StorageUnavailable: it cannot be moved or written down.
        """
        with storage():
            make_folder(self.folder)
            with suppress(FileNotFoundError):  # moved before the crash
                path.replace(self.path(file_id))
            size = self.path(file_id).stat().st_size
            sync_folder(self.folder)
        now = self._now()
        stored = StoredFile(
            id=file_id,
            owner=owner,
            created=now,
            name=name,
            bytes=size,
            purpose=purpose,
            expires=now + kept_s,
        )
        self._documents.write(stored)
        self.quota.add(owner, size)
        return stored

    def delete(self, file_id: str) -> None:
        """Remove a file. Who is reading it reads on.

        Raises:
            StorageUnavailable: it cannot be removed.
        """
        self._documents.remove(file_id)  # first: a record must never be without its file
        with storage():
            self.path(file_id).unlink(missing_ok=True)

    def clean(self, in_use: Collection[str]) -> None:
        """Remove files that have expired, unless they are in use, and what no upload finished.

        Raises:
            StorageUnavailable: they cannot be removed.
        """
        now = self._now()
        known = {one.id: one for one in self._documents.all()}
        for one in known.values():
            if one.expires <= now and one.id not in in_use:
                self.delete(one.id)
        with storage(), suppress(FileNotFoundError):
            for path in list(self.folder.iterdir()):
                is_orphan = path.name.startswith("file-") and not path.suffix
                if path.suffix != PART_SUFFIX and (not is_orphan or path.name in known):
                    continue
                with suppress(FileNotFoundError):
                    # Wall-clock time, as the disk's: `now` may be another clock.
                    if time.time() - path.stat().st_mtime > _ORPHANED_S:
                        path.unlink()

    def _stored_bytes(self) -> Counter[str | None]:
        """What each owner keeps: also what has expired and is still read by a batch."""
        stored: Counter[str | None] = Counter()
        for one in self._documents.all():
            stored[one.owner] += one.bytes
        return stored


class Upload:
    """A file that is on its way. Leaving the block without `keep` leaves nothing behind.

    Attributes:
        bytes: how many have come.
    """

    def __init__(self, store: FileStore, part: Path, owner: str | None) -> None:
        self._store = store
        self._part = part
        self._owner = owner
        self._is_open = True
        self._file = os.fdopen(open_new(part), "wb")
        self.bytes = 0

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            StorageQuotaExceeded: the owner may not keep so many.
            StorageUnavailable: the disk is full, or worse.
        """
        self._store.quota.take(self._owner, len(data))
        self.bytes += len(data)
        with storage():
            self._file.write(data)

    def keep(self, *, name: str, purpose: Purpose, kept_s: float) -> StoredFile:
        """Make it a file, for good once this returns.

        Raises:
            StorageUnavailable: it cannot be written.
        """
        with storage():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        stored = self._store.keep(
            self._part,
            file_id=self._store.new_id(),
            name=name,
            owner=self._owner,
            purpose=purpose,
            kept_s=kept_s,
        )
        self._give_back()
        return stored

    def discard(self) -> None:
        """Forget it; does nothing once it is kept. Safe to call twice."""
        with suppress(OSError):
            self._file.close()  # which writes what is buffered, or fails to
        with suppress(OSError):
            self._part.unlink(missing_ok=True)
        self._give_back()

    def _give_back(self) -> None:
        if self._is_open:
            self._is_open = False
            self._store.quota.give_back(self._owner, self.bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()
