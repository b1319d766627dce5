"""How many traces are begun where OpenTelemetry's variables do not say: all of them, up to so many a second.

To make and send the spans of a task takes about 0.1 ms of CPU: nothing for an agent that thinks, and a third of a task
that does nothing. So a process that submits little traces everything, and one that submits thousands a second a
bounded part. Who continues a trace does as it was decided where the trace began.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

TRACES_PER_S = 50.0


class BoundedRate(Sampler):
    """Samples everything up to a rate; after a pause, at most a second's worth at once.

    Args:
        per_s: traces a second.
        clock: seconds, monotonic.
    """

    def __init__(self, per_s: float = TRACES_PER_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._left = per_s
        self._filled_s = clock()

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """OpenTelemetry's question about a new span."""
        del parent_context, trace_id, name, kind, links
        if self._takes():
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, trace_state)
        return SamplingResult(Decision.DROP)

    def get_description(self) -> str:
        """OpenTelemetry's name for it."""
        return f"BoundedRate{{{self._per_s:g}}}"

    def _takes(self) -> bool:
        with self._lock:
            now_s = self._clock()
            self._left = min(self._per_s, self._left + (now_s - self._filled_s) * self._per_s)
            self._filled_s = now_s
            if self._left < 1:
                return False
            self._left -= 1
            return True


def default_sampler() -> Sampler:
    """The sampler where nobody has named one."""
    return ParentBased(BoundedRate())
