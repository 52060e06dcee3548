"""A run that is killed: embeds a file with a slow fake and writes every computed text to a log.

Arguments: input, output, log, and after how many texts the process ends without a word, or -1.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fledge.files import ordered
from fledge.files.embedder import embed_file
from fledge.files.formats import make_encoder, open_source, output_format
from fledge.files.sinks import PartialFile
from fledge.types import Vectors
from tests.unit.files.fakes import DIMENSION, FakeEmbedder


async def main(source: Path, output: Path, log: Path, die_after: int) -> None:
    fake = FakeEmbedder()

    async def embed(texts: Sequence[str]) -> tuple[Vectors, int]:
        if 0 <= die_after <= len(fake.computed):
            # As `kill -9` does: nothing is flushed, closed or cleaned up.
            os._exit(9)
        result = await fake(texts)
        with log.open("a") as file:
            file.writelines(f"{text}\n" for text in texts)
        return result

    sink = PartialFile(output, make_encoder(output_format(output), DIMENSION))
    await embed_file(embed, open_source(source), sink, identity={"model": "fledge/fake"})


if __name__ == "__main__":
    ordered.CHUNK_ITEMS = int(sys.argv[5])
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
