"""What can go wrong between a task and the tasks that it starts."""

from __future__ import annotations

from typing import Any

from cas_events.errors.agents import NonRetryableError
from cas_events.errors.root import CasEventsError


class ChildTaskError(NonRetryableError):
    """A child that was waited for did not complete.

    Trying the parent again would only find the same ended child, so it is not retried; catch it, or call anew with
    another ``key``.

    Attributes:
        agent_id: the child's agent.
        task_id: the child.
        status: ``failed``, ``cancelled`` or ``rejected``.
        result: its `TaskResult`.
    """

    def __init__(self, agent_id: str, result: Any) -> None:
        error = result.error or {}
        said = ": ".join(str(error[name]) for name in ("type", "message") if error.get(name))
        why = " - ".join(filter(None, (result.reason, said)))
        super().__init__(
            f"child task {result.task_id} of agent {agent_id!r} {result.status}: {why or 'no reason'}"
        )
        self.agent_id = agent_id
        self.task_id: str = result.task_id
        self.status: str = result.status
        self.result = result


class ChildConflictError(NonRetryableError):
    """The id or key of a child names a task that was started otherwise.

    Attributes:
        task_id: the id.
    """

    def __init__(self, task_id: str, problem: str) -> None:
        super().__init__(f"child task {task_id} was started before, {problem}; use another key or task id")
        self.task_id = task_id


class CallCycleError(NonRetryableError):
    """A task may not wait for a child of an agent that itself waits for this task.

    Every waiting task keeps its place among the agent's tasks: once they fill the agent's limit, no child could start.

    Attributes:
        agent_ids: from the called agent down to the caller.
    """

    def __init__(self, agent_ids: list[str]) -> None:
        chain = " -> ".join([*agent_ids, agent_ids[0]])
        super().__init__(
            f"waiting here would deadlock once agent {agent_ids[0]!r} is at its limit: {chain}; spawn the child and "
            f"return without waiting for it, or serve the inner work under another agent's name"
        )
        self.agent_ids = agent_ids


class AttemptOverError(CasEventsError):
    """This attempt of a task has ended, or is no longer this process's: nothing can be started from it.

    Attributes:
        task_id: the task.
    """

    def __init__(self, task_id: str) -> None:
        super().__init__(f"this attempt of task {task_id} is over; nothing is started from it any more")
        self.task_id = task_id


class NotInTaskError(NonRetryableError):
    """Other agents, and the agent's state, are within reach of a running task only, and not of an isolated agent's process."""

    def __init__(self, why: str = "no task runs here") -> None:
        super().__init__(
            f"{why}: `call`, `spawn` and `state` work in agent code inside a runner; elsewhere use `Client`"
        )
