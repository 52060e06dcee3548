"""The numbers behind `GET /metrics`. Nothing of them leaves this machine by itself.

Neither texts nor keys become a label: what is counted is how many, how long and which of a bounded
set of names. Of models these are the ones that have answered.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import get_args

from prometheus_client import Counter, Histogram

from fledge.errors import (
    BudgetExceeded,
    ConcurrencyExceeded,
    Forbidden,
    KeyMissing,
    LimitExceeded,
    LimitsUnavailable,
    Unauthorized,
)
from fledge.telemetry.notes import Notes, fledge_version
from fledge.telemetry.providers import ProviderMetrics
from fledge.telemetry.registry import Family, Reading, Registry
from fledge.telemetry.states import AccountsState, CacheState, ModelState, QueueState, TierState
from fledge.types import FailureKind, State, Timings

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a cached short query to a bulk request at the default time-out, about x 2.5 a step.
_DURATION_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30, 120)
# From a small model with its weights converted to the download of a large one.
_LOAD_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
# Around batch_target_ms, which is 35 unless set.
_BATCH_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1, 5)
_BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
_BATCH_TOKENS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_BATCH_FILL = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1)

# Of a model that is warm; waiting for a load is never so short.
_LEAST_LOAD_MS = 1.0

# The codes of errors that refuse a caller, and the reason in the words of the settings of a key.
_REFUSALS = {
    KeyMissing.code: "unauthorized",
    Unauthorized.code: "unauthorized",
    Forbidden.code: "forbidden",
    LimitExceeded.code: "requests",
    ConcurrencyExceeded.code: "concurrency",
    BudgetExceeded.code: "budget",
    LimitsUnavailable.code: "limits_unavailable",
}

_MODELS = Family("fledge_models", "gauge", "Models by state.", ("state",))
_MODEL_MEMORY = Family(
    "fledge_model_memory_bytes",
    "gauge",
    "Memory of each model that has any: estimated while it loads, then measured.",
    ("model",),
)
_QUEUE_REQUESTS = Family(
    "fledge_queue_requests", "gauge", "Requests of which some inputs are not computed yet."
)
_QUEUE_TOKENS = Family(
    "fledge_queue_tokens",
    "gauge",
    "Tokens that wait for computation, those being tokenized included; max_queued_tokens is the "
    "most that may.",
)
_QUEUE_TENANTS = Family(
    "fledge_queue_tenants", "gauge", "Different keys that those requests are from."
)
_CACHE_ANSWERS = Family(
    "fledge_cache_answers_total",
    "counter",
    "Inputs answered, by where their vectors came from: memory, files, redis, joined (computed for "
    "another request, or an equal input), computed.",
    ("origin",),
)
_CACHE_MEMORY = Family(
    "fledge_cache_memory_bytes", "gauge", "Memory of the vectors that are kept there."
)
_CACHE_BUDGET = Family(
    "fledge_cache_memory_budget_bytes", "gauge", "What that may grow to: cache_memory_bytes."
)
_TIER_READS = Family(
    "fledge_cache_tier_reads_total",
    "counter",
    "Vectors asked of a tier: hit, absent, late (not waited for any longer) or damaged.",
    ("tier", "outcome"),
)
_TIER_WRITES = Family(
    "fledge_cache_tier_writes_total",
    "counter",
    "Vectors given to a tier: written, or dropped since it was too slow or did not work.",
    ("tier", "outcome"),
)
_TIER_FAILURES = Family(
    "fledge_cache_tier_failures_total",
    "counter",
    "Reads and writes of a tier that failed altogether.",
    ("tier",),
)
_TIER_USABLE = Family(
    "fledge_cache_tier_usable",
    "gauge",
    "1: the tier works, or has not been seen to fail; 0: it has, and is left alone for a while.",
    ("tier",),
)
_KEYS = Family("fledge_keys", "gauge", "Keys that are valid now, as this instance knows them.")
_KEYS_AGE = Family(
    "fledge_keys_age_seconds",
    "gauge",
    "Since the keys' database last answered; a second is usual, and beyond keys_max_stale_s "
    "requests are refused.",
)
_USAGE_WAITING = Family(
    "fledge_usage_sums_waiting", "gauge", "Sums of usage that are not in the database yet."
)
_USAGE_AGE = Family(
    "fledge_usage_unwritten_seconds",
    "gauge",
    "Since all usage was in the database; under a second is usual.",
)
_LIMITS_SHARED = Family(
    "fledge_limits_shared",
    "gauge",
    "1: instances share the limits of keys over Redis, which has not been seen to fail; 0: it has, "
    "and what limits_without_redis says is done. Absent without redis_url.",
)


class ModelMetrics:
    """The numbers about models that come and go: an `Observer` of the lifecycle."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._loads = registry.counter(
            "fledge_model_loads_total",
            "Models loaded, or not: `ok`, or the kind of failure.",
            ["outcome"],
        )
        self._load_duration = registry.histogram(
            "fledge_model_load_seconds",
            "From the first request for a cold model until it was warm.",
            buckets=_LOAD_BUCKETS_S,
        )
        self._unloads = registry.counter(
            "fledge_model_unloads_total", "Models that have left memory."
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

        def read() -> Iterator[Reading]:
            now = list(models())
            for state in get_args(State):
                yield _MODELS, (state,), sum(one.state == state for one in now)
            for one in now:
                if one.memory_bytes:
                    yield _MODEL_MEMORY, (one.id,), one.memory_bytes

        self._registry.show([_MODELS, _MODEL_MEMORY], read)


class EngineMetrics:
    """The numbers about batches and what waits for one: an observer of the lane."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._seconds = registry.histogram(
            "fledge_batch_seconds",
            "Time that computing one batch took.",
            ["model"],
            buckets=_BATCH_BUCKETS_S,
        )
        self._rows = registry.histogram(
            "fledge_batch_rows", "Inputs in one batch.", ["model"], buckets=_BATCH_ROWS
        )
        self._tokens = registry.histogram(
            "fledge_batch_tokens", "Tokens in one batch.", ["model"], buckets=_BATCH_TOKENS
        )
        self._fill = registry.histogram(
            "fledge_batch_fill_ratio",
            "How much of the work that a batch may have was there to put into it.",
            ["model"],
            buckets=_BATCH_FILL,
        )
        self._of_model = cache(self._find_of_model)

    def on_batch(self, model_id: str, rows: int, tokens: int, fill: float, seconds: float) -> None:
        """Count a batch that was computed."""
        of_seconds, of_rows, of_tokens, of_fill = self._of_model(model_id)
        of_seconds.observe(seconds)
        of_rows.observe(rows)
        of_tokens.observe(tokens)
        of_fill.observe(fill)

    def show(self, queue: QueueState) -> None:
        """Ask what waits whenever the metrics are read."""

        def read() -> Iterator[Reading]:
            yield _QUEUE_REQUESTS, (), queue.waiting_requests
            yield _QUEUE_TOKENS, (), queue.waiting_tokens
            yield _QUEUE_TENANTS, (), queue.waiting_tenants

        self._registry.show([_QUEUE_REQUESTS, _QUEUE_TOKENS, _QUEUE_TENANTS], read)

    def _find_of_model(self, model: str) -> tuple[Histogram, Histogram, Histogram, Histogram]:
        return (
            self._seconds.labels(model),
            self._rows.labels(model),
            self._tokens.labels(model),
            self._fill.labels(model),
        )


class Metrics:
    """Everything that is counted.

    Attributes:
        in_flight: requests being answered now.
        models: the numbers about models that come and go.
        engine: the numbers about batches and what waits for one.
        providers: the numbers about providers.
        families: what there is to read.
    """

    def __init__(self) -> None:
        registry = self._registry = Registry()
        self.families = registry.families
        registry.gauge(
            "fledge_build_info", "Always 1; what runs here.", ["version", "python"]
        ).labels(fledge_version(), platform.python_version()).set(1)
        self.in_flight = registry.gauge("fledge_requests_in_flight", "Requests being answered now.")
        self._requests = registry.counter(
            "fledge_requests_total",
            "Requests answered; 499: the client left before its answer.",
            ["route", "method", "status"],
        )
        self._request_duration = registry.histogram(
            "fledge_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_DURATION_BUCKETS_S,
        )
        self._errors = registry.counter(
            "fledge_errors_total", "Requests that failed, by the error's code.", ["code"]
        )
        self._refused = registry.counter(
            "fledge_requests_refused_total",
            "Requests refused to their caller: unauthorized, forbidden, the limit that was used up "
            "(requests, tokens, concurrency, budget), or limits_unavailable.",
            ["reason"],
        )
        self._inputs = registry.counter("fledge_inputs_total", "Inputs embedded.", ["model"])
        self._tokens = registry.counter(
            "fledge_tokens_total",
            "Tokens of the inputs, special tokens and prompt included.",
            ["model"],
        )
        self._truncated = registry.counter(
            "fledge_truncated_inputs_total", "Inputs that were cut to fit the model.", ["model"]
        )
        self._stage_duration = registry.histogram(
            "fledge_stage_duration_seconds",
            "Time of one request in a stage that it was in: load (until a model that was not warm "
            "was), cache (until it was known what had to be computed), tokenize, queue, compute.",
            ["model", "stage"],
            buckets=_DURATION_BUCKETS_S,
        )
        self.models = ModelMetrics(registry)
        self.engine = EngineMetrics(registry)
        self.providers = ProviderMetrics(registry)
        registry.show_process()
        # Labels cost more than counting, so each set of them is looked up once.
        self._of_route = cache(self._find_of_route)
        self._of_model = cache(self._find_of_model)

    def show_cache(self, state: Callable[[], CacheState]) -> None:
        """Ask the cache for its numbers whenever the metrics are read."""

        def read() -> Iterator[Reading]:
            now = state()
            for origin, count in now.answers.items():
                yield _CACHE_ANSWERS, (origin,), count
            yield _CACHE_MEMORY, (), now.memory_bytes
            yield _CACHE_BUDGET, (), now.memory_budget_bytes
            for tier in now.tiers:
                yield from _read_tier(tier)

        tiers = [_TIER_READS, _TIER_WRITES, _TIER_FAILURES, _TIER_USABLE]
        self._registry.show([_CACHE_ANSWERS, _CACHE_MEMORY, _CACHE_BUDGET, *tiers], read)

    def show_accounts(self, state: Callable[[], AccountsState | None]) -> None:
        """Ask for keys, usage and limits whenever the metrics are read; None: there are none."""

        def read() -> Iterator[Reading]:
            if (now := state()) is not None:
                yield _KEYS, (), now.keys
                yield _KEYS_AGE, (), now.keys_age_s
                yield _USAGE_WAITING, (), now.sums_waiting
                yield _USAGE_AGE, (), now.unwritten_s
                if now.are_limits_shared is not None:
                    yield _LIMITS_SHARED, (), now.are_limits_shared

        families = [_KEYS, _KEYS_AGE, _USAGE_WAITING, _USAGE_AGE, _LIMITS_SHARED]
        self._registry.show(families, read)

    def observe_request(self, notes: Notes) -> None:
        """Count one answered request."""
        requests, duration = self._of_route(notes.route, notes.method, notes.status)
        requests.inc()
        duration.observe(notes.duration_s)
        if notes.error is not None:
            self._errors.labels(notes.error).inc()
            if (reason := _REFUSALS.get(notes.error)) is not None:
                self._refused.labels(notes.limit or reason).inc()

    def observe_answer(self, notes: Notes, truncated_count: int) -> None:
        """Count what one request embedded."""
        inputs, tokens, truncated, load, look_up, tokenize, queue, compute = self._of_model(
            notes.model or ""
        )
        inputs.inc(notes.input_count)
        tokens.inc(notes.tokens)
        truncated.inc(truncated_count)
        # Who was in none of the stages is not counted there: it would hide how those fare who were.
        timings = notes.timings or Timings()
        if timings.load_ms >= _LEAST_LOAD_MS:
            load.observe(timings.load_ms / 1000)
        if timings.cache_ms:
            look_up.observe(timings.cache_ms / 1000)
        if timings.compute_ms:
            tokenize.observe(timings.tokenize_ms / 1000)
            queue.observe(timings.queue_ms / 1000)
            compute.observe(timings.compute_ms / 1000)

    def render(self) -> bytes:
        """Everything, in the Prometheus text format."""
        return self._registry.render()

    def _find_of_route(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        return (
            self._requests.labels(route, method, str(status)),
            self._request_duration.labels(route),
        )

    def _find_of_model(
        self, model: str
    ) -> tuple[Counter, Counter, Counter, Histogram, Histogram, Histogram, Histogram, Histogram]:
        return (
            self._inputs.labels(model),
            self._tokens.labels(model),
            self._truncated.labels(model),
            self._stage_duration.labels(model, "load"),
            self._stage_duration.labels(model, "cache"),
            self._stage_duration.labels(model, "tokenize"),
            self._stage_duration.labels(model, "queue"),
            self._stage_duration.labels(model, "compute"),
        )


def _read_tier(tier: TierState) -> Iterator[Reading]:
    counts = tier.counts
    reads = {
        "hit": counts.hits,
        "absent": counts.misses - counts.late - counts.damaged,
        "late": counts.late,
        "damaged": counts.damaged,
    }
    for outcome, count in reads.items():
        yield _TIER_READS, (tier.name, outcome), count
    yield _TIER_WRITES, (tier.name, "written"), counts.written
    yield _TIER_WRITES, (tier.name, "dropped"), counts.dropped
    yield _TIER_FAILURES, (tier.name,), counts.failures
    yield _TIER_USABLE, (tier.name,), tier.is_usable
