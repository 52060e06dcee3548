"""What an operator sees: metrics, request ids, logs. Nothing of it leaves this machine by itself.

Neither texts nor keys reach a log or a label: what is counted is how many, how long and which of
a bounded set of names. Each application has a registry of its own, so that two in one process (as
in tests) do not add up.
"""

import logging
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fledge.types import FailureKind, State, Timings

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a cached short query to a bulk request at the default time-out, about x 2.5 a step.
_DURATION_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30, 120)
# From a small model with its weights converted to the download of a large one.
_LOAD_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_SANE_ID = re.compile(r"[A-Za-z0-9._:;=/+@-]{1,128}")


def fledge_version() -> str:
    """The installed version; `0+unknown` when run from a source tree that is not installed."""
    try:
        return version("fledge")
    except PackageNotFoundError:
        return "0+unknown"


def request_id(*candidates: bytes | None) -> str:
    """The first id that a client sent and that is safe to repeat, else a new one."""
    for candidate in candidates:
        if candidate is not None:
            text = candidate.decode("latin-1")
            if _SANE_ID.fullmatch(text):
                return text
    return secrets.token_hex(16)


def configure_logging(level: str) -> None:
    """Log to stderr from `level` on. Called once, by the program, never by the library."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Its own line per request would repeat ours, with the query string in it.
    logging.getLogger("uvicorn.access").disabled = True


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model as the metrics show it."""

    id: str
    state: State
    memory_bytes: int


class _ModelCollector(Collector):
    """Gauges that are made when they are read."""

    def __init__(self, models: Callable[[], Iterable[ModelState]]) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        states = GaugeMetricFamily("fledge_models", "Models by state.", labels=["state"])
        memory = GaugeMetricFamily(
            "fledge_model_memory_bytes",
            "Memory of each model that has any: estimated while it loads, then measured.",
            labels=["model"],
        )
        models = list(self._models())
        for state in get_args(State):
            states.add_metric([state], sum(one.state == state for one in models))
        for one in models:
            if one.memory_bytes:
                memory.add_metric([one.id], one.memory_bytes)
        return [states, memory]


class ModelMetrics:
    """The numbers about models that come and go: an `Observer` of the lifecycle."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._loads = Counter(
            "fledge_model_loads_total",
            "Models loaded, or not: `ok`, or the kind of failure.",
            ["outcome"],
            registry=registry,
        )
        self._load_duration = Histogram(
            "fledge_model_load_seconds",
            "From the first request for a cold model until it was warm.",
            buckets=_LOAD_BUCKETS_S,
            registry=registry,
        )
        self._unloads = Counter(
            "fledge_model_unloads_total", "Models that have left memory.", registry=registry
        )

    def on_load(self, model_id: str, seconds: float, failure: FailureKind | None) -> None:  # noqa: ARG002 - any client may name new ones, and a label for each would fill the memory
        """Count a load that ended."""
        self._loads.labels(failure or "ok").inc()
        if failure is None:
            self._load_duration.observe(seconds)

    def on_unload(self, model_id: str) -> None:  # noqa: ARG002 - likewise
        """Count a model that has left."""
        self._unloads.inc()

    def show(self, models: Callable[[], Iterable[ModelState]]) -> None:
        """Ask for the models' states and memory whenever the metrics are read."""
        self._registry.register(_ModelCollector(models))


class Metrics:
    """The numbers behind `GET /metrics`.

    Attributes:
        in_flight: requests being answered now.
        models: the numbers about models that come and go.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "fledge_requests_total",
            "Requests answered; 499: the client left before its answer.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._request_duration = Histogram(
            "fledge_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_DURATION_BUCKETS_S,
            registry=self._registry,
        )
        self._errors = Counter(
            "fledge_errors_total",
            "Requests that failed, by the error's code.",
            ["code"],
            registry=self._registry,
        )
        self._inputs = Counter(
            "fledge_inputs_total", "Inputs embedded.", ["model"], registry=self._registry
        )
        self._tokens = Counter(
            "fledge_tokens_total",
            "Tokens of the inputs, special tokens and prompt included.",
            ["model"],
            registry=self._registry,
        )
        self._truncated = Counter(
            "fledge_truncated_inputs_total",
            "Inputs that were cut to fit the model.",
            ["model"],
            registry=self._registry,
        )
        self._stage_duration = Histogram(
            "fledge_stage_duration_seconds",
            "Time of one request in a stage: load (until the model was warm), tokenize, queue, "
            "compute.",
            ["model", "stage"],
            buckets=_DURATION_BUCKETS_S,
            registry=self._registry,
        )
        self.models = ModelMetrics(self._registry)
        self._of_model = cache(self._find_of_model)
        self.in_flight = Gauge(
            "fledge_requests_in_flight", "Requests being answered now.", registry=self._registry
        )

    def observe_request(self, route: str, method: str, status: int, duration_s: float) -> None:
        """Count one answered request. `route` is a template, never a path that a client chose."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_duration.labels(route).observe(duration_s)

    def observe_error(self, code: str) -> None:
        """Count one error by its code."""
        self._errors.labels(code).inc()

    def observe_answer(
        self, model: str, token_counts: Sequence[int], truncated_count: int, timings: Timings
    ) -> None:
        """Count what one request embedded. `model` is the id of a card."""
        inputs, tokens, truncated, load, tokenize, queue, compute = self._of_model(model)
        inputs.inc(len(token_counts))
        tokens.inc(sum(token_counts))
        truncated.inc(truncated_count)
        load.observe(timings.load_ms / 1000)
        tokenize.observe(timings.tokenize_ms / 1000)
        queue.observe(timings.queue_ms / 1000)
        compute.observe(timings.compute_ms / 1000)

    def render(self) -> bytes:
        """Everything, in the Prometheus text format."""
        return generate_latest(self._registry)

    def _find_of_model(
        self, model: str
    ) -> tuple[Counter, Counter, Counter, Histogram, Histogram, Histogram, Histogram]:
        """The numbers of one model, which are looked up once: labels cost more than counting."""
        return (
            self._inputs.labels(model),
            self._tokens.labels(model),
            self._truncated.labels(model),
            self._stage_duration.labels(model, "load"),
            self._stage_duration.labels(model, "tokenize"),
            self._stage_duration.labels(model, "queue"),
            self._stage_duration.labels(model, "compute"),
        )
