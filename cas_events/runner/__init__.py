"""The process that turns commands into events by running agents.

`Runner` is imported when first used, so that agent code, which only needs the context, does not load NATS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cas_events.runner.context import TaskContext, current_task

if TYPE_CHECKING:
    from cas_events.runner.worker import Runner

__all__ = ["Runner", "TaskContext", "current_task"]


def __getattr__(name: str) -> Any:
    if name != "Runner":
        raise AttributeError(f"module 'cas_events.runner' has no attribute {name!r}")
    from cas_events.runner.worker import Runner  # noqa: PLC0415 - see the module's docstring

    return Runner
