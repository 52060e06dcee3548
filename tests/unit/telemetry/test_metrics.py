"""What is counted, and under which names."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

from fledge.telemetry.metrics import Metrics
from fledge.telemetry.notes import Notes
from fledge.types import Timings
from tests.unit.telemetry.numbers import ACCOUNTS, answered, full_metrics, refused, shown

UNITS = ("_bytes", "_seconds", "_total", "_ratio")


def test_what_waits_and_what_is_computed_is_shown() -> None:
    samples = shown(full_metrics())
    assert samples["fledge_queue_requests{}"] == 2
    assert samples["fledge_queue_tokens{}"] == 300
    assert samples["fledge_queue_tenants{}"] == 1
    assert samples["fledge_batch_rows_sum{model: a/model}"] == 3
    assert samples["fledge_batch_tokens_sum{model: a/model}"] == 90
    assert samples["fledge_batch_fill_ratio_sum{model: a/model}"] == 0.5
    assert samples["fledge_batch_seconds_sum{model: a/model}"] == 0.03


def test_providers_are_shown_with_what_they_answer_cost_and_are() -> None:
    samples = shown(full_metrics())
    assert samples["fledge_provider_requests_total{outcome: ok, provider: nebius}"] == 1
    assert samples["fledge_provider_requests_total{outcome: denied, provider: nebius}"] == 1
    assert samples["fledge_provider_request_seconds_count{provider: nebius}"] == 1
    assert samples["fledge_provider_request_seconds_sum{provider: nebius}"] == 0.2
    assert samples["fledge_provider_tokens_total{provider: nebius}"] == 1000
    assert samples["fledge_provider_cost_total{provider: nebius}"] == 0.00002
    states = {"well": 2, "resting": 1, "trying": 0}
    verdicts = {"reference": 0, "same": 1, "differs": 1, "unknown": 1}
    for state, count in states.items():
        assert samples[f"fledge_provider_models{{provider: nebius, state: {state}}}"] == count
    for verdict, count in verdicts.items():
        assert samples[f"fledge_provider_spaces{{provider: nebius, verdict: {verdict}}}"] == count
    assert samples["fledge_provider_budget_left{provider: nebius}"] == 1.5


def test_the_cache_is_shown_tier_by_tier_and_its_outcomes_add_up() -> None:
    samples = shown(full_metrics())
    assert samples["fledge_cache_answers_total{origin: memory}"] == 5
    assert samples["fledge_cache_answers_total{origin: computed}"] == 2
    assert samples["fledge_cache_memory_bytes{}"] == 1000
    assert samples["fledge_cache_memory_budget_bytes{}"] == 2000
    reads = {
        outcome: samples[f"fledge_cache_tier_reads_total{{outcome: {outcome}, tier: files}}"]
        for outcome in ("hit", "absent", "late", "damaged")
    }
    assert reads == {"hit": 4, "absent": 5, "late": 3, "damaged": 1}
    assert samples["fledge_cache_tier_writes_total{outcome: dropped, tier: files}"] == 6
    assert samples["fledge_cache_tier_failures_total{tier: files}"] == 2
    assert samples["fledge_cache_tier_usable{tier: files}"] == 0


def test_keys_and_usage_are_shown_where_there_are_any() -> None:
    samples = shown(full_metrics())
    assert samples["fledge_keys{}"] == 11
    assert samples["fledge_keys_age_seconds{}"] == 0.5
    assert samples["fledge_usage_sums_waiting{}"] == 12
    assert samples["fledge_usage_unwritten_seconds{}"] == 0.25
    without = Metrics()
    without.show_accounts(lambda: None)
    assert not [name for name in shown(without) if name.startswith(("fledge_keys", "fledge_usage"))]


def test_whether_limits_are_shared_is_shown_where_they_should_be() -> None:
    assert shown(full_metrics())["fledge_limits_shared{}"] == 0
    alone = Metrics()
    alone.show_accounts(lambda: replace(ACCOUNTS, are_limits_shared=None))
    assert not [name for name in shown(alone) if name.startswith("fledge_limits")]


@pytest.mark.parametrize(
    ("code", "limit", "reason"),
    [
        ("invalid_api_key", None, "unauthorized"),
        ("forbidden", None, "forbidden"),
        ("rate_limit_exceeded", "requests", "requests"),
        ("rate_limit_exceeded", "tokens", "tokens"),
        ("concurrency_limit_exceeded", "concurrency", "concurrency"),
        ("insufficient_quota", "budget", "budget"),
        ("limits_unavailable", None, "limits_unavailable"),
    ],
)
def test_refusals_are_counted_by_reason(code: str, limit: str | None, reason: str) -> None:
    metrics = Metrics()
    metrics.observe_request(refused(code, limit))
    samples = shown(metrics)
    assert samples[f"fledge_requests_refused_total{{reason: {reason}}}"] == 1
    assert samples[f"fledge_errors_total{{code: {code}}}"] == 1


def test_other_failures_are_no_refusals() -> None:
    metrics = Metrics()
    metrics.observe_request(refused("overloaded"))
    assert not [name for name in shown(metrics) if name.startswith("fledge_requests_refused")]


def stages(timings: Timings) -> Sequence[str]:
    metrics, notes = Metrics(), answered()
    notes.timings = timings
    metrics.observe_answer(notes, 0)
    found = r"fledge_stage_duration_seconds_count{model: a/model, stage: (\w+)}"
    counts = ((re.fullmatch(found, name), value) for name, value in shown(metrics).items())
    return sorted(match[1] for match, value in counts if match and value)


def test_a_request_is_counted_in_the_stages_that_it_was_in() -> None:
    assert stages(Timings()) == []
    assert stages(Timings(cache_ms=0.1, load_ms=0.1)) == ["cache"]
    assert stages(Timings(cache_ms=0.1, queue_ms=0, compute_ms=1)) == [
        "cache",
        "compute",
        "queue",
        "tokenize",
    ]
    assert stages(Timings(load_ms=300)) == ["load"]


def test_what_runs_here_is_shown() -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    (name,) = [name for name in shown(Metrics()) if name.startswith("fledge_build_info")]
    assert name.startswith(f"fledge_build_info{{python: {python}, version: ")


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_memory_of_the_process_is_shown() -> None:
    assert shown(Metrics())["process_resident_memory_bytes{}"] > 2**20


def test_everything_that_is_shown_is_listed_with_its_labels() -> None:
    metrics = full_metrics()
    listed = {family.name: set(family.labels) for family in metrics.families}
    seen: dict[str, set[str]] = {}
    for name in shown(metrics):
        base, labels = name.rstrip("}").split("{")
        base = re.sub("_(sum|count|bucket)$", "", base)
        if base.startswith("fledge_") and not base.endswith("_created"):
            seen[base] = {one.split(":")[0] for one in labels.split(", ") if one} - {"le"}
    assert seen == listed


def test_names_follow_the_conventions_of_prometheus() -> None:
    for family in full_metrics().families:
        assert re.fullmatch("fledge_[a-z_]+", family.name)
        assert (family.kind == "counter") == family.name.endswith("_total"), family.name
        assert family.help.endswith("."), family.name
        if family.kind == "histogram" and not family.name.endswith(UNITS):
            assert family.name in ("fledge_batch_rows", "fledge_batch_tokens")


def test_labels_are_of_sets_that_callers_cannot_extend() -> None:
    known = {"route", "method", "status", "code", "reason", "model", "stage", "state", "outcome"}
    known |= {"origin", "tier", "provider", "verdict", "version", "python"}
    assert {label for family in full_metrics().families for label in family.labels} == known


def test_two_of_them_do_not_add_up() -> None:
    first, second = Metrics(), Metrics()
    notes = Notes("a")
    notes.method, notes.route = "GET", "/"
    first.observe_request(notes)
    assert not [name for name in shown(second) if name.startswith("fledge_requests_total")]
