"""How long a request waits for a cold model, and what others notice of the load:
`python -m benchmarks.cold_start`.

Each measurement is a process of its own (`benchmarks.cold_models`). Takes five minutes and 8 GB of
disk for models with random weights and their conversions; keep the machine quiet.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.models import TITLES
from benchmarks.processes import ROOT
from benchmarks.report import table
from benchmarks.results import describe_machine, load_average
from benchmarks.run import CACHE

OUTPUT = ROOT / "docs" / "benchmarks" / "cold-start.md"
STAGES = ("reading", "building", "compiling", "warming up")
LIMITS_MS: Mapping[str, float] = {"minilm": 800, "large": 2000}
PRECISIONS = ("bf16", "int8")
ALL_PRECISIONS = ("bf16", "int8", "fp32")
SIZED = ("minilm", "base", "large", "qwen3")
MOST_RISE_MS = 20.0
SPARE_BYTES = 30e6
SPARE_SHARE = 0.25

PAGE = """\
# Cold models

Written by `python -m benchmarks.cold_start --output`; nothing here is typed by hand. All of it is
within one process that serves: models are asked for, answer, and are unloaded again, while another
small one stays warm. `make bench` and the tests leave it out. Load average before: {load:.2f}.

## From a request for a cold model to its vector

{starts}
- Converted: the weights have been converted by an earlier load, and all files are in the page
  cache; the median of {repeats}, in brackets the slowest. First ever: with the conversion, the
  original files in the page cache as far as they stay there.
- Finding: the model's files, a fingerprint or check of them, and an estimate of its memory; the
  query itself is in it, too. Reading: tokenizer and mapped weights. Building: the graph.
  Compiling: by OpenVINO. Warming up: three inferences, the first of which packs the weights.

## Memory: the estimate before a load, and what it takes

{memory}
- Memory that no file backs, in a fresh process, after the allocator has given back what it can.
- The estimate, from headers alone, should be enough, and not more than {share:.0%} and
  {spare:.0f} MB above.

## Single queries of all-MiniLM-L6-v2 while a bert-large shape loads

{beside}
- One query after another without a pause, for as long as loads take {seconds:.0f} s together:
  milliseconds of a query that has any of a load beside it. Unloading is counted apart: the runtime
  frees a model's memory while it holds the interpreter's lock.
- A load takes longer there than alone, since it yields.

{machine}"""

Result: TypeAlias = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    load = load_average()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    try:
        page = PAGE.format(
            load=load,
            starts=table(_start_head(), _start_rows(arguments)),
            memory=table(
                ("model", "precision", "estimate", "measured", "estimate / measured", ""),
                _memory_rows(arguments),
            ),
            beside=table(
                ("precision", "beside", "queries", "p50", "p99", "most", "p99 rises by", "a load"),
                _beside_rows(arguments),
            ),
            repeats=5,
            share=SPARE_SHARE,
            spare=SPARE_BYTES / 1e6,
            seconds=arguments.seconds,
            machine=table(("", ""), describe_machine().items()),
        )
    finally:
        shutil.rmtree(arguments.cache / "cold-start-converted", ignore_errors=True)
    print(page)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(page, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.cold_start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where models are made")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of queries beside each kind of load"
    )
    parser.add_argument(
        "--output",
        type=Path,
        nargs="?",
        const=OUTPUT,
        help=f"also write the page to a file, by default {OUTPUT.relative_to(ROOT)}",
    )
    return parser.parse_args()


def _measure(arguments: argparse.Namespace, task: str, model: str, precision: str) -> Result:
    """One task in a process of its own; ends the program where it fails."""
    print(f"{task}: {model} in {precision}", flush=True)
    command = [sys.executable, "-m", "benchmarks.cold_models", task, model, precision]
    done = subprocess.run(  # noqa: S603 - a command of this package
        [*command, str(arguments.cache), "--seconds", str(arguments.seconds)],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{task} of {model} in {precision} failed")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def _start_head() -> Sequence[str]:
    stages = ("finding", *STAGES)
    return ("model", "precision", "converted", "asked", "", *stages, "first ever", "of it reading")


def _start_rows(arguments: argparse.Namespace) -> Iterator[Sequence[str]]:
    for model, limit_ms in LIMITS_MS.items():
        for precision in PRECISIONS:
            yield _start_row(
                model, precision, limit_ms, _measure(arguments, "cold", model, precision)
            )


def _start_row(model: str, precision: str, limit_ms: float, result: Result) -> Sequence[str]:
    times, stages = result["times_ms"], result["stages"]
    middle = statistics.median(times)
    parts = [statistics.median(one[stage] for one in stages) for stage in STAGES]
    finding = statistics.median(
        whole - sum(one.values()) for whole, one in zip(times, stages, strict=True)
    )
    return (
        TITLES[model],
        precision,
        f"{middle / 1000:.2f} s ({max(times) / 1000:.2f})",
        f"< {limit_ms / 1000:.1f} s",
        "reached" if middle < limit_ms else "missed",
        *(f"{part:.0f} ms" for part in (finding, *parts)),
        f"{result['first_ms'] / 1000:.2f} s",
        f"{result['first_stages']['reading'] / 1000:.2f} s",
    )


def _memory_rows(arguments: argparse.Namespace) -> Iterator[Sequence[str]]:
    for model in SIZED:
        for precision in ALL_PRECISIONS:
            result = _measure(arguments, "memory", model, precision)
            estimate, measured = result["estimate"], result["measured"]
            most = measured * (1 + SPARE_SHARE) + SPARE_BYTES
            yield (
                TITLES[model],
                precision,
                f"{estimate / 1e6:.0f} MB",
                f"{measured / 1e6:.0f} MB",
                f"{estimate / measured:.2f} x",
                "reached" if measured <= estimate <= most else "missed",
            )


def _beside_rows(arguments: argparse.Namespace) -> Iterator[Sequence[str]]:
    for precision in PRECISIONS:
        result = _measure(arguments, "beside", "large", precision)
        alone = result["alone"]
        yield (precision, "nothing", *_spread(alone), "", "")
        for kind, title in (
            ("converted", "loads of converted weights"),
            ("converting", "loads that convert"),
        ):
            rise = float(np.percentile(result[kind], 99) - np.percentile(alone, 99))
            verdict = "reached" if rise <= MOST_RISE_MS else "missed"
            load_s = statistics.median(result[f"{kind}, loads"]) / 1000
            yield (
                precision,
                title,
                *_spread(result[kind]),
                f"{rise:.1f} ms of {MOST_RISE_MS:.0f}: {verdict}",
                f"{load_s:.1f} s",
            )
        leaving = result["converted, unloading"] + result["converting, unloading"]
        if leaving:
            yield (precision, "unloading", *_spread(leaving), "", "")


def _spread(milliseconds: Sequence[float]) -> Sequence[str]:
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return (
        f"{len(milliseconds):,}",
        f"{p50:.1f} ms",
        f"{p99:.1f} ms",
        f"{max(milliseconds):.1f} ms",
    )


if __name__ == "__main__":
    main()
