"""Commands: what may be asked for, as validated values.

A command may be refused; an event never changes. The bytes of a command are read and written in
``cas_events.wire.commands``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import structs

from cas_events.domain.trace_context import valid_traceparent

Token = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]

ATTEMPTS_MAX = 1_000_000
TIMEOUT_MAX_S = 10 * 365 * 86_400.0


Seconds = Annotated[float, msgspec.Meta(gt=0, le=TIMEOUT_MAX_S)]


class Retry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one task's errors are backed off: ``domain.retry.RetryPolicy`` on the wire; absent members are the agent's."""

    base_s: Annotated[float, msgspec.Meta(ge=0, le=TIMEOUT_MAX_S)] | None = None
    cap_s: Annotated[float, msgspec.Meta(ge=0, le=TIMEOUT_MAX_S)] | None = None
    factor: Annotated[float, msgspec.Meta(ge=1, le=1000)] | None = None


class Execute(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Run an agent (PROTOCOL section 2); every field is optional.

    Attributes:
        input: what the agent gets; a claim check stands for a large one.
        metadata: the caller's own; shown in the tables, not given a meaning here.
        timeout_s: bound on one attempt's run, in seconds; the agent's own without it.
        idle_timeout_s: bound on an attempt's silence, in seconds; the agent's own without it.
        queue_timeout_s: bound on the wait for the first start, in seconds; the agent's own without it.
        max_attempts: bound on tries; the agent's own without it.
        retry: how errors are backed off; the agent's own without it.
        parent_id: id of the task that asked for this one.
        correlation_id: id of the root task; the parent's or the task's own without it.
        not_before: RFC 3339 time before which the task does not start.
        traceparent: W3C trace context of the caller, as a string; whatever else stood there counts as absent.
        priority: class among the tasks that compete with it: ``high``, ``normal`` (also without it) or ``low``.
        key: under which it competes for the agent's ``concurrency_per_key``: a customer, for example.
    """

    input: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    timeout_s: Seconds | None = None
    idle_timeout_s: Seconds | None = None
    queue_timeout_s: Seconds | None = None
    retry: Retry | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=ATTEMPTS_MAX)] | None = None
    parent_id: Token | None = None
    correlation_id: Token | None = None
    not_before: str | None = None
    # Of any type, since a bad one costs a trace and never the task (`trace_context`).
    traceparent: Any = None
    priority: Literal["high", "normal", "low"] | None = None
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None

    def __post_init__(self) -> None:
        if self.traceparent is not None:
            structs.force_setattr(self, "traceparent", valid_traceparent(self.traceparent))


class Cancel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """End a task, whatever it is doing. A cancel is a cancel whatever its body."""

    reason: str = ""
    requested_by: str = ""
