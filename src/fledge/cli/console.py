"""Where words go: results to stdout and nothing else there; everything for people to stderr."""

import sys

import orjson
from rich.console import Console, RenderableType
from rich.text import Text

from fledge.names import format_bytes as format_bytes  # the commands' own way to it

PIPE_WIDTH = 10_000
"""Nothing is cut off where a program reads along."""


def print_json(value: object) -> None:
    """One line of JSON on stdout."""
    data = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
    print_bytes(data)


def print_bytes(data: bytes) -> None:
    """These bytes on stdout, now: a reader at the other end of a pipe should not wait for more."""
    rest = memoryview(data)
    while rest:
        # With PYTHONUNBUFFERED this is the bare file, which may take only a part of them: when the
        # reader of a pipe leaves, it is the next write that tells.
        rest = rest[sys.stdout.buffer.write(rest) :]
    sys.stdout.buffer.flush()


def print_table(table: RenderableType) -> None:
    """A table on stdout; without colours, and as wide as it likes, when it is not a terminal."""
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def note(message: str) -> None:
    """A line for people, on stderr."""
    error_console().print(Text(message), soft_wrap=True)


def warn(message: str) -> None:
    """A line that should not be overlooked, on stderr."""
    error_console().print(Text(f"warning: {message}", style="yellow"), soft_wrap=True)


def fail(message: str) -> None:
    """The one line that says what went wrong, on stderr."""
    error_console().print(Text(f"error: {message}", style="red"), soft_wrap=True)


def error_console() -> Console:
    """Made anew, so that it writes to what `sys.stderr` is now."""
    return Console(stderr=True, highlight=False)
