"""Fills the folder of a file tier until it is killed.

Arguments: the folder, and the number of the first entry. Each line on stdout is the number of an
entry before which all have been written.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np

from fledge.cache.entry import pack
from fledge.cache.files import FileTier
from fledge.cache.key import Space
from fledge.cache.tiers import Pair
from fledge.types import EmbedResult

DIMENSION = 384
SPACE = Space("org/name", "abc", dimension=DIMENSION, max_tokens=512)
BUDGET_BYTES = 2**20
"""Small, so that entries leave while others come."""

AT_ONCE = 16


def pair(number: int) -> Pair:
    """A key and its entry, both functions of the number."""
    keys = SPACE.keys([f"text number {number}"])
    vectors = np.random.default_rng(number).normal(size=(1, DIMENSION)).astype(np.float32)
    result = EmbedResult(vectors=vectors, token_counts=[number], truncated=[False])
    return keys[0], pack(keys, result)[0]


async def main(folder: Path, first: int) -> None:
    tier = FileTier(folder, BUDGET_BYTES)
    number = first
    while True:
        if number - first <= tier.counts.written + 4 * AT_ONCE:
            tier.put([pair(number + index) for index in range(AT_ONCE)])
            number += AT_ONCE
        await asyncio.sleep(0.001)
        sys.stdout.write(f"{first + tier.counts.written}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
