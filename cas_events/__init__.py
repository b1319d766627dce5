"""A durable runtime for AI-agent tasks on NATS JetStream.

`Runner` serves agents, `Client` starts, follows and cancels their tasks; `current_task()` is what agent code holds.
What goes over the wire is PROTOCOL's and can be spoken by any NATS client without this package.
"""

from cas_events.client import CancelAnswer, Client, Task
from cas_events.domain.events import Event
from cas_events.domain.retry import RetryPolicy
from cas_events.errors import (
    AgentUnavailableError,
    CasEventsError,
    DuplicateTaskError,
    InvalidCommandError,
    NonRetryableError,
    NotJsonError,
    UnknownTaskError,
)
from cas_events.results import TaskResult
from cas_events.runner import Runner, TaskContext, current_task
from cas_events.settings import Settings

__all__ = [
    "AgentUnavailableError",
    "CancelAnswer",
    "CasEventsError",
    "Client",
    "DuplicateTaskError",
    "Event",
    "InvalidCommandError",
    "NonRetryableError",
    "NotJsonError",
    "RetryPolicy",
    "Runner",
    "Settings",
    "Task",
    "TaskContext",
    "TaskResult",
    "UnknownTaskError",
    "current_task",
]
