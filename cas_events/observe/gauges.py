"""Gauges that are read when somebody looks, from whatever thread looks.

A reader gives rows of label values and a value. It must not wait; what has to be asked of the server is in
`consumers`, which asks for all at once and with a deadline. Rows with the same labels are added up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_log = logging.getLogger(__name__)

Row = tuple[tuple[str, ...], float]
Read = Callable[[], Iterable[Row]]


class _Gauge(NamedTuple):
    name: str
    says: str
    labels: tuple[str, ...]
    read: Read


class Gauges(Collector):
    """The gauges of one process.

    Args:
        registry: where they are registered.
        before: called once before they are read.
    """

    def __init__(self, registry: CollectorRegistry, before: Callable[[], None] = lambda: None) -> None:
        self._gauges: list[_Gauge] = []
        self.before = before
        registry.register(self)

    def add(self, name: str, says: str, labels: tuple[str, ...], read: Read) -> None:
        """Read one more; of the same name there may be one."""
        self._gauges.append(_Gauge(name, says, labels, read))

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Names alone, since nothing is to be asked for a registration."""
        return iter([GaugeMetricFamily(gauge.name, gauge.says) for gauge in self._gauges])

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read them all; one that cannot be read has no rows."""
        self.before()
        for gauge in self._gauges:
            family = GaugeMetricFamily(gauge.name, gauge.says, labels=gauge.labels)
            try:
                for labels, value in _totals(gauge.read()).items():
                    family.add_metric(labels, value)
            except Exception:
                # The other metrics must be seen all the same, now above all.
                _log.exception("gauge %s cannot be read", gauge.name)
            yield family


def _totals(rows: Iterable[Row]) -> dict[tuple[str, ...], float]:
    totals: dict[tuple[str, ...], float] = {}
    for labels, value in rows:
        totals[labels] = totals.get(labels, 0.0) + value
    return totals
