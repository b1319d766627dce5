"""The asyncio tasks that agent code starts: whose they are, how their exits are kept from the runner, how they are ended.

asyncio lets SystemExit and KeyboardInterrupt of any task through to whoever runs the loop, which would end every other
task of the process. Tasks that are started within an agent's scope (a graph's nodes, an agent's own) are wrapped, so
that such an exit is an error of that task, to be dealt with like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from cas_events.runner.context import TaskContext, running_task

# Of the grace. A cancel may be lost (`asyncio.wait_for` before Python 3.12 returns a result in its place), and what cleans
# up after the first one takes its time.
ASK_AGAIN_AFTER = 0.8

Work = Coroutine[Any, Any, Any] | Generator[Any, None, Any]


class AgentExitError(Exception):
    """Agent code asked the process to end."""


def task_factory(loop: asyncio.AbstractEventLoop, work: Work, **options: Any) -> asyncio.Task[Any]:
    """Make a task; one that agent code starts is contained. For ``loop.set_task_factory``."""
    scope = running_task()
    return asyncio.Task(work if scope is None else _contained(work, scope), loop=loop, **options)


def cancel_again(main: asyncio.Task[Any], scope: TaskContext | None) -> None:
    """Cancel once more what has been cancelled and has not ended, as deep as it is known.

    A task that waits for others, such as a graph's for its nodes', would end without them.

    Args:
        main: the task in which the agent's code began.
        scope: what that code runs with.
    """
    tasks = asyncio.all_tasks() if scope is not None else ()
    asked = [task for task in tasks if _scope_of(task) is scope and task.cancelling()]
    for task in asked or [main]:
        task.cancel()


def _scope_of(task: asyncio.Task[Any]) -> TaskContext | None:
    """Which context a task was started with, if agent code did it and it still runs."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    if frame is None or frame.f_code is not _contained.__code__:
        return None
    scope: TaskContext = frame.f_locals["scope"]
    return scope


async def _contained(work: Work, scope: TaskContext) -> Any:  # noqa: ARG001 - read by `_scope_of`

    try:
        return await work  # type: ignore[misc] # a generator-based coroutine is awaitable, too
    except (SystemExit, KeyboardInterrupt) as ended:
        raise AgentExitError(f"{type(ended).__name__}: {ended}") from ended
