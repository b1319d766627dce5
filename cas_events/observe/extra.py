"""Whether the libraries of the extra ``observability`` are there, said clearly where they are asked for."""

from __future__ import annotations

from importlib.util import find_spec

from cas_events.errors import ObserveExtraMissingError


def require_metrics() -> None:
    """Check that metrics can be served.

    Raises:
        ObserveExtraMissingError: prometheus-client is not installed.
    """
    _require("metrics", "prometheus_client")


def require_traces() -> None:
    """Check that traces can be made and sent.

    Raises:
        ObserveExtraMissingError: OpenTelemetry's SDK or its exporter is not installed.
    """
    _require("traces", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def _require(wanted: str, *modules: str) -> None:
    for module in modules:
        try:
            is_there = find_spec(module) is not None
        except (
            ImportError,
            ValueError,
        ):  # Its package is not there, or somebody keeps it from being imported.
            is_there = False
        if not is_there:
            raise ObserveExtraMissingError(wanted, module.replace("_", "-"))
