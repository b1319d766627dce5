"""What the clients of this process submit, counted for whoever serves the process's metrics.

A client has no port of its own: the program that it is part of has one, or none.
"""

from __future__ import annotations

from typing import Any

from cas_events.observe.extra import require_metrics
from cas_events.observe.meter import NO_METER, Meter

_meter: Meter = NO_METER


def meter() -> Meter:
    """What this process's clients tell."""
    return _meter


def enable_metrics(registry: Any = None) -> None:
    """Count what this process's clients submit: `cas_client_tasks_submitted_total`.

    Args:
        registry: a `prometheus_client.CollectorRegistry`; the library's default one without it.

    Raises:
        ObserveExtraMissingError: the extra ``observability`` is not installed.
    """
    global _meter  # noqa: PLW0603 - one process, one registry
    require_metrics()
    from cas_events.observe.prometheus import client_meter  # noqa: PLC0415 - an extra

    _meter = client_meter(registry)


def disable_metrics() -> None:
    """Count no more; what was counted stays in the registry."""
    global _meter  # noqa: PLW0603 - see above
    _meter = NO_METER
