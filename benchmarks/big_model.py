"""Whether an 8-billion-parameter model runs on a small machine: `python -m benchmarks.big_model`.

Makes a folder of Qwen3-Embedding-8B's shape with random weights, once, then for each precision
starts Fledge twice: the first start converts the weights, the second one finds them converted.
Takes minutes, all cores, and for bf16 30 GB of disk; `--layers 2` shows that the script works.
"""

import argparse
import base64
import math
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.checkpoints import checkpoint_bytes, write_folder
from benchmarks.models import minilm_folder
from benchmarks.processes import ROOT, Worker
from benchmarks.report import table
from benchmarks.results import describe_machine
from benchmarks.run import CACHE
from benchmarks.shapes import Qwen3Shape
from benchmarks.worker import memory
from benchmarks.workloads import WORDS

OUTPUT = ROOT / "docs" / "benchmarks" / "big-model.md"
PRECISIONS = ("bf16", "int8")
LAYERS = 36
LENGTHS: Mapping[int, int] = {10: 4, 100: 2, 500: 1}
"""Tokens of a text, and how many texts of that length are embedded in one call."""

LIMIT_BYTES = 24e9
SPARE_BYTES = 2**30
SAMPLE_S = 0.02

PAGE = """\
# A large model on a small machine

Written by `python -m benchmarks.big_model --output`; nothing here is typed by hand. The model has
the shape of Qwen3-Embedding-8B{cut} and random weights: {parameters:.2f} billion parameters,
{size:.1f} GB on disk in bf16. `make bench` and the tests leave it out.

{starts}
- Start: from the start of a new process to its first vector; the first start converts the weights,
  the second one finds them converted. Files are in the page cache as far as memory holds them.
- Own memory is what no file backs (RssAnon), looked at every {sample:.0f} ms. All memory is the
  process's peak (VmHWM), mapped files included, which the system takes back when it needs them.
- Tokens a second: {lengths}, each in one call.
- Cosine: the least of the texts, to the same precision's first start.

{machine}"""

Vectors: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One process from its start to its last vector.

    Attributes:
        first_vector_s: seconds from the start.
        loading_bytes: most memory of its own until then.
        own_bytes: memory of its own once the model was loaded.
        most_bytes: most memory of its own at any time.
        peak_bytes: most memory at any time, mapped files included.
        rates: tokens a second by the length of texts.
        converted: bytes that this start wrote into the cache.
    """

    precision: str
    first_vector_s: float
    loading_bytes: int
    own_bytes: int
    most_bytes: int
    peak_bytes: int
    rates: Mapping[int, float]
    vectors: Vectors
    converted: int


class OwnMemory:
    """Looks at a process's own memory from outside, again and again, and remembers the most."""

    def __init__(self) -> None:
        self.most_bytes = 0
        self._done = Event()
        self._thread: Thread | None = None

    def watch(self, pid: int) -> None:
        """Begin with a process that has just started."""
        self._thread = Thread(target=self._look, args=(pid,), daemon=True)
        self._thread.start()

    def _look(self, pid: int) -> None:
        while not self._done.wait(SAMPLE_S):
            try:
                self.most_bytes = max(self.most_bytes, memory(pid)["anonymous"])
            except (KeyError, OSError):  # it has ended
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread:
            self._thread.join()


def main() -> None:
    arguments = _arguments()
    if not Path("/proc/self/status").exists():
        sys.exit("memory is read from /proc, which only Linux has")
    shape = Qwen3Shape(
        hidden=4096,
        layers=arguments.layers,
        heads=32,
        inner=12288,
        vocabulary=151665,
        positions=40960,
    )
    precisions = [arguments.precision] if arguments.precision else list(PRECISIONS)
    folder = _prepare(shape, arguments.cache, precisions)
    starts = [start for precision in precisions for start in _two_starts(folder, precision)]
    page = _page(shape, starts)
    print(page)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(page, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.big_model", description=__doc__)
    parser.add_argument("--precision", choices=PRECISIONS, help="one of them, instead of both")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"default: {LAYERS}")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help="where the model is made and converted"
    )
    parser.add_argument(
        "--output",
        type=Path,
        nargs="?",
        const=OUTPUT,
        help=f"also write the table to a file, by default {OUTPUT.relative_to(ROOT)}",
    )
    return parser.parse_args()


def _prepare(shape: Qwen3Shape, cache: Path, precisions: list[str]) -> Path:
    """The model's folder, made if need be; ends the program where the disk is too small."""
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"qwen3-8b-{shape.layers}-layers"
    converted = max(converted_bytes(shape, precision) for precision in precisions)
    missing = 0 if folder.is_dir() else checkpoint_bytes(shape)
    shutil.rmtree(_converted_folder(folder), ignore_errors=True)
    needed, free = missing + converted + SPARE_BYTES, shutil.disk_usage(cache).free
    print(
        f"{cache} needs {needed / 1e9:.1f} GB: {missing / 1e9:.1f} for the model, "
        f"{converted / 1e9:.1f} for converted weights; {free / 1e9:.1f} are free"
    )
    if free < needed:
        sys.exit("free some space, or name another folder with --cache")
    if missing:
        start = time.perf_counter()
        write_folder(folder, shape, minilm_folder())
        print(f"made {folder.name} in {time.perf_counter() - start:.0f} s; it stays there")
    return folder


