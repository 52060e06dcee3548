"""`make bench`, or `python -m benchmarks.run`: measure, then write docs/benchmarks."""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.chart import draw
from benchmarks.measure import Bench, measure_model
from benchmarks.models import SHAPES, prepare_model
from benchmarks.plan import ROUNDS, Plan, full_plan, quick_plan
from benchmarks.processes import ROOT
from benchmarks.report import Run, markdown
from benchmarks.samples import Samples
from benchmarks.targets import BATCH_TARGET_MS, targets
from benchmarks.workloads import BULK_TEXTS, make_workloads, read_corpus
from fledge.engine import cpu
from fledge.settings import Settings

OUTPUT = ROOT / "docs" / "benchmarks"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "fledge-bench"
PACKAGES = (
    "fledge",
    "openvino",
    "tokenizers",
    "uvicorn",
    "sentence-transformers",
    "transformers",
    "torch",
    "onnxruntime",
    "numpy",
)
NEEDED_GIB = {"minilm": 4, "base": 6, "large": 13}
"""Memory that all engines of a model need together, with something to spare: guessed."""


def main() -> None:
    arguments = _arguments()
    unknown = set(arguments.models) - set(SHAPES)
    if unknown:
        sys.exit(f"unknown models: {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}")
    make_plan = quick_plan if arguments.quick else full_plan
    rounds = arguments.rounds or (2 if arguments.quick else ROUNDS)
    plan = make_plan(tuple(name for name in arguments.models if _fits(name)), rounds)
    if Settings.model_fields["batch_target_ms"].default != BATCH_TARGET_MS:
        sys.exit("the default of batch_target_ms has changed; change benchmarks.targets too")
    samples, start = Samples(), time.monotonic()
    for run in _runs(plan, arguments.cache, samples):
        write(run, arguments.output, time.monotonic() - start)
    for target in targets(samples):
        numbers = f"{'-' if target.reached is None else f'{target.reached:.2f}':>6}"
        print(f"{target.verdict:12} {numbers} / {target.asked:<4g} {target.what}, {target.model}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--models", help="of minilm,base,large; with commas")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, or 2 with --quick")
    parser.add_argument("--quick", action="store_true", help="fewer texts, and MiniLM alone")
    parser.add_argument(
        "--output", type=Path, help="default: docs/benchmarks; with --quick, in the cache folder"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where models are made")
    arguments = parser.parse_args()
    names = arguments.models or ("minilm" if arguments.quick else ",".join(SHAPES))
    arguments.models = names.split(",")
    if arguments.output is None:  # a quick look must not replace numbers worth keeping
        arguments.output = arguments.cache / "quick" if arguments.quick else OUTPUT
    return arguments


def _fits(name: str) -> bool:
    """Whether all engines of a model find memory; says so where they do not."""
    memory = (cpu.detect().memory_bytes or 0) / 2**30
    if memory < NEEDED_GIB[name]:
        print(f"leaving out {name}: it needs {NEEDED_GIB[name]} GiB, and {memory:.0f} are there")
        return False
    return True


def _runs(plan: Plan, cache: Path, samples: Samples) -> Iterator[Run]:
    """What is known after each model, so that a failure in the last one loses only that."""
    cache.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus()
    bench = Bench(plan=plan, cache=cache, samples=samples)
    machine = _machine()
    sizes: dict[str, Mapping[str, tuple[int, int]]] = {}
    for name in plan.models:
        model = prepare_model(name, cache)
        workloads = make_workloads(model, corpus, plan.sizes[name])
        measure_model(bench, model, workloads)
        sizes[name] = {
            key: (len(workload.texts), workload.total_tokens) for key, workload in workloads.items()
        }
        yield Run(
            plan=plan,
            samples=samples,
            facts=bench.facts,
            machine=machine,
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
            corpus=corpus.origin,
            bulk_texts=BULK_TEXTS,
            workloads=sizes,
        )


def _machine() -> dict[str, str]:
    """What is worth knowing of the machine, and whether it has anything else to do."""
    return dict(cpu.detect().describe()) | {
        "System": f"{platform.system()}, Python {platform.python_version()}",
        "Date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "Load average before the run": f"{os.getloadavg()[0]:.2f}",
    }


def write(run: Run, output: Path, seconds: float) -> None:
    """The page, the chart and the raw numbers."""
    output.mkdir(parents=True, exist_ok=True)
    draw(run.samples, tuple(run.workloads), output / "throughput.png")
    (output / "README.md").write_text(markdown(run, "throughput.png"), encoding="utf-8")
    raw = {
        "machine": run.machine,
        "versions": run.versions,
        "rounds": run.plan.rounds,
        "seconds": round(seconds),
        "texts": run.corpus,
        "workloads": run.workloads,
        "facts": run.facts,
        "samples": run.samples.as_records(),
    }
    (output / "results.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    print(f"wrote the page, the chart and the raw numbers after {seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main()
