"""`cas resume`: answer what a task waits on."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cas_events.cli.options import Json, TaskArgument
from cas_events.cli.output import print_json_line, say
from cas_events.cli.problems import NotResumedError
from cas_events.cli.session import ask
from cas_events.domain.events import INTERRUPTED
from cas_events.errors import UnknownTaskError, WireError

if TYPE_CHECKING:
    from cas_events.session import Task

_WORDS = {
    "already_answered": "{interrupt} has its answer already; the first one counts",
    "not_waiting": "it does not wait for {interrupt}; `cas resume {task}` lists what it waits for",
    "already_finished": "it has ended",
}


def resume(
    task: TaskArgument,
    interrupt: Annotated[
        str | None,
        typer.Argument(
            metavar="INTERRUPT", help="Which question; may be left out while the task asks only one."
        ),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Argument(
            metavar="JSON", help="The answer, any JSON value; `-` reads standard input.", show_default=False
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="Wait so long for the task to ask.")
    ] = 0.0,
    json: Json = False,
) -> None:
    """Answer a question of a task that waits for one; without an answer, list what it asks.

    The answer is durable when this returns, whether a runner is up or not. Exits 1 when the task does not ask that, or
    has its answer already.

    Examples: `cas resume TASK`, `cas resume TASK INTERRUPT '{"approve": true}'`, `cas resume TASK true --wait 20`
    """
    if interrupt is None:
        ask(_list(task, wait, json=json))
    elif answer is None:
        ask(_answer(task, None, _value(interrupt), wait, json=json))
    else:
        ask(_answer(task, interrupt, _value(answer), wait, json=json))


def _value(text: str) -> Any:
    from cas_events.wire.jsonvalue import decode_json  # noqa: PLC0415 - see the package's docstring

    raw = sys.stdin.buffer.read() if text == "-" else text.encode("utf-8", "surrogateescape")
    try:
        return decode_json(raw)
    except WireError as problem:
        raise typer.BadParameter(
            f"{text!r} is no JSON value, such as true, 7 or '\"text\"': {problem}", param_hint="JSON"
        ) from problem


async def _open(task: Task, wait_s: float) -> list[Any]:
    """What a task waits on, once it does, or when the time is over."""
    found = await task.interrupts()
    with suppress(TimeoutError):
        async with asyncio.timeout(0.0 if found else wait_s), aclosing(task.events()) as told:
            async for event in told:
                if event.type == INTERRUPTED and (found := await task.interrupts()):
                    break
    return found


async def _list(task_id: str, wait_s: float, *, json: bool) -> None:
    from cas_events.cli.output import json_bytes  # noqa: PLC0415 - see the package's docstring
    from cas_events.cli.texts import json_text  # noqa: PLC0415
    from cas_events.client import Client  # noqa: PLC0415

    async with Client() as cas:
        found = await _open(await cas.task(task_id), wait_s)
    if json:
        say(json_bytes(found).decode())
        return
    for interrupt in found:
        say(f"{interrupt.id}  {json_text(interrupt.value)}")
    if not found:
        say(f"task {task_id} waits for no answer")


async def _answer(task_id: str, interrupt: str | None, value: Any, wait_s: float, *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        task = await cas.task(task_id)
        found = await _open(task, wait_s) if interrupt is None or wait_s else []
        if interrupt is None and len(found) > 1:
            names = ", ".join(one.id for one in found)
            raise NotResumedError(task_id, f"it asks {len(found)} questions, say which: {names}")
        chosen = interrupt or (found[0].id if found else "")
        outcome = await cas.resume_task(task_id, chosen, value) if chosen else "not_waiting"
    if outcome == "unknown_task":
        raise UnknownTaskError(task_id)
    if outcome != "accepted":
        words = _WORDS[outcome].format(interrupt=chosen or "an answer", task=task_id)
        raise NotResumedError(task_id, words)
    if json:
        print_json_line({"task_id": task_id, "interrupt_id": chosen, "answer": outcome})
    else:
        say(f"task {task_id}: {chosen} {outcome}")
