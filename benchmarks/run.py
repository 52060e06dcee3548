"""`make bench`, or `python -m benchmarks.run`: measure, then write docs/benchmarks."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.chart import draw
from benchmarks.measure import Bench, measure_model
from benchmarks.models import SHAPES, prepare_model
from benchmarks.plan import ROUNDS, SCOPES, Plan, full_plan, quick_plan
from benchmarks.processes import ROOT
from benchmarks.report import markdown
from benchmarks.results import CannotKeep, Measured, Results, load_average
from benchmarks.targets import BATCH_TARGET_MS, targets
from benchmarks.workloads import Corpus, make_workloads, read_corpus
from fledge.engine import cpu
from fledge.settings import Settings

OUTPUT = ROOT / "docs" / "benchmarks"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "fledge-bench"
RESULTS = "results.json"


def main() -> None:
    arguments = _arguments()
    unknown = set(arguments.models) - set(SHAPES)
    if unknown:
        sys.exit(f"unknown models: {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}")
    if Settings.model_fields["batch_target_ms"].default != BATCH_TARGET_MS:
        sys.exit("the default of batch_target_ms has changed; change benchmarks.targets too")
    make_plan = quick_plan if arguments.quick else full_plan
    rounds = arguments.rounds or (2 if arguments.quick else ROUNDS)
    plan = make_plan(tuple(name for name in arguments.models if _fits(name)), rounds)
    corpus = read_corpus()
    results = Results.of_this_machine(corpus.origin)
    if arguments.keep:
        others = [name for name in SHAPES if name not in plan.scopes]
        try:
            results.keep(arguments.output / RESULTS, others)
        except CannotKeep as error:
            sys.exit(f"cannot keep what was measured earlier: {error}")
    for name in _measured(plan, arguments.cache, corpus, results):
        write(results, arguments.output)
        print(f"wrote the page, the chart and the raw numbers with {name}")
    for target in targets(results.samples):
        numbers = f"{'-' if target.reached is None else f'{target.reached:.2f}':>6}"
        print(f"{target.verdict:12} {numbers} / {target.asked:<4g} {target.what}, {target.model}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--models", help=f"of {','.join(SHAPES)}; with commas")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, or 2 with --quick")
    parser.add_argument("--quick", action="store_true", help="fewer texts, and MiniLM alone")
    parser.add_argument(
        "--keep", action="store_true", help="keep the other models that the page already has"
    )
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
    memory, needed = (cpu.detect().memory_bytes or 0) / 2**30, SCOPES[name].needed_gib
    if memory < needed:
        print(f"leaving out {name}: it needs {needed} GiB, and {memory:.0f} are there")
        return False
    return True


def _measured(plan: Plan, cache: Path, corpus: Corpus, results: Results) -> Iterator[str]:
    """Add model after model, so that a failure in the last one loses only that."""
    cache.mkdir(parents=True, exist_ok=True)
    bench = Bench(plan=plan, cache=cache, samples=results.samples)
    for name, scope in plan.scopes.items():
        model = prepare_model(name, cache)
        workloads = make_workloads(model, corpus, scope.sizes)
        began, load, start = datetime.now(UTC), load_average(), time.monotonic()
        measure_model(bench, model, workloads)
        results.models[name] = Measured(
            began=began.strftime("%Y-%m-%d %H:%M"),
            load_average=load,
            rounds=plan.rounds,
            seconds=round(time.monotonic() - start),
            workloads={key: (len(one.texts), one.total_tokens) for key, one in workloads.items()},
            facts=bench.facts[name],
        )
        yield name


def write(results: Results, output: Path) -> None:
    """The page, the chart and the raw numbers."""
    output.mkdir(parents=True, exist_ok=True)
    draw(results.samples, results.names(), output / "throughput.png")
    (output / "README.md").write_text(markdown(results, "throughput.png"), encoding="utf-8")
    results.write(output / RESULTS)


if __name__ == "__main__":
    main()
