"""How a batch begins and ends: its file is checked, and its results become files."""

import asyncio

from fledge.batches.documents import storage
from fledge.batches.lines import Check, LineReader
from fledge.batches.records import Batch, BatchError, Ending
from fledge.batches.results import Results
from fledge.batches.store import BatchStore

STEP_BYTES = 2**18
"""Of a file that are read at once: in between, everybody else has a turn."""

FILE_GONE = BatchError(code="file_not_found", message="The input file does not exist any more.")


async def validate(batch: Batch, store: BatchStore, *, max_line_bytes: int) -> None:
    """Look at every line before any is computed; a file with a mistake fails as a whole.

    Raises:
        StorageUnavailable: nobody can say.
    """
    check = Check(batch.endpoint)
    try:
        path = store.files.path(batch.input_file_id)
        reader = await asyncio.to_thread(LineReader, path, max_line_bytes)
    except FileNotFoundError:
        errors = [FILE_GONE]
    else:
        try:
            while not check.is_over and await asyncio.to_thread(_step, reader, check):
                if await asyncio.to_thread(store.cancelled_at, batch) is not None:
                    return
        finally:
            reader.close()
        errors = check.finish()
    if errors:
        failed = batch.entered("failed", store.now(), errors=tuple(errors), model=check.model)
        await asyncio.to_thread(store.write, failed)
        return
    begun = batch.entered("in_progress", store.now(), total=check.total, model=check.model)
    await asyncio.to_thread(store.write, begun)


def conclude(batch: Batch, store: BatchStore, ending: Ending, begun: float) -> None:
    """End a batch with what it has answered. Blocks.

    Args:
        begun: when it came to be certain how it ends.

    Raises:
        StorageUnavailable: it cannot be written; it can be tried again.
    """
    results = Results(store.output_path(batch), store.errors_path(batch))
    results.close()
    concluded = counted(batch, results).entered(
        "cancelling" if ending == "cancelled" else "finalizing",
        begun,
        ending=ending,
        has_output=results.has_output,
        has_errors=results.has_errors,
    )
    store.write(concluded)
    finish(concluded, store)


def finish(batch: Batch, store: BatchStore) -> None:
    """The last step of a batch whose ending is certain. Blocks.

    Raises:
        StorageUnavailable: it cannot be written; it can be tried again.
    """
    if batch.ending is None:
        raise ValueError(f"{batch.id} is not about to end")
    store.publish(batch)
    store.write(batch.entered(batch.ending, store.now()))


def counted(batch: Batch, results: Results) -> Batch:
    """The batch with the counts of its results."""
    return batch.model_copy(
        update={
            "completed": results.completed,
            "failed": results.failed,
            "tokens": results.tokens,
        }
    )


def _step(reader: LineReader, check: Check) -> bool:
    with storage():
        lines = reader.take(STEP_BYTES)
    check.add(lines)
    return bool(lines)
