"""What was to be reached, and what a run reached: each a ratio or a difference within that run."""

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.models import SHAPES, TITLES
from benchmarks.plan import ENGINES, EXACT, IN_PROCESS, Engine, defaults_of, title_of
from benchmarks.samples import Samples

BATCH_TARGET_MS = 35.0
"""The server's default `batch_target_ms`; `benchmarks.run` checks that it still is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One aim, held against a run.

    Attributes:
        asked: the bound.
        reached: None where this run did not measure it.
        is_ceiling: smaller is better.
    """

    what: str
    model: str
    asked: float
    reached: float | None
    unit: str
    is_ceiling: bool = False

    @property
    def verdict(self) -> str:
        """`reached`, `missed` or `not measured`."""
        if self.reached is None:
            return "not measured"
        is_met = self.reached <= self.asked if self.is_ceiling else self.reached >= self.asked
        return "reached" if is_met else "missed"


def share_of_limit(samples: Samples, model: str, engine: str, computes_in: str) -> float | None:
    """The part of the machine's own GEMM speed that an engine's passages run at.

    The limit is that of the same rounds.
    """
    rate = samples.median(model, engine, "passages", "tokens_per_s")
    limit = samples.median(model, "gemm", computes_in, "gop_per_s")
    if rate is None or limit is None:
        return None
    return 2 * SHAPES[model].weights_per_token * rate / (limit * 1e9)


def batch_time_ms(samples: Samples, model: str) -> float | None:
    """How long one batch may be: a passage that takes longer than the target is a batch of one."""
    longest = samples.median(model, IN_PROCESS, "longest", "p50_ms")
    return None if longest is None else max(BATCH_TARGET_MS, longest)


def targets(samples: Samples) -> list[Target]:
    """Every aim, in the order of the table."""
    return [
        *_throughput(samples),
        *(target for model in ("minilm", "base") for target in _http(samples, model)),
        *(target for model in ("minilm", "base") for target in _fresh(samples, model)),
    ]


def _throughput(samples: Samples) -> Iterator[Target]:
    asked = (
        ("minilm", "fledge-bf16", defaults_of("minilm"), 2.8),
        ("base", "fledge-bf16", defaults_of("base"), 5.5),
        ("base", "fledge-int8", defaults_of("base"), 8.0),
        ("qwen3", "fledge-bf16", defaults_of("qwen3"), 2.5),
        ("qwen3", "fledge-bf16", _engine(EXACT), 2.5),
    )
    for model, engine, other, ratio in asked:
        one = (model, engine, "passages", "tokens_per_s")
        yield Target(
            what=f"passages, {engine.replace('-', ' ')} / {title_of(other, model)}",
            model=TITLES[model],
            asked=ratio,
            reached=samples.ratio(one, (model, other.id, "passages", "tokens_per_s")),
            unit="x",
        )
    yield Target(
        what="passages, fledge bf16: share of the bf16 GEMM limit",
        model=TITLES["base"],
        asked=0.85,
        reached=share_of_limit(samples, "base", "fledge-bf16", "bf16"),
        unit="",
    )


def _http(samples: Samples, model: str) -> Iterator[Target]:
    crowd = "crowd", "tokens_per_s"
    yield Target(
        what="mixed requests, 64 clients over HTTP / in process",
        model=TITLES[model],
        asked=0.85,
        reached=samples.ratio((model, "http-64", *crowd), (model, IN_PROCESS, *crowd)),
        unit="x",
    )
    alone = (model, "http-1", "query", "p50_ms")
    yield Target(
        what="one query, p50 over HTTP - p50 in process",
        model=TITLES[model],
        asked=1.0,
        reached=samples.ratio(alone, (model, IN_PROCESS, "query", "p50_ms"), operator.sub),
        unit="ms",
        is_ceiling=True,
    )
    batch = batch_time_ms(samples, model)
    beside = (model, "http-1", "query beside bulk", "p99_ms")
    later = samples.ratio(beside, (model, "http-1", "query", "p99_ms"), operator.sub)
    yield Target(
        what="one query, p99 beside a bulk job - p99 alone, in batch times",
        model=TITLES[model],
        asked=2.0,
        reached=None if batch is None or later is None else later / batch,
        unit="batches",
        is_ceiling=True,
    )


def _fresh(samples: Samples, model: str) -> Iterator[Target]:
    asked: Mapping[str, tuple[str, float]] = {
        "first_vector_s": ("start to first vector", 0.25),
        "peak_bytes": ("peak memory", 0.5),
    }
    other = defaults_of(model)
    for metric, (what, ratio) in asked.items():
        yield Target(
            what=f"{what}, fledge bf16 / {title_of(other, model)}",
            model=TITLES[model],
            asked=ratio,
            reached=samples.ratio(
                (model, IN_PROCESS, "fresh", metric), (model, other.id, "fresh", metric)
            ),
            unit="x",
            is_ceiling=True,
        )


def _engine(name: str) -> Engine:
    return next(one for one in ENGINES if one.id == name)
