"""The run as Markdown: every number of it comes from the samples."""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.models import TITLES
from benchmarks.plan import (
    HTTP_CLIENTS,
    IN_PROCESS,
    SCOPES,
    Engine,
    defaults_of,
    title_of,
)
from benchmarks.results import Results
from benchmarks.targets import BATCH_TARGET_MS, Target, batch_time_ms, share_of_limit, targets
from benchmarks.workloads import BULK_TEXTS

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
  take turns: a round measures each of them once, and a number is the median of the rounds. Ratios
  are taken within each round first. All use as many threads as they choose by themselves; the
  tables say how many (ONNX Runtime does not tell).
- sentence-transformers' defaults: nothing asked for. It then computes in the type that the
  checkpoint is stored in, which is bf16 for Qwen3-Embedding, and fp32 for the others. In another
  precision: its one argument for that.
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

`make bench` (about 40 minutes on two cores; keep the machine quiet), or a part of it:

```
python -m benchmarks.run --quick
python -m benchmarks.run --models minilm,base --rounds 7
python -m benchmarks.run --models qwen3 --keep
```

The last one keeps what the page has of other models, as long as machine, packages and texts are the
same; each model says when it was measured.

The models but MiniLM have random weights, which changes no speed; they are made once in the cache
folder (`--cache`). A model of 8 billion parameters is tried apart from them, for its memory:
`python -m benchmarks.big_model`.
"""


def markdown(results: Results, chart: str) -> str:
    """The whole page."""
    method = METHOD.format(origin=results.texts, bulk=BULK_TEXTS, batch=BATCH_TARGET_MS)
    aims = map(_target_row, targets(results.samples))
    sections = [
        INTRODUCTION.format(chart=chart),
        "## Targets\n",
        table(("what", "model", "asked", "reached", ""), aims),
        *(section for model in results.names() for section in _model(results, model)),
        "## The machine\n",
        table(("", ""), results.machine.items()),
        table(("package", "version"), results.versions.items()),
        method,
        REPRODUCE,
    ]
    return "\n".join(sections)


def _model(results: Results, model: str) -> Iterator[str]:
    engines = SCOPES[model].own_engines()
    yield f"## {TITLES[model]}\n"
    yield _circumstances(results, model)
    yield "Tokens a second, and of one query alone the time:\n"
    yield table(
        (
            "engine",
            "short",
            "passages",
            "mixed",
            "passages / defaults",
            "share of GEMM limit",
            "one query p50",
            "p99",
        ),
        (_speed_row(results, model, engine) for engine in engines),
    )
    yield "Texts a second, a new process, and agreement:\n"
    yield table(
        (
            "engine",
            "short texts/s",
            "passages/s",
            "start to first vector",
            "peak memory",
            "own",
            "least cosine",
            "computed in",
            "threads",
        ),
        (_process_row(results, model, engine) for engine in engines),
    )
    if "crowd" not in results.models[model].workloads:
        return
    yield "Fledge over HTTP, mixed requests:\n"
    yield table(
        ("", "tokens/s", "texts/s", "p50", "p99", "generator's own CPU"),
        _http_rows(results, model),
    )
    yield "Fledge over HTTP, one query:\n"
    yield table(("", "p50", "p99", "queries a round"), _query_rows(results, model))


def _circumstances(results: Results, model: str) -> str:
    """When a model was measured, with which texts, and the machine's limit meanwhile."""
    measured = results.models[model]
    texts = "; ".join(
        f"{name}: {count} texts, {tokens / count:.0f} tokens on average"
        for name, (count, tokens) in measured.workloads.items()
        if name in ("short", "passages", "mixed", "crowd")
    )
    if "crowd" in measured.workloads:
        texts += " (crowd: the mixed requests over HTTP)"
    limits = ", ".join(
        f"{precision} {_number(results.samples.median(model, 'gemm', precision, 'gop_per_s'))}"
        for precision in ("fp32", "bf16", "int8")
    )
    return (
        f"Measured {measured.began} UTC, rounds: {measured.rounds}, "
        f"{measured.seconds / 60:.0f} minutes; load average before: "
        f"{measured.load_average:.2f}. GEMM limit in these rounds: {limits} GOP/s.\n\n"
        f"Texts of a measurement: {texts}.\n"
    )


def _speed_row(results: Results, model: str, engine: Engine) -> Row:
    samples = results.samples
    rate = (model, engine.id, "passages", "tokens_per_s")
    ratio = samples.ratio(rate, (model, defaults_of(model).id, "passages", "tokens_per_s"))
    share = share_of_limit(samples, model, engine.id, engine.computes_in)
    return (
        title_of(engine, model),
        *(
            _number(samples.median(model, engine.id, name, "tokens_per_s"))
            for name in ("short", "passages", "mixed")
        ),
        _number(ratio, "{:.2f} x"),
        _number(share, "{:.0%}"),
        _milliseconds(samples.median(model, engine.id, "query", "p50_ms")),
        _milliseconds(samples.median(model, engine.id, "query", "p99_ms")),
    )


def _process_row(results: Results, model: str, engine: Engine) -> Row:
    samples, facts, name = results.samples, results.models[model].facts, engine.id
    return (
        title_of(engine, model),
        _number(samples.median(model, name, "short", "texts_per_s"), "{:,.1f}"),
        _number(samples.median(model, name, "passages", "texts_per_s"), "{:,.1f}"),
        _number(samples.median(model, name, "fresh", "first_vector_s"), "{:.2f} s"),
        _mebibytes(samples.median(model, name, "fresh", "peak_bytes")),
        _mebibytes(samples.median(model, name, "fresh", "anonymous_bytes")),
        f"{facts['least_cosine'][name]:.6f}",
        facts["computes_in"][name],
        _number(facts["threads"][name]),
    )


def _http_rows(results: Results, model: str) -> Iterator[Row]:
    samples = results.samples
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


def _query_rows(results: Results, model: str) -> Iterator[Row]:
    samples = results.samples
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


def _target_row(target: Target) -> Row:
    sign = "<=" if target.is_ceiling else ">="
    return (
        target.what,
        target.model,
        f"{sign} {target.asked:g} {target.unit}".strip(),
        _number(target.reached, "{:.2f} " + target.unit).strip(),
        target.verdict,
    )


def _number(value: float | None, form: str = "{:,.0f}") -> str:
    return "-" if value is None else form.format(value)


def _milliseconds(value: float | None) -> str:
    return _number(value, "{:.2f} ms" if value is not None and value < 10 else "{:,.1f} ms")


def _mebibytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.0f} MiB"


def table(head: Row, rows: Any) -> str:
    """Markdown of cells that are texts already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
