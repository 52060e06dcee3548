"""Fledge in process, through its public Python API: `python -m ... FOLDER fp32|bf16|int8`."""

import sys
from typing import Any

import fledge
from benchmarks.worker import serve_engine


def main(folder: str, precision: Any) -> None:
    model = fledge.load(folder, precision=precision)
    serve_engine(lambda texts: model.embed(texts), {"computes_in": model.card.precision})


if __name__ == "__main__":
    main(*sys.argv[1:])
