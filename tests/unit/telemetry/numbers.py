"""Metrics with something in every one of them, and what they show."""

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from fledge.telemetry.metrics import Metrics
from fledge.telemetry.notes import Notes
from fledge.telemetry.states import (
    AccountsState,
    CacheState,
    ModelState,
    ProviderState,
    TierCounts,
    TierState,
)
from fledge.types import Timings


@dataclass(frozen=True, slots=True)
class Queue:
    waiting_requests: int = 2
    waiting_tokens: int = 300
    waiting_tenants: int = 1


CACHE = CacheState(
    answers={"memory": 5, "files": 4, "joined": 3, "computed": 2},
    memory_bytes=1000,
    memory_budget_bytes=2000,
    tiers=[
        TierState(
            name="files",
            is_usable=False,
            counts=TierCounts(
                hits=4,
                misses=9,
                late=3,
                damaged=1,
                written=7,
                dropped=6,
                failures=2,
            ),
        )
    ],
)
ACCOUNTS = AccountsState(
    keys=11, keys_age_s=0.5, sums_waiting=12, unwritten_s=0.25, are_limits_shared=False
)


PROVIDER = ProviderState(
    name="nebius",
    healths=["well", "well", "resting"],
    relations=["same", "differs", "unknown"],
    budget_left_nanos=1_500_000_000,
)


def full_metrics() -> Metrics:
    """Of a server that has seen everything once."""
    metrics = Metrics()
    metrics.models.show(lambda: [ModelState("a/model", "warm", 5000)])
    metrics.engine.show(Queue())
    metrics.show_cache(lambda: CACHE)
    metrics.show_accounts(lambda: ACCOUNTS)
    metrics.providers.show(lambda: [PROVIDER])
    metrics.providers.on_request("nebius", "ok", 0.2)
    metrics.providers.on_request("nebius", "denied", 0.1)
    metrics.providers.on_charge("nebius", tokens=1000, nanos=20_000)
    metrics.models.on_load("a/model", 0.3, None)
    metrics.models.on_unload("a/model")
    metrics.engine.on_batch("a/model", rows=3, tokens=90, fill=0.5, seconds=0.03)
    metrics.observe_request(notes := answered())
    metrics.observe_answer(notes, 1)
    metrics.observe_request(refused("rate_limit_exceeded", "tokens"))
    return metrics


def answered() -> Notes:
    notes = Notes("abc-1")
    notes.method, notes.route, notes.status, notes.duration_s = "POST", "/", 200, 0.02
    notes.model, notes.input_count, notes.tokens = "a/model", 2, 30
    notes.timings = Timings(tokenize_ms=1, queue_ms=2, compute_ms=30, load_ms=2000, cache_ms=0.5)
    return notes


def refused(code: str, limit: str | None = None) -> Notes:
    notes = Notes("abc-2")
    notes.method, notes.route, notes.status = "POST", "/", 429
    notes.error, notes.limit = code, limit
    return notes


def shown(metrics: Metrics) -> dict[str, float]:
    """Every sample, as a query would name it."""
    return {
        one.name + str(dict(sorted(one.labels.items()))).replace("'", ""): one.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for one in family.samples
    }
