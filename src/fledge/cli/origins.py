"""Where models come from and where they are kept, for `fledge doctor`."""

import os
from collections.abc import Iterator
from pathlib import Path

from fledge import bootstrap
from fledge.cli.console import format_bytes
from fledge.settings import Settings


def describe_origins(settings: Settings) -> list[tuple[str, str]]:
    """The hub and the folders, with their sizes; of a token only whether there is one."""
    hub = bootstrap.hub_state()
    converted = settings.cache_dir.expanduser()
    return [
        ("hub", f"{hub.endpoint}   [HF_ENDPOINT]"),
        ("offline", f"{'yes' if hub.is_offline else 'no'}   [HF_HUB_OFFLINE]"),
        ("token", f"{'yes' if hub.has_token else 'no'}   [HF_TOKEN, or `hf auth login`]"),
        ("downloads", f"{_sized(hub.cache)}   [HF_HOME]"),
        ("converted", f"{_sized(converted)}   [cache_dir]"),
    ]


def _sized(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}, not there yet"
    return f"{folder}, {format_bytes(sum(_file_sizes(folder)))}"


def _file_sizes(folder: Path) -> Iterator[int]:
    """Without following links: the hub's snapshots are links into one store."""
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                yield (Path(directory) / name).lstat().st_size
            except FileNotFoundError:  # removed while we looked
                continue
