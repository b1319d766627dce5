"""The process that turns commands into events by running agents."""

from cas_events.runner.context import TaskContext, current_task
from cas_events.runner.worker import Runner

__all__ = ["Runner", "TaskContext", "current_task"]
