"""What a container lets this process use: CPU quota and memory limit, cgroup versions 1 and 2.

The limits of a group bind all groups below it, so each lookup walks from the process's own group
up to the root and keeps the smallest. A path that is not visible from inside a container is
passed over: the container sees its own group as the root.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

UNLIMITED_BYTES = 2**60
"""Version 1 writes a huge number, rounded to pages, where version 2 writes `max`."""


def cpu_quota(membership: str, root: Path = ROOT) -> float | None:
    """CPUs' worth of time this process may use, or None for no limit.

    Args:
        membership: the text of `/proc/self/cgroup`.
        root: where the control files are mounted.
    """
    return _smallest(membership, root, "cpu", _quota_of)


def memory_limit(membership: str, root: Path = ROOT) -> int | None:
    """Bytes this process's groups may hold, or None for no limit."""
    limit = _smallest(membership, root, "memory", _memory_of)
    return None if limit is None else int(limit)


def parse_cpu_max(text: str) -> float | None:
    """`cpu.max` of version 2: `max 100000` or `150000 100000`."""
    quota, _, period = text.strip().partition(" ")
    return None if quota == "max" else _share(quota, period or "100000")


def parse_cfs(quota: str, period: str) -> float | None:
    """`cpu.cfs_quota_us` and `cpu.cfs_period_us` of version 1; a quota of -1 is none."""
    return _share(quota, period)


def parse_memory(text: str) -> int | None:
    """`memory.max` of version 2 or `memory.limit_in_bytes` of version 1."""
    text = text.strip()
    if not text.isdigit() or int(text) >= UNLIMITED_BYTES:
        return None
    return int(text)


def group_folders(membership: str, root: Path, controller: str) -> Iterator[Path]:
    """The folders with the controller's files that bind this process, own group first."""
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",") if controllers else []
        if names and controller not in names:
            continue
        # Version 2 has one tree, on a mixed system under `unified`; version 1 one per controller.
        mounts = [root / controllers, root / controller] if names else [root, root / "unified"]
        group = PurePosixPath("/", path)
        for mount in dict.fromkeys(mounts):
            for ancestor in (group, *group.parents):
                yield mount / ancestor.relative_to("/")


def _smallest(
    membership: str, root: Path, controller: str, read: Callable[[Path], float | None]
) -> float | None:
    limits = [read(folder) for folder in group_folders(membership, root, controller)]
    return min((limit for limit in limits if limit is not None), default=None)


def _quota_of(folder: Path) -> float | None:
    if (text := _read(folder / "cpu.max")) is not None:
        return parse_cpu_max(text)
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return None if quota is None or period is None else parse_cfs(quota, period)


def _memory_of(folder: Path) -> float | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        if (text := _read(folder / name)) is not None:
            return parse_memory(text)
    return None


def _share(quota: str, period: str) -> float | None:
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 and math.isfinite(share) else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
