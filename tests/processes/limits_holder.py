"""A process that takes places and keeps them, until somebody kills it: URL, lease, how many."""

import asyncio
import sys

from fledge.accounts.limits import Holder
from fledge.accounts.limits_redis import RedisLimits


async def main(url: str, lease_s: float, places: int) -> None:
    limits = RedisLimits(url, fallback=None, lease_s=lease_s, patience_s=10)
    holder = Holder(id="key_1", concurrent_requests=places, tokens_per_minute=1000)
    for _ in range(places):
        await limits.reserve(holder, 100)
    sys.stdout.write("holding\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
