"""The `echo` agent, for first steps and for trying out the runtime: logs, ticks, fails or waits on request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from cas_events.errors import InvalidCommandError
from cas_events.runner.context import TaskContext


class EchoInput(msgspec.Struct, frozen=True, kw_only=True):
    """What `echo` looks at in its input; everything else is only echoed.

    Attributes:
        steps: progress steps.
        delay_s: pause before each step, in seconds.
        fail: raise an error after the last step.
    """

    steps: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 3
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    fail: bool = False


class EchoFailedError(RuntimeError):
    """The failure that the input asked for."""


async def echo(ctx: TaskContext, input: Any) -> Any:
    """Return the input after ``steps`` progress steps.

    Raises:
        EchoFailedError: the input says ``"fail": true``.
        InvalidCommandError: a known field has a wrong type.
    """
    wish = _read(input)
    ctx.log.info("echoing", steps=wish.steps, delay_s=wish.delay_s)
    for step in range(1, wish.steps + 1):
        await asyncio.sleep(wish.delay_s)
        await ctx.progress(step / wish.steps, f"step {step} of {wish.steps}")
    if wish.fail:
        raise EchoFailedError('failed because the input says "fail": true')
    return input


def _read(value: Any) -> EchoInput:
    """The known fields of an object; the defaults for any other JSON value."""
    if not isinstance(value, Mapping):
        return EchoInput()
    try:
        return msgspec.convert(value, EchoInput)
    except msgspec.ValidationError as error:
        raise InvalidCommandError(f"input does not fit: {error}", field="input") from error
