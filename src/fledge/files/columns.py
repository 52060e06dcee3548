"""Which column holds the texts: the one asked for, else `text`, else the only column of strings."""

from collections.abc import Sequence

from fledge.errors import FileFormatError

DEFAULT_COLUMN = "text"


def choose_column(
    name: str, wanted: str | None, columns: Sequence[str], strings: Sequence[str]
) -> str:
    """The column to read.

    Args:
        name: the file, for messages.
        wanted: the column that the user named, if any.
        columns: every column there is.
        strings: those of them that hold strings.

    Raises:
        FileFormatError: the wanted column is missing, or none or several could be meant; lists
            the columns.
    """
    listed = ", ".join(columns) or "none"
    if wanted is not None:
        if wanted not in columns:
            raise FileFormatError(f"{name} has no column {wanted!r}; its columns: {listed}")
        return wanted
    if DEFAULT_COLUMN in columns:
        return DEFAULT_COLUMN
    if len(strings) == 1:
        return strings[0]
    reason = "several columns hold text" if strings else "no column holds text"
    raise FileFormatError(
        f"{name}: {reason} and none is called {DEFAULT_COLUMN!r}; name one with --column. "
        f"Its columns: {listed}"
    )
