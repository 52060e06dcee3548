"""Redis tiers: what is kept by one, and what is found there."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fledge.cache.entry import Cached
from fledge.cache.redis import RedisTier
from tests.processes.redis_server import RedisServer
from tests.unit.cache.fakes import entry, key, pairs

TRIES = 2000
"""Each some milliseconds after the one before."""


@asynccontextmanager
async def opened(url: str, *, ttl_s: int = 100) -> AsyncIterator[RedisTier]:
    tier = RedisTier(url, ttl_s=ttl_s)
    try:
        yield tier
    finally:
        await tier.aclose()
        gc.collect()  # a connection that was left open warns, and warnings are errors


async def keep(url: str, *texts: str) -> None:
    async with opened(url) as tier:
        tier.put(pairs(*texts))


async def look_up(tier: RedisTier, *texts: str) -> list[Cached | None]:
    found = await tier.get([key(text) for text in texts])
    # Whatever happens, an answer is the right one.
    for one, text in zip(found, texts, strict=True):
        assert one in (None, entry(text))
    return found


async def found_in_time(tier: RedisTier, text: str) -> bool:
    """Whether an entry that is put again and again is found some time soon."""
    for _ in range(TRIES):
        tier.put(pairs(text))
        if await look_up(tier, text) != [None]:
            return True
        await asyncio.sleep(0.005)
    return False


def calls(server: RedisServer, command: str) -> int:
    """How often the server got a command."""
    with server.client() as client:
        stats = client.info("commandstats")
    assert isinstance(stats, dict)
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])
