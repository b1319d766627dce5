"""A durable runtime for AI-agent tasks on NATS JetStream.

`Runner` serves agents, `Client` starts, follows and cancels their tasks; `current_task()` is what agent code holds.
What goes over the wire is PROTOCOL's and can be spoken by any NATS client without this package.

Names are imported when they are first used, so that a part of the package costs only what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cas_events.agent_states import AgentState
    from cas_events.answers import Interrupt, ResumeAnswer
    from cas_events.client import Client
    from cas_events.domain.events import Event
    from cas_events.domain.limits import TelemetryLimits
    from cas_events.domain.redaction import Redaction
    from cas_events.domain.retry import RetryPolicy
    from cas_events.errors import (
        AgentUnavailableError,
        CasEventsError,
        CheckpointFencedError,
        ChildTaskError,
        DuplicateTaskError,
        InvalidCommandError,
        NonRetryableError,
        NotJsonError,
        QueueFullError,
        StateConflictError,
        UnknownAgentError,
        UnknownTaskError,
    )
    from cas_events.jetstream.checkpoints.saver import JetStreamSaver
    from cas_events.jetstream.memory.store import JetStreamStore
    from cas_events.results import TaskResult
    from cas_events.runner.context import TaskContext, current_task
    from cas_events.runner.worker import Runner
    from cas_events.session import CancelAnswer, Task
    from cas_events.settings import Settings

_HOMES = {
    "AgentState": "agent_states",
    "AgentUnavailableError": "errors",
    "CancelAnswer": "session",
    "CasEventsError": "errors",
    "ChildTaskError": "errors",
    "CheckpointFencedError": "errors",
    "Client": "client",
    "DuplicateTaskError": "errors",
    "Event": "domain.events",
    "Interrupt": "answers",
    "InvalidCommandError": "errors",
    "JetStreamSaver": "jetstream.checkpoints.saver",
    "JetStreamStore": "jetstream.memory.store",
    "NonRetryableError": "errors",
    "NotJsonError": "errors",
    "ResumeAnswer": "answers",
    "QueueFullError": "errors",
    "Redaction": "domain.redaction",
    "RetryPolicy": "domain.retry",
    "Runner": "runner.worker",
    "Settings": "settings",
    "StateConflictError": "errors",
    "Task": "session",
    "TaskContext": "runner.context",
    "TaskResult": "results",
    "TelemetryLimits": "domain.limits",
    "UnknownAgentError": "errors",
    "UnknownTaskError": "errors",
    "current_task": "runner.context",
}

__all__ = [
    "AgentState",
    "AgentUnavailableError",
    "CancelAnswer",
    "CasEventsError",
    "CheckpointFencedError",
    "ChildTaskError",
    "Client",
    "DuplicateTaskError",
    "Event",
    "Interrupt",
    "InvalidCommandError",
    "JetStreamSaver",
    "JetStreamStore",
    "NonRetryableError",
    "NotJsonError",
    "QueueFullError",
    "Redaction",
    "ResumeAnswer",
    "RetryPolicy",
    "Runner",
    "Settings",
    "StateConflictError",
    "Task",
    "TaskContext",
    "TaskResult",
    "TelemetryLimits",
    "UnknownAgentError",
    "UnknownTaskError",
    "current_task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cas_events' has no attribute {name!r}")
    value = getattr(import_module(f"cas_events.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
