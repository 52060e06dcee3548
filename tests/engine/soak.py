"""Load, compute and unload, over and over, and print the anonymous memory after each cycle.

Run by `test_soak.py` in a process of its own, so that nothing else counts.
Arguments: the model's folder, a folder for the cache, cycles, batches per cycle, precision.
"""

import gc
import json
import sys
from pathlib import Path
from typing import cast

import numpy as np

from fledge.engine.cpu import detect, inference_hint
from fledge.engine.packing import Row
from fledge.engine.pipeline import Compilation, load_pipeline
from fledge.engine.recipe import read_recipe
from fledge.engine.weights import StoredPrecision


def anonymous_kib() -> int:
    """Memory of this process that belongs to no file."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


def random_rows(random: np.random.Generator, vocab: int) -> list[Row]:
    """A batch of 1 to 24 rows of 3 to 120 tokens, of at most about 600 in all."""
    rows: list[Row] = []
    while len(rows) < random.integers(1, 25) and sum(len(row.ids) for row in rows) < 500:
        rows.append(Row(random.integers(0, vocab, random.integers(3, 121)).tolist()))
    return rows


def main() -> None:
    folder, cache, cycles, batches, name = sys.argv[1:]
    precision = cast(StoredPrecision, name)
    random = np.random.default_rng(7)
    memory = []
    for _ in range(int(cycles)):
        recipe = read_recipe(Path(folder))
        compilation = Compilation(
            identity=folder,
            precision=precision,
            inference_hint=inference_hint(precision, detect()),
            threads=2,
            cache_dir=Path(cache),
        )
        pipeline = load_pipeline(recipe, compilation)
        for _ in range(int(batches)):
            vectors = pipeline.compute(random_rows(random, recipe.shape.vocab_size))
            if not np.isfinite(vectors).all():
                sys.exit("a vector is not finite")
        pipeline.close()
        del pipeline
        gc.collect()
        memory.append(anonymous_kib())
    sys.stdout.write(json.dumps(memory))


if __name__ == "__main__":
    main()
