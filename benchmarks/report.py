"""The run as Markdown: every number of it comes from the samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.models import TITLES
from benchmarks.plan import ENGINES, HTTP_CLIENTS, IN_PROCESS, REFERENCE, Plan
from benchmarks.samples import Samples
from benchmarks.targets import BATCH_TARGET_MS, Target, batch_time_ms, share_of_limit, targets

Row = Sequence[str]

INTRODUCTION = """\
# Benchmarks

Written by `make bench`; nothing here is typed by hand. The numbers of every round are in
[results.json](results.json).

![Passages: speed over sentence-transformers]({chart})
"""

METHOD = """\
## How it was measured

- Every engine runs in a process of its own, all stay loaded, and only one computes at a time. They
  take turns: a round measures each of them once, and a number is the median of {rounds} rounds.
  Ratios are taken within each round first.
- The same texts for all, from {origin}: questions, paragraphs, and both shuffled. Each engine may
  order a list as it likes and batches by its own defaults (ONNX Runtime: 32, sorted by length).
  A subset has the lengths of the whole. Tokens are counted by the model's own tokenizer after
  truncation, special tokens included, padding not.
- One query: a question of 6 to 40 tokens, the next one sent when the last is answered.
- Over HTTP: `fledge serve` with bf16 and its other defaults, one text a request, base64 answers,
  connections kept alive. The load generator shares the cores with the server; its own part of a
  core is in the table. Mixed requests over HTTP are held against the same list in one call.
- Beside a bulk job: one client sends {bulk} passages a request without a pause, another sends
  queries at random moments. A batch aims at {batch:.0f} ms, but is never shorter than its longest
  passage alone.
- Start: from the start of a new process to its first vector, files already in the page cache and
  Fledge's converted weights already written. Memory: the peak of that process after a pass over the
  passages, mapped files included; own: what of it at that moment is not a mapped file.
- The GEMM limit is the better of torch's and OpenVINO's matrix products in the same rounds (2,048
  tokens, 768 by 3,072). An engine's share counts its weights' products only, not attention.
- Cosine: the least of the passages', to sentence-transformers in fp32.
"""

REPRODUCE = """\
## To reproduce

`make bench` (about half an hour on two cores; keep the machine quiet), or a part of it:

```
python -m benchmarks.run --quick
python -m benchmarks.run --models minilm,base --rounds 7
```

