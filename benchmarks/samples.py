"""What was measured: every value of every round, and the medians and ratios made of them."""

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

Key: TypeAlias = tuple[str, str, str, str]
"""Model, engine, subject (a workload, or what was done), metric with its unit."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Values by what they are of, one for each round, in the order of the rounds."""

    values: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, key: Key, value: float) -> None:
        """Add a round's value."""
        self.values[key].append(float(value))

    def add_latencies(self, model: str, engine: str, subject: str, times: Sequence[float]) -> None:
        """Add a round's percentiles of times in milliseconds."""
        for name, percentile in (("p50_ms", 50), ("p99_ms", 99)):
            self.add((model, engine, subject, name), float(np.percentile(times, percentile)))
        self.add((model, engine, subject, "count"), len(times))

    def median(self, model: str, engine: str, subject: str, metric: str) -> float | None:
        """The median over the rounds; None where it was not measured."""
        values = self.values.get((model, engine, subject, metric))
        return float(np.median(values)) if values else None

    def ratio(
        self, one: Key, other: Key, combine: Callable[[float, float], float] = operator.truediv
    ) -> float | None:
        """The median of the rounds' own ratios: what disturbs a round disturbs both of it."""
        pairs = zip(self.values.get(one, ()), self.values.get(other, ()), strict=False)
        ratios = [combine(a, b) for a, b in pairs]
        return float(np.median(ratios)) if ratios else None

    def add_records(self, records: Iterable[Mapping[str, Any]], models: Sequence[str]) -> None:
        """Add what `as_records` gave, of these models alone."""
        for record in records:
            if record["model"] in models:
                key = (record["model"], record["engine"], record["subject"], record["metric"])
                self.values[key].extend(record["values"])

    def as_records(self) -> list[dict[str, Any]]:
        """Everything, for the file of raw numbers."""
        names = ("model", "engine", "subject", "metric")
        return [
            dict(zip(names, key, strict=True)) | {"values": [float(f"{v:.6g}") for v in values]}
            for key, values in self.values.items()
        ]
