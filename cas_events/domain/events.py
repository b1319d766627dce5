"""Events: their types, their statuses and the value that readers get.

An event says what happened and never changes. Its type string is chosen by hand (PROTOCOL section 3) and never
derived from a class name, so that code can be renamed without touching history.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

STARTED = "cas.task.started"
RETRYING = "cas.task.retrying"
INTERRUPTED = "cas.task.interrupted"
RESUMED = "cas.task.resumed"
COMPLETED = "cas.task.completed"
FAILED = "cas.task.failed"
CANCELLED = "cas.task.cancelled"
REJECTED = "cas.task.rejected"

STEP_STARTED = "cas.step.started"
STEP_COMPLETED = "cas.step.completed"
STEP_FAILED = "cas.step.failed"
PROGRESS = "cas.progress"
LOG = "cas.log"
OUTPUT = "cas.output"

# Never stored: a follower makes it where the log does not hold (any more) what it asks for; see `Event`.
GAP = "cas.gap"

AGENT_REGISTERED = "cas.agent.registered"
AGENT_COMMAND_IGNORED = "cas.agent.command_ignored"
AUDIT_HEAD = "cas.audit.head"

STATE_UPDATED = "cas.state.updated"
STATE_RESET = "cas.state.reset"

# The status of a task whose newest lifecycle event has this type; a task without any is `queued`.
STATUS_OF_TYPE = {
    STARTED: "running",
    RESUMED: "running",
    RETRYING: "retrying",
    INTERRUPTED: "interrupted",
    COMPLETED: "completed",
    FAILED: "failed",
    CANCELLED: "cancelled",
    REJECTED: "rejected",
}
LIFECYCLE_TYPES = frozenset(STATUS_OF_TYPE)
TERMINAL_TYPES = frozenset({COMPLETED, FAILED, CANCELLED, REJECTED})
TERMINAL_STATUSES = frozenset(STATUS_OF_TYPE[type_] for type_ in TERMINAL_TYPES)

QUEUED = "queued"
STATUSES = ("queued", "running", "retrying", "interrupted", "completed", "failed", "cancelled", "rejected")

DUPLICATE_TASK = "duplicate_task"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event as its readers see it.

    A reader is told of what is missing by an item of type ``cas.gap``, which nobody stored. In a task: the indexes
    ``from_index`` to ``to_index`` of ``attempt`` (outputs that retention took, telemetry that the server refused), with
    ``seq`` 0. In the log: the sequences ``from_seq`` to ``to_seq`` of ``stream``, taken by retention; whether any of them
    were asked for, nobody can tell any more.

    Attributes:
        type: such as ``cas.task.started``; unknown types are possible and kept.
        task_id: the task, empty for events of an agent, a state or an audit.
        agent_id: the agent, empty for audit events.
        attempt: epoch of the task, from 1; 0 for a `duplicate_task` rejection and where there is no task.
        index: number of the event in its attempt, from 0, whatever its subject.
        time: when it was made, aware, in UTC.
        data: the type's own fields (PROTOCOL section 3).
        seq: sequence in its stream.
        stream: the stream, such as ``CAS_EVENTS``.
        id: ``<task>.<attempt>.<index>``, or a UUIDv7 where there is no task.
        source: who made it, such as ``cas/runner/<runner>``.
        correlation_id: id of the root task.
        parent_id: id of the parent task, if any.
        causation_id: what caused it, such as ``CAS_COMMANDS:17``.
        dataversion: version of the shape of ``data``.
        traceparent: W3C trace context of the attempt, or of the command that asked for the task.
    """

    type: str
    task_id: str = ""
    agent_id: str = ""
    attempt: int = 0
    index: int = 0
    time: datetime
    data: dict[str, Any]
    seq: int
    stream: str
    id: str = ""
    source: str = ""
    correlation_id: str | None = None
    parent_id: str | None = None
    causation_id: str | None = None
    dataversion: int = 1
    traceparent: str | None = None

    @property
    def is_lifecycle(self) -> bool:
        """Whether it is one of the strict sequence that makes a task's status."""
        return self.type in LIFECYCLE_TYPES

    @property
    def is_terminal(self) -> bool:
        """Whether nothing follows it in its task."""
        return self.type in TERMINAL_TYPES and not self.is_duplicate_rejection

    @property
    def is_duplicate_rejection(self) -> bool:
        """Whether it rejects a second use of a task id, which says nothing about the task itself."""
        return self.type == REJECTED and self.data.get("reason") == DUPLICATE_TASK

    @property
    def status(self) -> str | None:
        """The task's status after this event; None for anything but a lifecycle event."""
        return STATUS_OF_TYPE.get(self.type)
