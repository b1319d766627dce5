"""A runner's part in traces: the trace of each attempt that it claims, and the ends of tasks that nobody runs.

Everything of an attempt carries the attempt's own span: its events, and the commands of its children. So a trace goes
on in whatever reads the log or is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from cas_events.domain.decide import Claim, Last
from cas_events.observe import tracing
from cas_events.observe.tracing import NO_TRACE, AttemptTrace
from cas_events.runner.facts import TaskFacts
from cas_events.runner.telemetry import Telemetry


def traced(facts: TaskFacts, claim: Claim, last: Last | None) -> tuple[TaskFacts, AttemptTrace]:
    """An attempt's trace, and what is known of its task with the trace context that the attempt passes on."""
    tracer = tracing.tracer()
    if tracer is None:
        return facts, NO_TRACE
    trace = tracer.attempt(
        facts.agent_id,
        facts.task_id,
        claim.attempt,
        traceparent=facts.execute.traceparent,
        before=last.traceparent if last is not None else None,
    )
    if trace.traceparent is None:
        return facts, trace
    execute = structs.replace(facts.execute, traceparent=trace.traceparent)
    return structs.replace(facts, execute=execute), trace


def tell_end(facts: TaskFacts, type_: str, seq: int) -> None:
    """A task was ended that nobody runs."""
    tracer = tracing.tracer()
    if tracer is not None:
        tracer.ended(facts.agent_id, facts.task_id, facts.execute.traceparent, type_, seq)


class TracedTelemetry(Telemetry):
    """Telemetry whose steps are spans, too.

    Args:
        trace: of the attempt.
        options: as of `Telemetry`.
    """

    def __init__(self, trace: AttemptTrace, **options: Any) -> None:
        super().__init__(**options)
        self._trace = trace

    def step(self, type_: str, members: Mapping[str, Any]) -> None:
        """See `Telemetry`; what a budget drops is in the trace all the same."""
        self._trace.step(type_, members)
        super().step(type_, members)

    async def record(self, type_: str, members: Mapping[str, Any]) -> None:
        """See `Telemetry`."""
        self._trace.step(type_, members)
        await super().record(type_, members)
