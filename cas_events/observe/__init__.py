"""What can be seen of a process from outside: metrics for Prometheus, traces by OpenTelemetry, health.

    from cas_events import observe

    observe.enable_metrics()   # what this process's clients submit, in prometheus-client's own registry

A runner or projector with a metrics port (`CAS_METRICS_PORT`, `--metrics-port`) serves `/metrics`, `/healthz` and
`/readyz`. Everything is off until asked for and then needs the extra ``observability``; the parts of the runtime
call a `meter.Meter` that does nothing.
"""

from cas_events.observe.clients import disable_metrics, enable_metrics

__all__ = ["disable_metrics", "enable_metrics"]
