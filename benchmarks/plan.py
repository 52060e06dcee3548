"""What a run does: which models, how many rounds, how many texts, how long."""

from collections.abc import Mapping
from dataclasses import dataclass

ROUNDS = 5

SIZES: Mapping[str, Mapping[str, int]] = {
    "minilm": {"short": 480, "passages": 96, "mixed": 128, "crowd": 400},
    "base": {"short": 80, "passages": 10, "mixed": 16, "crowd": 128},
    "large": {"short": 24, "passages": 3, "mixed": 6, "crowd": 64},
}
"""Texts of a workload: so many that sentence-transformers takes 3 to 5 s on two cores of 2024."""

HTTP_CLIENTS = (1, 8, 64)
HTTP_PRECISION = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One thing that turns texts into vectors in process.

    Attributes:
        module: of `benchmarks.engines`.
        computes_in: the limit of the machine that it is held against.
    """

    id: str
    title: str
    module: str
    precision: str
    computes_in: str


ENGINES = (
    Engine(
        id="st-fp32",
        title="sentence-transformers, defaults (fp32)",
        module="with_sentence_transformers",
        precision="fp32",
        computes_in="fp32",
    ),
    Engine(
        id="st-bf16",
        title="sentence-transformers, bf16",
        module="with_sentence_transformers",
        precision="bf16",
        computes_in="bf16",
    ),
    Engine(
        id="onnx-fp32",
        title="ONNX Runtime, fp32",
        module="with_onnx_runtime",
        precision="fp32",
        computes_in="fp32",
    ),
    *(
        Engine(
            id=f"fledge-{precision}",
            title=f"Fledge, {precision}",
            module="with_fledge",
            precision=precision,
            computes_in=precision,
        )
        for precision in ("fp32", "bf16", "int8")
    ),
)
REFERENCE = ENGINES[0]
FRESH: Mapping[str, tuple[str, ...]] = {
    "minilm": tuple(engine.id for engine in ENGINES),
    "base": tuple(engine.id for engine in ENGINES),
    "large": (REFERENCE.id, "fledge-bf16", "fledge-int8"),
}
"""Whose start and memory are measured: all of them with bert-large would take ten minutes."""

IN_PROCESS = f"fledge-{HTTP_PRECISION}"
"""What the server is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run.

    Attributes:
        sizes: numbers of texts, by model and workload.
        min_seconds: a throughput measurement goes on at least so long.
        latency_seconds: time for single queries, one after another.
        load_seconds: time in which the load generator begins requests.
    """

    models: tuple[str, ...]
    rounds: int
    sizes: Mapping[str, Mapping[str, int]]
    min_seconds: float
    latency_seconds: float
    load_seconds: float


def full_plan(models: tuple[str, ...], rounds: int) -> Plan:
    """The run whose numbers are worth keeping."""
    return Plan(
        models=models,
        rounds=rounds,
        sizes=SIZES,
        min_seconds=1.0,
        latency_seconds=1.0,
        load_seconds=2.5,
    )


def quick_plan(models: tuple[str, ...], rounds: int) -> Plan:
    """The run that shows whether everything works, and roughly what to expect."""
    quarter = {
        model: {name: max(4, count // 4) for name, count in sizes.items()}
        for model, sizes in SIZES.items()
    }
    return Plan(
        models=models,
        rounds=rounds,
        sizes=quarter,
        min_seconds=0.5,
        latency_seconds=0.5,
        load_seconds=1.0,
    )
