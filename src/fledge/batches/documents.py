"""Small JSON documents in a folder: each replaced in one step, so that a reader never sees half.

Chosen over tables: what they describe are files in the same folder, so both live, move and are
backed up together, a server without a database has batches too, and nothing has to be migrated.
"""

import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from fledge.batches.records import Record
from fledge.errors import StorageUnavailable

_log = logging.getLogger(__name__)

FOLDER_MODE = 0o700
FILE_MODE = 0o600
SUFFIX = ".json"
PART_SUFFIX = ".part"

_SETTLED_NS = 1_000_000_000
"""Since it was written, before a document is taken to be the same by its stamp: the clock of a disk
may tick slowly, and the next version may lie where this one was."""

RecordT = TypeVar("RecordT", bound=Record)


@contextmanager
def storage() -> Iterator[None]:
    """Errors of the system as the storage's.

    Raises:
        StorageUnavailable: the disk is full or broken, or may not be written to.
    """
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"data_dir cannot be used: {error}") from error


def make_folder(folder: Path) -> None:
    """A folder that nobody else may look into."""
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)


def open_new(path: Path) -> int:
    """A descriptor of a new file for its owner's eyes alone."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)


def sync_folder(folder: Path) -> None:
    """Names that were given last through a power cut too, where the system can promise that."""
    if os.name == "nt":
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Stamp(NamedTuple):
    """What tells one version of a document from the next, which is another file."""

    inode: int
    modified_ns: int
    size: int


class Documents(Generic[RecordT]):
    """Records of one kind, a file each; safe between threads and processes. Everything blocks.

    Args:
        folder: where they are; made when the first is written.
        kind: what they are read as.
        prefix: how their ids begin; hex digits follow.
    """

    def __init__(self, folder: Path, kind: type[RecordT], prefix: str) -> None:
        self.folder = folder
        self._kind = kind
        self._prefix = prefix
        self._id = re.compile(re.escape(prefix) + r"[0-9a-f]{32}", re.ASCII)
        self._known: dict[str, tuple[_Stamp, RecordT]] = {}

    def new_id(self) -> str:
        """An id that nothing has: 128 random bits."""
        return self._prefix + secrets.token_hex(16)

    def read(self, record_id: str) -> RecordT | None:
        """The record of an id; None: there is none, whatever the text is.

        Raises:
            StorageUnavailable: it cannot be read.
        """
        if not self._id.fullmatch(record_id):
            return None
        path = self._path(record_id)
        with storage():
            try:
                return self._read(path, os.stat(path))  # noqa: PTH116 - what a scan gives too
            except FileNotFoundError:
                self._known.pop(path.name, None)
                return None

    def all(self) -> list[RecordT]:
        """Every record, oldest first.

        Raises:
            StorageUnavailable: they cannot be read.
        """
        found: dict[str, RecordT] = {}
        with storage():
            for name, stat in self._scan():
                try:
                    record = self._read(self.folder / name, stat)
                except FileNotFoundError:
                    continue  # removed just now
                if record is not None:
                    found[name] = record
        # A copy: other threads add to it meanwhile. What they lose is read again.
        self._known = {name: one for name, one in self._known.copy().items() if name in found}
        return sorted(found.values(), key=lambda one: (one.created, one.id))

    def write(self, record: RecordT) -> None:
        """Write a record down, for good once this returns.

        Raises:
            StorageUnavailable: it cannot be written.
        """
        part = self.folder / f"{record.id}.{secrets.token_hex(8)}{PART_SUFFIX}"
        with storage():
            make_folder(self.folder)
            try:
                descriptor = open_new(part)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(record.model_dump_json().encode())
                    file.flush()
                    os.fsync(descriptor)
                part.replace(self._path(record.id))
                sync_folder(self.folder)
            finally:
                part.unlink(missing_ok=True)

    def remove(self, record_id: str) -> None:
        """Forget a record, if there is one.

        Raises:
            StorageUnavailable: it cannot be removed.
        """
        with storage():
            self._path(record_id).unlink(missing_ok=True)

    def _path(self, record_id: str) -> Path:
        return self.folder / f"{record_id}{SUFFIX}"

    def _scan(self) -> Iterator[tuple[str, os.stat_result]]:
        try:
            entries = os.scandir(self.folder)
        except FileNotFoundError:
            return  # nothing was ever written
        with entries:
            for entry in entries:
                if self._id.fullmatch(entry.name.removesuffix(SUFFIX)) and entry.name.endswith(
                    SUFFIX
                ):
                    try:
                        stat = entry.stat()
                    except FileNotFoundError:
                        continue
                    yield entry.name, stat

    def _read(self, path: Path, stat: os.stat_result) -> RecordT | None:
        stamp = _Stamp(stat.st_ino, stat.st_mtime_ns, stat.st_size)
        known = self._known.get(path.name)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            record = self._kind.model_validate_json(path.read_bytes())
        except ValidationError:
            # Its text may hold names: they stay out of the log.
            _log.error("%s is damaged, and counts as not there", path.name)
            return None
        if time.time_ns() - stamp.modified_ns > _SETTLED_NS:
            self._known[path.name] = (stamp, record)
        return record
