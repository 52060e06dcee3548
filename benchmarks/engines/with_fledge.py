"""Fledge in process, through its public Python API: `python -m ... FOLDER fp32|bf16|int8`."""

import sys

import fledge
from benchmarks.worker import serve_engine


def main(folder: str, precision: str) -> None:
    model = fledge.load(folder, precision=precision)  # type: ignore[arg-type] - from the driver
    serve_engine(lambda texts: model.embed(texts), {"computes_in": model.card.precision})


if __name__ == "__main__":
    main(*sys.argv[1:])
