"""What can be seen of a process from outside: metrics for Prometheus, traces by OpenTelemetry, health.

    from cas_events import observe

    observe.enable_tracing()   # this process's clients and runners take part in traces
    observe.enable_metrics()   # what this process's clients submit, in prometheus-client's own registry

A runner or projector with a metrics port (`CAS_METRICS_PORT`, `--metrics-port`) serves `/metrics`, `/healthz` and
`/readyz`. Everything is off until asked for and then needs the extra ``observability``; the parts of the runtime
call a `meter.Meter` and an `AttemptTrace` that do nothing.
"""

from cas_events.observe.clients import disable_metrics, enable_metrics
from cas_events.observe.tracing import disable_tracing, enable_tracing
from cas_events.settings import MetricsAddress

__all__ = ["MetricsAddress", "disable_metrics", "disable_tracing", "enable_metrics", "enable_tracing"]
