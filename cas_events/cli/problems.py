"""Errors that only the command line has."""

from __future__ import annotations

from cas_events.errors import CasEventsError


class RunnerNotLoadedError(CasEventsError):
    """What `cas worker` was asked to serve cannot be imported, or is no runner."""

    def __init__(self, target: str, problem: str) -> None:
        super().__init__(f"cannot serve {target!r}: {problem}")
        self.target = target
        self.problem = problem


class TaskNotCompletedError(CasEventsError):
    """A task that a command waited for ended otherwise than completed.

    Attributes:
        task_id: the task.
        status: ``failed``, ``cancelled`` or ``rejected``.
    """

    def __init__(self, task_id: str, status: str, detail: str = "") -> None:
        super().__init__(f"task {task_id} {status}" + (f": {detail}" if detail else ""))
        self.task_id = task_id
        self.status = status


class NotResumedError(CasEventsError):
    """An answer was not stored."""

    def __init__(self, task_id: str, problem: str) -> None:
        super().__init__(f"task {task_id} is not resumed: {problem}")
        self.task_id = task_id
