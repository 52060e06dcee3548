"""What went wrong with a load: its kind, what callers are told, and when it may be tried again."""

import errno
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fledge.errors import (
    CorruptModel,
    FledgeError,
    ModelGated,
    ModelLoadError,
    ModelNotFound,
    ModelOffline,
    OutOfMemory,
    UnsupportedModel,
)
from fledge.types import FailureKind

COOL_DOWN_S: Mapping[FailureKind, float] = {
    "not_found": 600,
    "gated": 600,
    "corrupt": 600,
    "unsupported": 600,
    "offline": 30,
    "out_of_memory": 60,
    "unknown": 60,
}
"""Seconds for which a failure is remembered. What passes by itself is tried again soon; what only
somebody's work can mend is not, and after that work an explicit load need not wait."""

ERRORS: Mapping[FailureKind, type[ModelLoadError]] = {
    "not_found": ModelNotFound,
    "gated": ModelGated,
    "corrupt": CorruptModel,
    "unsupported": UnsupportedModel,
    "offline": ModelOffline,
    "out_of_memory": OutOfMemory,
    "unknown": ModelLoadError,
}

_NAME = r"""[^\s\\/'"`:;,()]+"""
_UNKNOWN_FOLDERS = rf"(?:[A-Za-z]:[\\/]|/)(?:{_NAME}[\\/])+"
"""Every folder of an absolute path, but not the name at its end."""


class NoRoom(OutOfMemory):
    """It does not fit beside those that stay: by arithmetic, before anything was tried.

    Attributes:
        needed_bytes: what there was no room for.
    """

    def __init__(
        self, message: str, *, needed_bytes: int, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.needed_bytes = needed_bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed load, as it is remembered.

    Attributes:
        kind: what kind of failure it was.
        reason: for callers; names no folder of this machine.
        until_s: when it may be tried again, by the clock of the lifecycle.
        needed_bytes: what there was no room for: it may be tried again once there is.
    """

    kind: FailureKind
    reason: str
    until_s: float
    needed_bytes: int | None = None

    def error(self, now_s: float) -> ModelLoadError:
        """A new error for one caller: one that many raise would gather all their tracebacks."""
        return ERRORS[self.kind](self.reason, retry_after_s=max(0.0, self.until_s - now_s))


def classify(error: BaseException) -> FailureKind:
    """The kind of a failure: by the class of the error, or of the first telling one behind it."""
    reasons = [error]
    while (cause := reasons[-1].__cause__) is not None and cause not in reasons:
        reasons.append(cause)
    return next((kind for reason in reasons if (kind := _kind(reason))), "unknown")


def _kind(error: BaseException) -> FailureKind | None:
    for kind, family in ERRORS.items():
        if isinstance(error, family) and family is not ModelLoadError:
            return kind
    has_no_memory = (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and "bad_alloc" in str(error))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )
    return "out_of_memory" if has_no_memory else None


def public_reason(error: BaseException, words_by_folder: Mapping[Path, str]) -> str:
    """What callers are told of an error.

    The message of an error of Fledge's own, without folders of this machine; of any other error
    the class, since nobody knows what its message tells.

    Args:
        error: what was raised.
        words_by_folder: what is said in place of folders that have a name.
    """
    message = str(error) if isinstance(error, FledgeError) else ""
    if not message:
        return f"loading it failed with {type(error).__name__}; the server's log says why"
    return _without_folders(message, words_by_folder)


def _without_folders(text: str, words_by_folder: Mapping[Path, str]) -> str:
    """The text with a word, or nothing, in the place of every folder."""
    words = {one: word for path, word in words_by_folder.items() for one in _spellings(path)}
    # the longest first, so that a model's folder is not taken for something in the home folder
    known = "|".join(re.escape(one) for one in sorted(words, key=len, reverse=True)) or "(?!)"
    # what is before is not the part of an address or of a relative path
    pattern = (
        rf"(?<![\w.:/\\~-])(?:(?P<known>{known})(?P<rest>[\\/]\S*|(?![\w-]))|{_UNKNOWN_FOLDERS})"
    )

    def replaced(match: re.Match[str]) -> str:
        return words[match["known"]] + match["rest"] if match["known"] else ""

    return re.sub(pattern, replaced, text)


def _spellings(folder: Path) -> Iterable[str]:
    """A folder as it may be written; nothing for the root, which every path begins with."""
    paths = (folder.absolute(), Path(os.path.realpath(folder)))
    return {str(path) for path in paths if path != path.parent}
