"""Plain functions as agents: which functions are, and what is awaited for one.

An agent function takes the task's context and its input. A sync one runs in a thread, where nothing can stop it: like
the sync nodes of a graph it has to look at `is_cancelled()` itself, and an end that it ignores leaves it behind.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from cas_events.runner.registry import AgentFunction

_POSITIONAL = {
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
}


def is_agent_function(value: Any) -> bool:
    """Whether something is a function of a context and an input, sync or async; factories of graphs take less."""
    if isinstance(value, type) or not callable(value) or hasattr(value, "astream"):
        return False
    try:
        signature = inspect.signature(value)
        signature.bind(object(), object())
    except (TypeError, ValueError):
        return False
    first = [parameter for parameter in signature.parameters.values() if parameter.kind in _POSITIONAL][:2]
    return all(parameter.default is parameter.empty for parameter in first) and not any(map(_is_run, first))


def _is_run(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is one that only factories of graphs have, by its annotation or its name."""
    annotation = str(parameter.annotation)
    return (
        "RunnableConfig" in annotation
        or "ServerRuntime" in annotation
        or (parameter.name in {"config", "runtime"} and parameter.annotation is parameter.empty)
    )


def awaitable(function: Any) -> AgentFunction:
    """What to await for an agent function: itself, or a sync one in a thread."""
    if _is_async(function):
        return function  # type: ignore[no-any-return] # that is what it is

    async def in_thread(context: Any, input_: Any) -> Any:
        result = await asyncio.to_thread(function, context, input_)
        # Such as a lambda or a partial object around an async function.
        return await result if inspect.isawaitable(result) else result

    return in_thread


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - asks whether calling it is async, not whether it can be
    )