def converted_bytes(shape: Qwen3Shape, precision: str) -> int:
    """Size of Fledge's own weight file, about: the table stays in bf16, norms hardly count."""
    return shape.weights_per_token * (1 if precision == "int8" else 2) + (
        2 * shape.vocabulary * shape.hidden
    )


def _converted_folder(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-converted")


def _two_starts(folder: Path, precision: str) -> list[Start]:
    """The start that converts and the one after it. The converted weights are removed again."""
    shutil.rmtree(_converted_folder(folder), ignore_errors=True)
    try:
        return [_start(folder, precision, number) for number in (1, 2)]
    finally:
        shutil.rmtree(_converted_folder(folder), ignore_errors=True)


def _start(folder: Path, precision: str, number: int) -> Start:
    converted = _converted_folder(folder)
    environment = {"HF_HUB_OFFLINE": "1", "FLEDGE_CACHE_DIR": str(converted)}
    log = folder.with_name(f"{folder.name}-{precision}.log")
    before = _size(converted)
    with (
        OwnMemory() as own,
        Worker(
            "benchmarks.engines.with_fledge",
            str(folder),
            precision,
            log=log,
            environment=environment,
            on_start=own.watch,
        ) as worker,
    ):
        loading, loaded = own.most_bytes, worker.ask("memory")
        print(f"{precision}, start {number}: first vector after {worker.start_s:.1f} s", flush=True)
        if worker.ready["computes_in"] != precision:
            sys.exit(f"this CPU computes in {worker.ready['computes_in']} instead of {precision}")
        rates, vectors = _embed(worker, folder)
        later = worker.ask("memory")
        return Start(
            precision=precision,
            first_vector_s=worker.start_s,
            loading_bytes=max(loading, loaded["anonymous"]),
            own_bytes=loaded["anonymous"],
            most_bytes=max(own.most_bytes, later["anonymous"]),
            peak_bytes=later["peak"],
            rates=rates,
            vectors=vectors,
            converted=_size(converted) - before,
        )


def _embed(worker: Worker, folder: Path) -> tuple[dict[int, float], Vectors]:
    """Tokens a second for each length of texts, and all vectors."""
    rates, parts = {}, []
    for length, count in LENGTHS.items():
        name = str(length)
        worker.ask("texts", name=name, texts=_texts(folder, length, count))
        start = time.perf_counter()
        raw = base64.b64decode(worker.ask("vectors", name=name))
        rates[length] = length * count / (time.perf_counter() - start)
        parts.append(np.frombuffer(raw, np.float32).reshape(count, -1))
    vectors = np.concatenate(parts)
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        sys.exit("the vectors are not what a normalizing model gives")
    return rates, vectors


def _texts(folder: Path, length: int, count: int) -> list[str]:
    """Different texts of exactly so many tokens: each word is one, and two are special."""
    words = (WORDS * length)[: length - 2 + count]
    texts = [" ".join(words[start : start + length - 2]) for start in range(count)]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    lengths = {len(encoding.ids) for encoding in tokenizer.encode_batch(texts)}
    if lengths != {length}:
        sys.exit(f"texts of {length} tokens came out as {lengths}")
    return texts


def _size(folder: Path) -> int:
    """Bytes of a folder's files, which may be missing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _page(shape: Qwen3Shape, starts: list[Start]) -> str:
    head = (
        "",
        "start to first vector",
        *(f"tokens/s at {length}" for length in LENGTHS),
        "own memory loaded",
        "most while loading",
        "/ loaded",
        "most own memory",
        "all memory at most",
        "written to the cache",
        "cosine",
    )
    lengths = ", ".join(
        f"{count} text{'s' * (count > 1)} of {length} tokens" for length, count in LENGTHS.items()
    )
    parameters = sum(math.prod(tensor.shape) for tensor in shape.tensors())
    rows: list[Any] = []
    for number, start in enumerate(starts):
        rows.append(_row(start, starts[number - number % 2], number % 2 + 1))
    peak = max(start.peak_bytes for start in starts)
    verdict = "reached" if peak <= LIMIT_BYTES else "missed"
    return PAGE.format(
        cut="" if shape.layers == LAYERS else f" cut to {shape.layers} layers",
        parameters=parameters / 1e9,
        size=checkpoint_bytes(shape) / 1e9,
        starts=table(head, rows)
        + f"\nWithin 24 GB: {verdict}, with {peak / 1e9:.1f} GB at most.\n",
        sample=SAMPLE_S * 1000,
        lengths=lengths,
        machine=table(("", ""), describe_machine().items()),
    )


def _row(start: Start, first: Start, number: int) -> tuple[str, ...]:
    cosine = float((start.vectors * first.vectors).sum(axis=1).min())
    return (
        f"{start.precision}, {'first' if number == 1 else 'second'} start",
        f"{start.first_vector_s:.1f} s",
        *(f"{rate:.1f}" for rate in start.rates.values()),
        _gigabytes(start.own_bytes),
        _gigabytes(start.loading_bytes),
        f"{start.loading_bytes / start.own_bytes:.2f} x",
        _gigabytes(start.most_bytes),
        _gigabytes(start.peak_bytes),
        _gigabytes(start.converted) if start.converted else "nothing",
        f"{cosine:.6f}",
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
