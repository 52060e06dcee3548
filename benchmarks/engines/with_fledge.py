"""Fledge in process, through its public Python API: `python -m ... FOLDER fp32|bf16|int8`."""

import sys
from typing import Any

import fledge
from benchmarks.worker import serve_engine
from fledge.engine import cpu
from fledge.settings import load_settings


def main(folder: str, precision: Any) -> None:
    model = fledge.load(folder, precision=precision)
    threads = load_settings().threads or cpu.detect().usable_cores
    info = {"computes_in": model.card.precision, "threads": threads}
    serve_engine(lambda texts: model.embed(texts), info)


if __name__ == "__main__":
    main(*sys.argv[1:])
