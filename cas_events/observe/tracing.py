"""Traces: what the runtime tells about one task, from its submission to its end, across processes.

    submit AGENT            the client, or an agent that calls another
    ├─ queue AGENT          from when the task could start to its first start
    └─ attempt AGENT        one attempt; a later one is linked to the one before
       ├─ node NAME         a graph's node, below the node that its graph is in
       └─ submit OTHER      a child

The context travels as `traceparent` in the execute command, and in every event of an attempt as the attempt's own
span. Off, nothing is made, and a given `traceparent` passes through to the events. This module knows no library:
`enable_tracing` loads `otel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from cas_events.observe.extra import require_traces

if TYPE_CHECKING:
    from cas_events.observe.otel import OtelTracer

_tracer: OtelTracer | None = None


class AttemptTrace:
    """One attempt, as a trace has it; nothing here.

    Attributes:
        traceparent: of the attempt, for its events and its children; None to repeat the command's.
    """

    traceparent: str | None = None

    def waited(self, since_s: float) -> None:
        """The task starts for the first time.

        Args:
            since_s: when it could have started, seconds since the epoch.
        """

    def appended(self, type_: str, seq: int, members: Mapping[str, Any]) -> None:
        """A lifecycle event of the attempt is stored."""

    def scope(self) -> AbstractContextManager[None]:
        """Where the agent's code runs: what it traces itself belongs to the attempt."""
        return nullcontext()

    def step(self, type_: str, members: Mapping[str, Any]) -> None:
        """A step starts or ends; from any thread."""

    @property
    def wants_steps(self) -> bool:
        """Whether `step` does anything."""
        return False

    def end(self) -> None:
        """The attempt is over. Idempotent."""


NO_TRACE = AttemptTrace()


def tracer() -> OtelTracer | None:
    """What makes spans; None while tracing is off."""
    return _tracer


def enable_tracing(provider: Any = None, *, service_name: str = "cas-events") -> None:
    """Have this process's clients and runners take part in traces.

    Args:
        provider: an OpenTelemetry `TracerProvider`. Without one the process's own is used, if somebody has set one
            up; else one is made as OpenTelemetry's variables say (`OTEL_EXPORTER_OTLP_ENDPOINT`,
            `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_EXPORTER` and so on), which sends OTLP over HTTP.
        service_name: of the provider that is made, if `OTEL_SERVICE_NAME` says none.

    Raises:
        ObserveExtraMissingError: the extra ``observability`` is not installed.
    """
    global _tracer  # noqa: PLW0603 - as OpenTelemetry has it, tracing is the process's
    if _tracer is not None and provider is None:
        return
    require_traces()
    from cas_events.observe.otel import make_tracer  # noqa: PLC0415 - an optional extra

    _tracer = make_tracer(provider, service_name=service_name)


def disable_tracing() -> None:
    """Make no more spans, and send what is left of those of a provider that `enable_tracing` made; a few seconds."""
    global _tracer
    known, _tracer = _tracer, None
    if known is not None:
        known.close()
