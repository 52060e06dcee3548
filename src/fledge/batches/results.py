"""The answers of a batch: two files that grow by whole lines, and tell by themselves what is done.

A line begins with its id, which has the number of the input's line and the tokens that it took in
it. So after a crash there is no second book that could disagree: what stands in the files is done,
a line that is cut off is not.
"""

import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fledge.batches.documents import FILE_MODE, storage

_ID = re.compile(rb'\{"id":"batch_req_([0-9a-f]{8})([0-9a-f]{8})[0-9a-f]{16}",')
_END = b"}\n"
_MOST = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request, as it would have been given over HTTP.

    Attributes:
        status: the HTTP status.
        body: JSON.
        tokens: that it was charged.
    """

    status: int
    body: bytes
    tokens: int = 0

    @property
    def is_success(self) -> bool:
        """Whether it belongs into the output, and not to the errors."""
        return self.status < 300


class _Growing:
    """A file that grows by whole lines."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE)
        self.bytes = 0

    def recover(self) -> Iterator[tuple[int, int]]:
        """Number and tokens of each whole line; what follows the last of them is cut away."""
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            for line in file:
                found = _ID.match(line)
                if found is None or not line.endswith(_END):
                    break
                self.bytes += len(line)
                yield int(found[1], 16), int(found[2], 16)
        os.ftruncate(self._descriptor, self.bytes)
        os.lseek(self._descriptor, self.bytes, os.SEEK_SET)

    def append(self, *parts: bytes) -> None:
        """One more line, all of it or nothing."""
        view = memoryview(b"".join(parts))
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            os.ftruncate(self._descriptor, self.bytes)
            raise
        finally:
            if view:
                os.lseek(self._descriptor, self.bytes, os.SEEK_SET)
        self.bytes = os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def close(self) -> None:
        os.fsync(self._descriptor)
        os.close(self._descriptor)


class Results:
    """What a batch has answered so far. Blocks; for one thread at a time.

    Args:
        output: where the answers go.
        errors: where the failures go.

    Attributes:
        done: numbers of the lines that were answered.
        completed: how many of them with success.
        failed: how many without.
        tokens: of those with success.

    Raises:
        StorageUnavailable: the files cannot be opened.
    """

    def __init__(self, output: Path, errors: Path) -> None:
        self.done: set[int] = set()
        self.completed = self.failed = self.tokens = 0
        with storage():
            self._output, self._errors = _Growing(output), _Growing(errors)
            for number, tokens in self._output.recover():
                self._count(number, tokens, is_success=True)
            for number, _ in self._errors.recover():
                self._count(number, 0, is_success=False)

    def add(self, number: int, custom_id: str, reply: Reply) -> None:
        """Write down an answer.

        Raises:
            StorageUnavailable: it cannot be written; nothing of it is then.
        """
        tokens = min(reply.tokens, _MOST)
        head = {"id": _id(number, tokens), "custom_id": custom_id}
        status, request_id = reply.status, secrets.token_hex(16)
        with storage():
            (self._output if reply.is_success else self._errors).append(
                orjson.dumps(head)[:-1],
                b',"response":{"status_code":%d,"request_id":"%b","body":'
                % (status, request_id.encode()),
                reply.body,
                b'},"error":null}\n',
            )
        self._count(number, tokens, is_success=reply.is_success)

    def add_unanswered(self, number: int, custom_id: str, error: dict[str, Any]) -> None:
        """Write down why there is no answer.

        Raises:
            StorageUnavailable: it cannot be written; nothing of it is then.
        """
        line = {"id": _id(number, 0), "custom_id": custom_id, "response": None, "error": error}
        with storage():
            self._errors.append(orjson.dumps(line), b"\n")
        self._count(number, 0, is_success=False)

    @property
    def has_output(self) -> bool:
        """Whether there is any answer."""
        return self._output.bytes > 0

    @property
    def has_errors(self) -> bool:
        """Whether there is any failure."""
        return self._errors.bytes > 0

    def close(self) -> None:
        """Let go of the files; what they hold outlives a power cut from then on.

        Raises:
            StorageUnavailable: that cannot be promised.
        """
        with storage():
            try:
                self._output.close()
            finally:
                self._errors.close()

    def _count(self, number: int, tokens: int, *, is_success: bool) -> None:
        self.done.add(number)
        if is_success:
            self.completed += 1
            self.tokens += tokens
        else:
            self.failed += 1


def _id(number: int, tokens: int) -> str:
    return f"batch_req_{number:08x}{tokens:08x}{secrets.token_hex(8)}"
