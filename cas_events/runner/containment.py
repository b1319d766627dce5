"""An agent's exit is the agent's: SystemExit in a task that agent code starts does not end the runner.

asyncio lets SystemExit and KeyboardInterrupt of any task through to whoever runs the loop, which would end every other
task of the process. Tasks that are started within an agent's scope (a graph's nodes, an agent's own) are wrapped, so
that such an exit is an error of that task, to be dealt with like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from cas_events.runner.context import is_agent_code

Work = Coroutine[Any, Any, Any] | Generator[Any, None, Any]


class AgentExitError(Exception):
    """Agent code asked the process to end."""


def task_factory(loop: asyncio.AbstractEventLoop, work: Work, **options: Any) -> asyncio.Task[Any]:
    """Make a task; one that agent code starts is contained. For ``loop.set_task_factory``."""
    contained = _contained(work) if is_agent_code() else work
    return asyncio.Task(contained, loop=loop, **options)


async def _contained(work: Work) -> Any:
    try:
        return await work  # type: ignore[misc] # a generator-based coroutine is awaitable, too
    except (SystemExit, KeyboardInterrupt) as ended:
        raise AgentExitError(f"{type(ended).__name__}: {ended}") from ended
