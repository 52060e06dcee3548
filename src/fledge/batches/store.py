"""Batches as they are kept: a record each, results that grow, and requests to cancel.

A record is written by whoever makes the batch, and from then on by the one instance that runs
batches. Any other instance that is asked to cancel one leaves a marker beside it. Everything here
blocks.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fledge.accounts.callers import Caller
from fledge.batches.documents import Documents, make_folder, storage
from fledge.batches.files import KEPT_S, LONGEST_SHOWN, FileStore
from fledge.batches.records import Batch, StoredFile
from fledge.errors import BatchEnded, FileInUse, InvalidRequest, Overloaded, UnknownBatch

WINDOW_S = 24 * 3600.0
"""Of the only completion window that there is, as at OpenAI."""

MOST_WAITING = 100
"""Batches of one owner that have not ended. A guess: each may have 50,000 requests."""

_RETRY_AFTER_S = 60.0
_CANCEL_SUFFIX = ".cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """What is chosen when a batch is made.

    Attributes:
        output_expires_after_s: seconds for which its results are kept.
    """

    endpoint: str
    completion_window: str
    input_file_id: str
    metadata: Mapping[str, str] | None = None
    output_expires_after_s: float = KEPT_S


class BatchStore:
    """The batches of one `data_dir`, and the files that they are about.

    Args:
        data_dir: nothing is made in it before the first file comes.
        max_stored_bytes: as of `FileStore`.
        now: the Unix time.

    Attributes:
        files: the files.
        folder: where the batches are.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        max_stored_bytes: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.files = FileStore(data_dir / "files", max_stored_bytes=max_stored_bytes, now=now)
        self.folder = data_dir / "batches"
        self.now = now
        self._documents = Documents(self.folder, Batch, "batch_")

    def is_used(self) -> bool:
        """Whether anything was ever kept here."""
        return self.folder.is_dir() or self.files.folder.is_dir()

    def create(self, spec: BatchSpec, caller: Caller) -> Batch:
        """Write a batch down; whoever runs batches finds it.

        Raises:
            UnknownFile: the caller has no such input file.
            InvalidRequest: it is no file for a batch.
            StorageQuotaExceeded: the caller keeps as much already as it may.
            Overloaded: too many of the caller's wait already.
            StorageUnavailable: it cannot be written.
        """
        file = self.files.find(spec.input_file_id, caller)
        if file.purpose != "batch":
            raise InvalidRequest(
                f"`input_file_id` must be a file of the purpose batch, not {file.purpose}",
                field="input_file_id",
            )
        self.files.quota.check(caller.owner)
        waiting = sum(
            one.owner == caller.owner and not one.has_ended for one in self._documents.all()
        )
        if waiting >= MOST_WAITING:
            raise Overloaded(
                f"{waiting} of your batches have not ended yet, and at most {MOST_WAITING} may "
                "wait: create this one later",
                retry_after_s=_RETRY_AFTER_S,
            )
        now = self.now()
        batch = Batch(
            id=self._documents.new_id(),
            owner=caller.owner,
            bill_to=caller.bill_to,
            created=now,
            endpoint=spec.endpoint,
            completion_window=spec.completion_window,
            metadata=spec.metadata,
            input_file_id=file.id,
            output_file_id=self.files.new_id(),
            error_file_id=self.files.new_id(),
            output_expires_after_s=spec.output_expires_after_s,
            expires=now + WINDOW_S,
        )
        self._documents.write(batch)
        return batch

    def find(self, batch_id: str, caller: Caller) -> Batch:
        """The caller's batch of that id.

        Raises:
            UnknownBatch: there is none, or it is another's.
            StorageUnavailable: nobody can say.
        """
        found = self._documents.read(batch_id)
        if found is None or not found.is_for(caller):
            raise UnknownBatch(f"No batch found with id '{batch_id[:LONGEST_SHOWN]}'.")
        return self._seen(found)

    def listed(self, caller: Caller) -> list[Batch]:
        """The caller's batches, oldest first.

        Raises:
            StorageUnavailable: they cannot be read.
        """
        return [self._seen(one) for one in self._documents.all() if one.is_for(caller)]

    def cancel(self, batch_id: str, caller: Caller) -> Batch:
        """Ask for a batch to end. One that is about to end, ends as it would.

        Raises:
            UnknownBatch: there is none, or it is another's.
            BatchEnded: it has.
            StorageUnavailable: the wish cannot be written down.
        """
        batch = self.find(batch_id, caller)
        if batch.has_ended:
            raise BatchEnded(f"Cannot cancel a batch with status '{batch.status}'.")
        with storage():
            make_folder(self.folder)
            self._marker(batch).touch(mode=0o600)
        return self._seen(batch)

    def delete_file(self, file_id: str, caller: Caller) -> StoredFile:
        """Remove the caller's file.

        Raises:
            UnknownFile: there is none, or it is another's.
            FileInUse: a batch that has not ended reads it.
            StorageUnavailable: it cannot be removed.
        """
        file = self.files.find(file_id, caller)
        for batch in self.unfinished():
            if batch.input_file_id == file.id:
                raise FileInUse(
                    f"{file.id} is the input of {batch.id}, which has not ended: cancel that first"
                )
        self.files.delete(file.id)
        return file

    def unfinished(self) -> list[Batch]:
        """Every batch that has not ended, oldest first.

        Raises:
            StorageUnavailable: they cannot be read.
        """
        return [one for one in self._documents.all() if not one.has_ended]

    def cancelled_at(self, batch: Batch) -> float | None:
        """When somebody asked for it to be cancelled; None: nobody did.

        Raises:
            StorageUnavailable: nobody can say.
        """
        with storage():
            try:
                return self._marker(batch).stat().st_mtime
            except FileNotFoundError:
                return None

    def write(self, batch: Batch) -> None:
        """Write down what has become of a batch. For the instance that runs batches.

        Raises:
            StorageUnavailable: it cannot be written.
        """
        self._documents.write(batch)
        if batch.has_ended:
            with storage():
                self._marker(batch).unlink(missing_ok=True)

    def output_path(self, batch: Batch) -> Path:
        """Where the results grow."""
        return self.folder / f"{batch.id}.output.jsonl"

    def errors_path(self, batch: Batch) -> Path:
        """Where the failures grow."""
        return self.folder / f"{batch.id}.errors.jsonl"

    def publish(self, batch: Batch) -> None:
        """Make files of the results. Safe to do again after a crash.

        Raises:
            StorageUnavailable: they cannot be moved.
        """
        for path, file_id, word, is_there in (
            (self.output_path(batch), batch.output_file_id, "output", batch.has_output),
            (self.errors_path(batch), batch.error_file_id, "error", batch.has_errors),
        ):
            if is_there:
                self.files.keep(
                    path,
                    file_id=file_id,
                    name=f"{batch.id}_{word}.jsonl",
                    owner=batch.owner,
                    purpose="batch_output",
                    kept_s=batch.output_expires_after_s,
                )
            else:
                with storage():
                    path.unlink(missing_ok=True)

    def clean(self) -> None:
        """Forget what is old: files that expired, and batches that ended as long ago.

        Raises:
            StorageUnavailable: it cannot be removed.
        """
        now = self.now()
        batches = self._documents.all()
        self.files.clean({one.input_file_id for one in batches if not one.has_ended})
        for one in batches:
            if one.has_ended and max(one.moments.values(), default=one.created) + KEPT_S <= now:
                self._documents.remove(one.id)
                with storage():
                    self._marker(one).unlink(missing_ok=True)

    def _seen(self, batch: Batch) -> Batch:
        """As callers see it: a wish to cancel shows before it is granted."""
        if batch.status in ("validating", "in_progress", "cancelling"):
            cancelled_at = self.cancelled_at(batch)
            if cancelled_at is not None:
                return batch.entered("cancelling", cancelled_at)
        return batch

    def _marker(self, batch: Batch) -> Path:
        return self.folder / f"{batch.id}{_CANCEL_SUFFIX}"
