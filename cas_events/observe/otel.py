"""Spans by OpenTelemetry's SDK: with `sampling`, the one door to it.

Attributes are `cas.` names; a span's name holds an agent's or a node's name and never an id. Nothing here waits, and a
collector that does not answer costs spans, not tasks: the SDK's queue is bounded and is emptied by a thread of its own.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from cas_events.domain import events
from cas_events.domain.trace_context import is_sampled, valid_traceparent
from cas_events.observe.sampling import default_sampler
from cas_events.observe.tracing import NO_TRACE, AttemptTrace
from cas_events.settings import names_sampler, trace_exporters

SCOPE = "cas_events"
CLOSE_S = 3.0  # for the last spans, however long the exporter would try
_UNNAMED = "unknown_service"
_NS = 1_000_000_000


def make_tracer(provider: Any, *, service_name: str) -> OtelTracer:
    """The tracer of this process; see `tracing.enable_tracing`."""
    if provider is not None:
        return OtelTracer(provider)
    known = trace.get_tracer_provider()
    if isinstance(known, TracerProvider):
        return OtelTracer(known)
    made = TracerProvider(
        sampler=None if names_sampler() else default_sampler(),  # None: as the environment says.
        resource=_resource(service_name),
        shutdown_on_exit=False,
    )
    for name in trace_exporters():
        made.add_span_processor(BatchSpanProcessor(_EXPORTERS[name]()))
    trace.set_tracer_provider(made)
    return OtelTracer(made, is_ours=True)


_EXPORTERS: dict[str, type[SpanExporter]] = {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter}


def _resource(service_name: str) -> Resource:
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED):
        return resource.merge(Resource({SERVICE_NAME: service_name}))
    return resource


class OtelTracer:
    """Makes the spans of this process.

    Args:
        provider: where they go.
        is_ours: it is shut down with us.
    """

    def __init__(self, provider: Any, *, is_ours: bool = False) -> None:
        self._tracer = provider.get_tracer(SCOPE)
        self._provider = provider if is_ours else None
        if is_ours:
            atexit.register(self.close)

    def close(self) -> None:
        """Send what is left, within `CLOSE_S`; the SDK itself would try for longer. Idempotent."""
        provider, self._provider = self._provider, None
        if provider is not None:
            closing = threading.Thread(target=provider.shutdown, name="cas-traces-close", daemon=True)
            closing.start()
            closing.join(CLOSE_S)

    def submitting(self, agent_id: str, task_id: str, traceparent: str | None) -> Submission:
        """A command is about to be stored.

        Args:
            agent_id: the agent.
            task_id: the task.
            traceparent: what the caller gave; the current span without it.
        """
        span = self._tracer.start_span(
            f"submit {agent_id}",
            context=_parent(traceparent),
            kind=SpanKind.PRODUCER,
            attributes={"cas.agent": agent_id, "cas.task_id": task_id},
        )
        return Submission(span)

    def attempt(
        self, agent_id: str, task_id: str, attempt: int, *, traceparent: str | None, before: str | None
    ) -> AttemptTrace:
        """The trace of an attempt that is being claimed; of one whose submitter wants none, none.

        Args:
            agent_id: the agent.
            task_id: the task.
            attempt: its number.
            traceparent: of the command.
            before: of the event that it follows on.
        """
        if traceparent is not None and not is_sampled(traceparent):
            return NO_TRACE
        previous = None if before == traceparent else _span_context(before)
        attributes = {"cas.agent": agent_id, "cas.task_id": task_id, "cas.attempt": attempt}
        span = self._tracer.start_span(
            f"attempt {agent_id}",
            context=_parent(traceparent),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[Link(previous)] if previous is not None else None,
        )
        return _OtelAttempt(self._tracer, span, agent_id, traceparent)

    def ended(self, agent_id: str, task_id: str, traceparent: str | None, type_: str, seq: int) -> None:
        """A task was ended that nobody runs: refused, cancelled before its start, given up."""
        if traceparent is not None and not is_sampled(traceparent):
            return
        attributes = {"cas.agent": agent_id, "cas.task_id": task_id}
        span = self._tracer.start_span(f"end {agent_id}", context=_parent(traceparent), attributes=attributes)
        _tell(span, type_, seq, {})
        span.end()


class Submission:
    """A command on its way to the log.

    Attributes:
        traceparent: what it carries.
    """

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.traceparent = _traceparent(span)

    def end(self, error: BaseException | None = None) -> None:
        """It is stored, or it is not."""
        if error is not None:
            self._span.record_exception(error)
            self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        self._span.end()


class _OtelAttempt(AttemptTrace):
    """One attempt as a span; its steps are spans below it."""

    def __init__(self, tracer: Any, span: Span, agent_id: str, command: str | None) -> None:
        self._tracer = tracer
        self._span = span
        self._agent_id = agent_id
        self._command = command
        self._steps: dict[str, Span] = {}
        self._is_stored = False
        self._queued_ns: tuple[int, int] | None = None
        self.traceparent = _traceparent(span)

    def waited(self, since_s: float) -> None:
        """See `AttemptTrace`."""
        # Made when the attempt ends, so that nobody waits for it. The two times are another machine's clock and
        # ours; no span ends before it starts.
        now_ns = time.time_ns()
        self._queued_ns = min(int(since_s * _NS), now_ns), now_ns

    def appended(self, type_: str, seq: int, members: Mapping[str, Any]) -> None:
        """See `AttemptTrace`."""
        self._is_stored = True
        if type_ != events.STARTED:  # Which is the span's own start.
            _tell(self._span, type_, seq, members)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """See `AttemptTrace`."""
        token = otel_context.attach(trace.set_span_in_context(self._span))
        try:
            yield
        finally:
            otel_context.detach(token)

    @property
    def wants_steps(self) -> bool:
        """See `AttemptTrace`."""
        return self._span.is_recording()

    def step(self, type_: str, members: Mapping[str, Any]) -> None:
        """See `AttemptTrace`."""
        step_id = str(members.get("step_id"))
        if type_ == events.STEP_STARTED:
            self._steps[step_id] = self._started(members)
            return
        span = self._steps.pop(step_id, None)
        if span is not None:
            if type_ == events.STEP_FAILED:
                _fail(span, members.get("error"))
            span.end()

    def _started(self, members: Mapping[str, Any]) -> Span:
        path = members.get("path") or ()
        # `name:<id of its step>`, the innermost last.
        around = self._steps.get(str(path[-1]).rpartition(":")[2]) if path else None
        span: Span = self._tracer.start_span(
            f"node {members.get('node')}",
            context=trace.set_span_in_context(around or self._span),
            attributes={"cas.agent": self._agent_id, "cas.node_attempt": members.get("node_attempt", 1)},
        )
        return span

    def end(self) -> None:
        """See `AttemptTrace`."""
        for step_id in list(self._steps):
            span = self._steps.pop(step_id, None)
            if span is not None:
                span.end()
        if self._is_stored:  # A claim that another runner won has left nothing that would name this span.
            self._span.end()
        if self._queued_ns is not None:
            started_ns, ended_ns = self._queued_ns
            self._queued_ns = None
            context = _parent(self._command) if self._command else trace.set_span_in_context(self._span)
            queue = self._tracer.start_span(f"queue {self._agent_id}", context, start_time=started_ns)
            queue.end(ended_ns)


def _traceparent(span: Span) -> str:
    known = span.get_span_context()
    return f"00-{known.trace_id:032x}-{known.span_id:016x}-{known.trace_flags:02x}"


def _span_context(traceparent: str | None) -> SpanContext | None:
    text = valid_traceparent(traceparent)
    if text is None:
        return None
    _, trace_id, span_id, flags = text.split("-")
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )


def _parent(traceparent: str | None) -> Any:
    """The context of a span's parent; None for the current one."""
    known = _span_context(traceparent)
    if known is None:
        return None
    return trace.set_span_in_context(trace.NonRecordingSpan(known))


def _tell(span: Span, type_: str, seq: int, members: Mapping[str, Any]) -> None:
    """A lifecycle event, as an event of a span and, if it is the last one, as its outcome."""
    span.add_event(type_, {"cas.seq": seq})
    if type_ in events.LIFECYCLE_TYPES:
        span.set_attribute("cas.outcome", events.STATUS_OF_TYPE[type_])
    if type_ in {events.FAILED, events.REJECTED, events.RETRYING}:
        _fail(span, members.get("error"))


def _fail(span: Span, error: Any) -> None:
    problem = error if isinstance(error, dict) else {}
    if problem.get("type") != "handover":
        span.set_status(Status(StatusCode.ERROR, str(problem.get("type", ""))))
