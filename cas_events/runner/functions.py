"""Plain functions as agents: which functions are, and what is awaited for one.

An agent function takes the task's context and its input. A sync one runs in a thread, where nothing can stop it: like
the sync nodes of a graph it has to look at `is_cancelled()` itself, and an end that it ignores leaves it behind.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, get_type_hints

import msgspec

from cas_events.errors import InvalidInputError
from cas_events.runner.context import current_task
from cas_events.runner.registry import AgentFunction

_log = logging.getLogger(__name__)

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


def is_typed_dict(type_: Any) -> bool:
    """Whether it is a `TypedDict`, of `typing` or of `typing_extensions`, which do not know each other's."""
    return isinstance(type_, type) and hasattr(type_, "__required_keys__")


def annotated_schema(function: Any) -> dict[str, Any] | None:
    """JSON Schema of the input that an agent function is annotated to take; None if it takes any object.

    A `TypedDict`, a dataclass, a msgspec Struct or a pydantic model has one.
    """
    type_ = _input_type(function)
    if type_ is None:
        return None
    if hasattr(type_, "model_json_schema"):
        schema: dict[str, Any] = type_.model_json_schema()
        return schema
    return msgspec.json.schema(type_)


def _input_type(function: Any) -> Any:
    """The annotation of the second parameter, if it is one of the types that have a schema."""
    try:
        names = list(inspect.signature(function).parameters)
        type_ = get_type_hints(function).get(names[1])
    except Exception as problem:  # Annotations are the user's own code, and need not be of use at run time.
        _log.debug("annotations of %r cannot be read: %s", function, problem)
        return None
    if is_typed_dict(type_) or hasattr(type_, "model_json_schema"):
        return type_
    is_record = isinstance(type_, type) and (is_dataclass(type_) or issubclass(type_, msgspec.Struct))
    return type_ if is_record else None


def _converter(type_: Any) -> Callable[[Any], Any]:
    """From the input as JSON has it to what a function is annotated to take."""
    validate = getattr(type_, "model_validate", None)

    def convert(value: Any) -> Any:
        if type_ is None or is_typed_dict(type_):
            return value
        try:
            return msgspec.convert(value, type_) if validate is None else validate(value)
        except ValueError as problem:  # Both libraries' errors are.
            raise InvalidInputError(current_task().agent_id, f"input: {problem}") from problem

    return convert


def awaitable(function: Any) -> AgentFunction:
    """What to await for an agent function: it takes its input as annotated, and a sync one runs in a thread."""
    type_ = _input_type(function)
    if type_ is None and _is_async(function):
        return function  # type: ignore[no-any-return] # that is what it is
    convert = _converter(type_)
    if _is_async(function):

        async def converted(context: Any, input_: Any) -> Any:
            return await function(context, convert(input_))

        return converted

    async def in_thread(context: Any, input_: Any) -> Any:
        result = await asyncio.to_thread(function, context, convert(input_))
        # Such as a lambda or a partial object around an async function.
        return await result if inspect.isawaitable(result) else result

    return in_thread


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - asks whether calling it is async, not whether it can be
    )
