"""Load models of many shapes by asking for them, unload them, and print the memory after each.

Run by `test_lifecycle_soak.py` in a process of its own, so that nothing else counts.
Arguments: a folder of models, a folder for the cache, how many loads.
"""

import asyncio
import gc
import json
import sys
from pathlib import Path

import numpy as np

from fledge.bootstrap import build_service
from fledge.requests import EmbedRequest
from fledge.service import Service
from fledge.settings import Settings
from tests.engine.soak import anonymous_kib

REQUESTS = 30


async def use(service: Service, model: str, random: np.random.Generator) -> None:
    """Load a model, let it compute batches of many shapes, and unload it."""
    requests = [
        EmbedRequest(inputs=texts(random), model=model, normalize=True) for _ in range(REQUESTS)
    ]
    answers = await asyncio.gather(*(service.embed(request) for request in requests))
    if not all(np.isfinite(answer.vectors).all() for answer in answers):
        sys.exit("a vector is not finite")
    await service.unload(model)


def texts(random: np.random.Generator) -> list[str]:
    """One to eight texts of one to a hundred words."""
    return [
        " ".join(f"w{word}" for word in random.integers(4, 250, random.integers(1, 100)))
        for _ in range(random.integers(1, 9))
    ]


async def soak(service: Service, models: list[str], loads: int) -> list[int]:
    """Anonymous memory in KiB after each load and unload."""
    random = np.random.default_rng(7)
    memory = []
    for number in range(loads):
        await use(service, models[number % len(models)], random)
        gc.collect()
        memory.append(anonymous_kib())
    await service.aclose()
    return memory


def main() -> None:
    folder, cache, loads = sys.argv[1:]
    models = sorted(path.name for path in Path(folder).iterdir())
    settings = Settings(
        models=(models[0],),
        models_dir=Path(folder),
        cache_dir=Path(cache),
        catalog="none",
        preload=False,
        # What is kept of answers would be taken for what models leave behind.
        cache_memory_bytes=0,
        cache_files_bytes=0,
        database_url="none",
    )
    memory = asyncio.run(soak(build_service(settings), models, int(loads)))
    sys.stdout.write(json.dumps(memory))


if __name__ == "__main__":
    main()
