"""Folders of the file tier: what is kept in one, and what is found there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fledge.cache.entry import Cached
from fledge.cache.files import FileTier
from fledge.cache.tiers import Pair
from tests.unit.cache.fakes import entry, key, pairs

MIB = 2**20


@asynccontextmanager
async def opened(folder: Path, budget_bytes: int = 16 * MIB) -> AsyncIterator[FileTier]:
    tier = FileTier(folder, budget_bytes)
    try:
        yield tier
    finally:
        await tier.aclose()


async def keep(folder: Path, *texts: str) -> None:
    async with opened(folder) as tier:
        tier.put(pairs(*texts))


async def kept(folder: Path, *texts: str) -> list[Cached | None]:
    async with opened(folder) as tier:
        return await tier.get([key(text) for text in texts])


async def found_in_time(tier: FileTier, text: str) -> bool:
    """Whether an entry is found some time soon."""
    for _ in range(2000):
        if await tier.get([key(text)]) == [entry(text)]:
            return True
        await asyncio.sleep(0.005)
    return False


async def lost_in_time(tier: FileTier, *pairs: Pair) -> bool:
    """Whether some entries are gone some time soon."""
    for _ in range(2000):
        if await tier.get([one for one, _ in pairs]) == [None] * len(pairs):
            return True
        await asyncio.sleep(0.005)
    return False


def database_file(folder: Path, number: int = 1) -> Path:
    return folder / f"vectors-{number}.sqlite3"