The models but MiniLM have random weights, which changes no speed; they are made once in the cache
folder (`--cache`).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run."""

    plan: Plan
    samples: Samples
    facts: Mapping[str, Any]
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    corpus: str
    bulk_texts: int
    workloads: Mapping[str, Mapping[str, tuple[int, int]]]


def markdown(run: Run, chart: str) -> str:
    """The whole page."""
    method = METHOD.format(
        rounds=run.plan.rounds, origin=run.corpus, bulk=run.bulk_texts, batch=BATCH_TARGET_MS
    )
    sections = [
        INTRODUCTION.format(chart=chart),
        "## Targets\n",
        _table(("what", "model", "asked", "reached", ""), map(_target_row, targets(run.samples))),
        *(section for model in run.workloads for section in _model(run, model)),
        "## The machine\n",
        _table(("", ""), [*run.machine.items(), *_limits(run.samples)]),
        _table(("package", "version"), run.versions.items()),
        method,
        REPRODUCE,
    ]
    return "\n".join(sections)


def _model(run: Run, model: str) -> Iterator[str]:
    sizes = run.workloads[model]
    described = "; ".join(
        f"{name}: {sizes[name][0]} texts, {sizes[name][1] / sizes[name][0]:.0f} tokens on average"
        for name in ("short", "passages", "mixed", "crowd")
    )
    yield f"## {TITLES[model]}\n"
    yield f"Texts of a measurement: {described} (crowd: the mixed requests over HTTP).\n"
    yield "Tokens a second, and of one query alone the time:\n"
    yield _table(
        (
            "engine",
            "short",
            "passages",
            "mixed",
            "passages / first row",
            "share of GEMM limit",
            "one query p50",
            "p99",
        ),
        (_speed_row(run, model, engine.id) for engine in ENGINES),
    )
    yield "Texts a second, a new process, and agreement:\n"
    yield _table(
        (
            "engine",
            "short texts/s",
            "passages/s",
            "start to first vector",
            "peak memory",
            "own",
            "least cosine",
            "computed in",
        ),
        (_process_row(run, model, engine.id) for engine in ENGINES),
    )
    yield "Fledge over HTTP, mixed requests:\n"
    yield _table(
        ("", "tokens/s", "texts/s", "p50", "p99", "generator's own CPU"), _http_rows(run, model)
    )
    yield "Fledge over HTTP, one query:\n"
    yield _table(("", "p50", "p99", "queries a round"), _query_rows(run, model))


def _speed_row(run: Run, model: str, engine: str) -> Row:
    samples = run.samples
    precision = next(one.computes_in for one in ENGINES if one.id == engine)
    rate = (model, engine, "passages", "tokens_per_s")
    ratio = samples.ratio(rate, (model, REFERENCE.id, "passages", "tokens_per_s"))
    share = share_of_limit(samples, model, engine, precision)
    return (
        _title(engine),
        *(
            _number(samples.median(model, engine, name, "tokens_per_s"))
            for name in ("short", "passages", "mixed")
        ),
        _number(ratio, "{:.2f} x"),
        _number(share, "{:.0%}"),
        _milliseconds(samples.median(model, engine, "query", "p50_ms")),
        _milliseconds(samples.median(model, engine, "query", "p99_ms")),
    )


def _process_row(run: Run, model: str, engine: str) -> Row:
    samples, facts = run.samples, run.facts[model]
    return (
        _title(engine),
        _number(samples.median(model, engine, "short", "texts_per_s"), "{:,.1f}"),
        _number(samples.median(model, engine, "passages", "texts_per_s"), "{:,.1f}"),
        _number(samples.median(model, engine, "fresh", "first_vector_s"), "{:.2f} s"),
        _mebibytes(samples.median(model, engine, "fresh", "peak_bytes")),
        _mebibytes(samples.median(model, engine, "fresh", "anonymous_bytes")),
        f"{facts['least_cosine'][engine]:.6f}",
        facts["computes_in"][engine].removeprefix("torch."),
    )


def _http_rows(run: Run, model: str) -> Iterator[Row]:
    samples = run.samples
    yield (
        "in process, one call",
        _number(samples.median(model, IN_PROCESS, "crowd", "tokens_per_s")),
        _number(samples.median(model, IN_PROCESS, "crowd", "texts_per_s"), "{:,.1f}"),
        "",
        "",
        "",
    )
    for clients in HTTP_CLIENTS:
        engine = f"http-{clients}"
        yield (
            f"{clients} client{'s' * (clients > 1)}",
            _number(samples.median(model, engine, "crowd", "tokens_per_s")),
            _number(samples.median(model, engine, "crowd", "texts_per_s"), "{:,.1f}"),
            _milliseconds(samples.median(model, engine, "crowd", "p50_ms")),
            _milliseconds(samples.median(model, engine, "crowd", "p99_ms")),
            _number(samples.median(model, engine, "crowd", "generator_cpu_share"), "{:.0%}"),
        )


def _query_rows(run: Run, model: str) -> Iterator[Row]:
    samples = run.samples
    kinds = (
        ("in process", IN_PROCESS, "query"),
        ("over HTTP", "http-1", "query"),
        ("over HTTP beside a bulk job", "http-1", "query beside bulk"),
    )
    for title, engine, subject in kinds:
        p50, p99 = (samples.median(model, engine, subject, name) for name in ("p50_ms", "p99_ms"))
        count = _number(samples.median(model, engine, subject, "count"))
        yield title, _milliseconds(p50), _milliseconds(p99), count
    yield "one batch (for the target above)", _milliseconds(batch_time_ms(samples, model)), "", ""
    start = samples.median(model, "http-1", "fresh", "first_vector_s")
    yield "server's start to first vector", _number(start, "{:.2f} s"), "", ""


def _limits(samples: Samples) -> Iterator[Row]:
    for precision in ("fp32", "bf16", "int8"):
        limit = samples.median("machine", "gemm", precision, "gop_per_s")
        yield f"GEMM limit, {precision}", _number(limit, "{:,.0f} GOP/s")


def _target_row(target: Target) -> Row:
    sign = "<=" if target.is_ceiling else ">="
    return (
        target.what,
        target.model,
        f"{sign} {target.asked:g} {target.unit}".strip(),
        _number(target.reached, "{:.2f} " + target.unit).strip(),
        target.verdict,
    )


def _title(engine: str) -> str:
    return next(one.title for one in ENGINES if one.id == engine)


def _number(value: float | None, form: str = "{:,.0f}") -> str:
    return "-" if value is None else form.format(value)


def _milliseconds(value: float | None) -> str:
    return _number(value, "{:.2f} ms" if value is not None and value < 10 else "{:,.1f} ms")


def _mebibytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.0f} MiB"


def _table(head: Row, rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
