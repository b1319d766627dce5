"""The share that an agent has of its workflow's progress bar.

Every agent counts from 0 to 1. Inside a workflow its numbers are mapped to its share, so that the workflow's bar never
runs backwards, also when a loop comes back to an agent: a round's share starts where the round before it ended.
"""

from __future__ import annotations

from collections.abc import Callable

from cas_events.runner.context import Awaitable, TaskContext

Progress = Callable[[float, str], Awaitable]


def share(ctx: TaskContext, start: float, end: float) -> Progress:
    """A way to tell progress from 0 to 1 that shows as ``start`` to ``end`` of the task."""

    def progress(fraction: float, message: str) -> Awaitable:
        return ctx.progress(start + (end - start) * fraction, message)

    return progress
