"""A Prometheus registry that can say what is in it.

Each application has one of its own, so that two in one process (as in tests) do not add up.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: as queries spell it.
        kind: what may be done with it.
        help: what it counts, in a sentence.
        labels: their names; what they may be is bounded.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


Reading: TypeAlias = tuple[Family, tuple[str, ...], float]
"""One number of a family, with the values of its labels."""


class Registry:
    """Metrics by name.

    Attributes:
        families: all that there are, in the order of their making.
    """

    def __init__(self) -> None:
        self.families: list[Family] = []
        self._registry = CollectorRegistry()

    def counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:
        """A number that grows."""
        self.families.append(Family(name, "counter", help, tuple(labels)))
        return Counter(name, help, labels, registry=self._registry)

    def gauge(self, name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
        """A number that comes and goes."""
        self.families.append(Family(name, "gauge", help, tuple(labels)))
        return Gauge(name, help, labels, registry=self._registry)

    def histogram(
        self, name: str, help: str, labels: Sequence[str] = (), *, buckets: Sequence[float]
    ) -> Histogram:
        """How often which sizes came up."""
        self.families.append(Family(name, "histogram", help, tuple(labels)))
        return Histogram(name, help, labels, buckets=buckets, registry=self._registry)

    def show(self, families: Sequence[Family], read: Callable[[], Iterable[Reading]]) -> None:
        """Counters and gauges that are made when they are read."""
        self.families += families
        self._registry.register(_WhenRead(families, read))

    def show_process(self) -> None:
        """Add this process's memory, processor time and open files, under their usual names."""
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Everything, in the Prometheus text format."""
        return generate_latest(self._registry)


class _WhenRead(Collector):
    def __init__(self, families: Sequence[Family], read: Callable[[], Iterable[Reading]]) -> None:
        self._families = families
        self._read = read

    def collect(self) -> Iterable[Metric]:
        metrics: dict[Family, CounterMetricFamily | GaugeMetricFamily] = {}
        for one in self._families:
            make = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
            metrics[one] = make(one.name, one.help, labels=one.labels)
        for family, labels, value in self._read():
            metrics[family].add_metric(labels, value)
        return metrics.values()
