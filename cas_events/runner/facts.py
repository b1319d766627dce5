"""What is known of a task from its execute command."""

from __future__ import annotations

import msgspec

from cas_events.domain.commands import Execute
from cas_events.wire.envelope import EventEncoder


class TaskFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A task, as its execute command describes it.

    Attributes:
        task_id: the task.
        agent_id: its agent.
        execute: the command.
        command_seq: sequence of the command that governs the attempt.
    """

    task_id: str
    agent_id: str
    execute: Execute
    command_seq: int

    @property
    def key(self) -> tuple[str, str]:
        """What tells the task from another agent's use of its id."""
        return self.agent_id, self.task_id

    def encoder(self, source: str, attempt: int) -> EventEncoder:
        """Writes the events of one of the task's attempts."""
        return EventEncoder(
            source=source,
            task_id=self.task_id,
            agent_id=self.agent_id,
            attempt=attempt,
            correlation_id=self.execute.correlation_id or self.execute.parent_id or self.task_id,
            parent_id=self.execute.parent_id,
            causation_id=f"CAS_COMMANDS:{self.command_seq}",
            traceparent=self.execute.traceparent,
        )
