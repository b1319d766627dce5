"""Counters and histograms that cost a task as little as can be: two dict lookups under a lock, each.

prometheus-client's own metrics take 0.7 µs an increment and 1.5 µs an observation, half of it to find the child of some
labels; a task makes five of them. These are handed to it as families when somebody scrapes.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Key = tuple[str, ...]


class Count(Collector):
    """A counter.

    Args:
        registry: where it is registered.
        name: without `_total`.
        says: what it counts.
        labels: names of the labels; a key has their values.
    """

    def __init__(self, registry: CollectorRegistry, name: str, says: str, labels: Key = ()) -> None:
        self._name, self._says, self._labels = name, says, labels
        self._lock = threading.Lock()
        self._values: dict[Key, int] = {}
        registry.register(self)

    def add(self, key: Key) -> None:
        """One more."""
        with self._lock:
            self._values[key] = self._values.get(key, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """What was counted, for prometheus-client."""
        family = CounterMetricFamily(self._name, self._says, labels=self._labels)
        with self._lock:
            values = dict(self._values)
        for key, value in values.items():
            family.add_metric(key, value)
        yield family


class Spread(Collector):
    """A histogram.

    Args:
        registry: where it is registered.
        name: with its unit.
        says: what is measured.
        bounds: upper ends of the buckets, ascending, without infinity.
        labels: names of the labels; a key has their values.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        says: str,
        bounds: tuple[float, ...],
        labels: Key = (),
    ) -> None:
        self._name, self._says, self._labels = name, says, labels
        self._bounds = bounds
        self._lock = threading.Lock()
        self._rows: dict[Key, list[float]] = {}  # how many in each bucket and beyond the last, and the sum
        registry.register(self)

    def add(self, key: Key, value: float) -> None:
        """One more."""
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                row = self._rows[key] = [0.0] * (len(self._bounds) + 2)
            row[bisect_left(self._bounds, value)] += 1
            row[-1] += value

    def collect(self) -> Iterator[Metric]:
        """What was measured, for prometheus-client."""
        family = HistogramMetricFamily(self._name, self._says, labels=self._labels)
        with self._lock:
            rows = {key: row.copy() for key, row in self._rows.items()}
        for key, row in rows.items():
            family.add_metric(key, buckets=self._cumulated(row[:-1]), sum_value=row[-1])
        yield family

    def _cumulated(self, counts: list[float]) -> list[tuple[str, float]]:
        total, buckets = 0.0, []
        for bound, count in zip((*map(str, map(float, self._bounds)), "+Inf"), counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets
