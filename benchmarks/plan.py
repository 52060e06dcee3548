"""What a run does: which models, how many rounds, how many texts, how long."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.models import SHAPES

ROUNDS = 5

HTTP_CLIENTS = (1, 8, 64)
HTTP_PRECISION = "bf16"
SENTENCE_TRANSFORMERS, ONNX_RUNTIME = "with_sentence_transformers", "with_onnx_runtime"


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
        title="sentence-transformers, fp32",
        module=SENTENCE_TRANSFORMERS,
        precision="fp32",
        computes_in="fp32",
    ),
    Engine(
        id="st-bf16",
        title="sentence-transformers, bf16",
        module=SENTENCE_TRANSFORMERS,
        precision="bf16",
        computes_in="bf16",
    ),
    Engine(
        id="onnx-fp32",
        title="ONNX Runtime, fp32",
        module=ONNX_RUNTIME,
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
IN_PROCESS = f"fledge-{HTTP_PRECISION}"
"""What the server is compared with."""

EXACT = "st-fp32"
"""What every engine's vectors are compared with."""


def defaults_of(model: str) -> Engine:
    """sentence-transformers as a user gets it who asks for nothing.

    It loads with transformers 5, and so computes in the type that the checkpoint is stored in.
    """
    stored = SHAPES[model].stored
    return next(
        one for one in ENGINES if one.module == SENTENCE_TRANSFORMERS and one.precision == stored
    )


def title_of(engine: Engine, model: str) -> str:
    """An engine's name in a table of one model."""
    if engine == defaults_of(model):
        return f"sentence-transformers, defaults ({engine.precision})"
    return engine.title


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is measured of one model.

    Attributes:
        sizes: texts of each workload: so many that sentence-transformers in fp32 takes 3 to 5 s on
            two cores of 2024. With a `crowd` Fledge is measured over HTTP too.
        engines: those that the model is measured with.
        fresh: those of them whose start and memory are measured.
        needed_gib: memory that all engines need together, with something to spare: guessed.
    """

    sizes: Mapping[str, int]
    engines: tuple[str, ...]
    fresh: tuple[str, ...]
    needed_gib: int

    @property
    def has_http(self) -> bool:
        """Whether there is a server."""
        return "crowd" in self.sizes

    def own_engines(self) -> list[Engine]:
        """The engines in the order of the tables."""
        return [one for one in ENGINES if one.id in self.engines]


ALL = tuple(engine.id for engine in ENGINES)
SCOPES: Mapping[str, Scope] = {
    "minilm": Scope(
        sizes={"short": 480, "passages": 96, "mixed": 128, "crowd": 400},
        engines=ALL,
        fresh=ALL,
        needed_gib=4,
    ),
    "base": Scope(
        sizes={"short": 80, "passages": 10, "mixed": 16, "crowd": 128},
        engines=ALL,
        fresh=ALL,
        needed_gib=6,
    ),
    "large": Scope(
        sizes={"short": 24, "passages": 3, "mixed": 6, "crowd": 64},
        engines=ALL,
        fresh=("st-fp32", "fledge-bf16", "fledge-int8"),  # all of them would take ten minutes
        needed_gib=13,
    ),
    "qwen3": Scope(
        sizes={"short": 12, "passages": 4},
        engines=("st-fp32", "st-bf16", "fledge-bf16", "fledge-int8"),
        fresh=("st-bf16", "fledge-bf16", "fledge-int8"),
        needed_gib=10,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run.

    Attributes:
        scopes: what is measured, by model.
        min_seconds: a throughput measurement goes on at least so long.
        latency_seconds: time for single queries, one after another.
        load_seconds: time in which the load generator begins requests.
    """

    scopes: Mapping[str, Scope]
    rounds: int
    min_seconds: float
    latency_seconds: float
    load_seconds: float


def full_plan(models: tuple[str, ...], rounds: int) -> Plan:
    """The run whose numbers are worth keeping."""
    return Plan(
        scopes={model: SCOPES[model] for model in models},
        rounds=rounds,
        min_seconds=1.0,
        latency_seconds=1.0,
        load_seconds=2.5,
    )


def quick_plan(models: tuple[str, ...], rounds: int) -> Plan:
    """The run that shows whether everything works, and roughly what to expect."""
    return Plan(
        scopes={model: _quarter(SCOPES[model]) for model in models},
        rounds=rounds,
        min_seconds=0.5,
        latency_seconds=0.5,
        load_seconds=1.0,
    )


def _quarter(scope: Scope) -> Scope:
    sizes = {name: min(count, max(4, count // 4)) for name, count in scope.sizes.items()}
    return replace(scope, sizes=sizes)
