"""`cas run`, `cas retry` and `cas cancel`: start a task, start it again, end it.

The live view goes to standard output with the result at its end. Ctrl-C ends the following, never the task.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cas_events.cli.options import Json, TaskArgument
from cas_events.cli.output import console, json_bytes, note, print_json_line, say
from cas_events.cli.problems import TaskNotCompletedError
from cas_events.cli.session import ask
from cas_events.cli.texts import STATUS_STYLES, duration, failure_text
from cas_events.errors import UnknownTaskError, WireError

_NOT_AN_OBJECT = 'is no JSON object, such as \'{"query": "test"}\''


WaitForRunner = Annotated[
    float | None,
    typer.Option(
        "--wait-for-runner", metavar="SECONDS", min=0, help="Wait for a runner that serves the agent."
    ),
]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Print the task's id and do not follow it.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the output, as JSON.")]


class Priority(StrEnum):
    """A task's class."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `cas run` was asked."""

    agent_id: str
    task_id: str
    input: dict[str, Any]
    timeout_s: float | None
    not_before: float | str | None
    wait_for_runner_s: float | None
    priority: Any
    key: str | None


def run(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent that shall do it.")],
    input: Annotated[
        str | None,
        typer.Argument(metavar="JSON", help="Its input, a JSON object; `-` reads standard input."),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input-file", metavar="FILE", exists=True, dir_okay=False, help="Read the input from a file."
        ),
    ] = None,
    task_id: Annotated[
        str | None,
        typer.Option("--task-id", metavar="ID", help="An id of your own: the server takes it only once."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="Bound on one attempt.")
    ] = None,
    delay: Annotated[
        float | None, typer.Option("--delay", metavar="SECONDS", min=0, help="Start it so much later.")
    ] = None,
    not_before: Annotated[
        str | None,
        typer.Option(
            "--not-before",
            metavar="TIME",
            help="Start it then and not before: RFC 3339, such as 2026-11-22T09:00:00Z.",
        ),
    ] = None,
    priority: Annotated[
        Priority | None, typer.Option("--priority", help="Its class among the tasks that compete with it.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="What it competes under, such as a customer, if the agent limits that."),
    ] = None,
    wait_for_runner: WaitForRunner = None,
    detach: Detach = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Start a task and follow it to its end: a progress bar, its log lines, then its output.

    Exits 1 when the task fails, is cancelled or rejected. Ctrl-C stops following; the task goes on. With `--json`,
    every event is a line, the last one says how it ended.

    Examples: `cas run echo '{"steps": 5}'`, `cas run security-audit '{"path": "."}' --detach`,
    `cas run echo --delay 3600 --detach`
    """
    from cas_events.uuid7 import uuid7  # noqa: PLC0415 - see the package's docstring

    request = Request(
        agent_id=agent,
        task_id=task_id or uuid7(),
        input=read_input(input, input_file),
        timeout_s=timeout,
        not_before=_start_time(delay, not_before),
        wait_for_runner_s=wait_for_runner,
        priority=None if priority is None else priority.value,
        key=key,
    )
    begin = partial(_started, request)
    ask(_begin(begin, json=json) if detach else _follow(begin, json=json, quiet=quiet))


def _start_time(delay_s: float | None, not_before: str | None) -> float | str | None:
    if delay_s is not None and not_before is not None:
        raise typer.BadParameter("give --delay or --not-before, not both", param_hint="--delay")
    return delay_s if not_before is None else not_before


def read_input(text: str | None, file: Path | None) -> dict[str, Any]:
    """The input of a task: an argument, a file or standard input; nothing is an empty object.

    Raises:
        typer.BadParameter: it is no JSON object, or there are two.
    """
    if text is not None and file is not None:
        raise typer.BadParameter(
            "give the input as an argument or by --input-file, not both", param_hint="JSON"
        )
    if file is not None:
        raw, where = file.read_bytes(), str(file)
    else:
        raw, where = (sys.stdin.buffer.read(), "standard input") if text == "-" else _argument(text)
    return read_object(raw, where, "JSON")


def read_object(raw: bytes, where: str, option: str) -> dict[str, Any]:
    """A JSON object that was typed.

    Raises:
        typer.BadParameter: it is none; the error says where it is from.
    """
    from cas_events.wire.jsonvalue import decode_json  # noqa: PLC0415 - see the package's docstring

    try:
        value = decode_json(raw)
    except WireError as error:
        raise typer.BadParameter(f"{where} {_NOT_AN_OBJECT}: {error}", param_hint=option) from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{where} {_NOT_AN_OBJECT}", param_hint=option)
    return value


def _argument(text: str | None) -> tuple[bytes, str]:
    return ("{}" if text is None else text).encode("utf-8", "surrogateescape"), "the input"


def retry(
    task: TaskArgument,
    wait_for_runner: WaitForRunner = None,
    detach: Detach = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Start a task that has ended once more: a new task with the same input, and the old one as its parent.

    For what failed and has been mended since; `cas sql "SELECT * FROM cas_dead_letters"` lists what gave up.
    """
    begin = partial(_retried, task, wait_for_runner)
    ask(_begin(begin, json=json) if detach else _follow(begin, json=json, quiet=quiet))


async def _started(request: Request, cas: Any) -> Any:
    return await cas.submit_task(
        request.agent_id,
        request.input,
        task_id=request.task_id,
        timeout_s=request.timeout_s,
        not_before=request.not_before,
        wait_for_runner_s=request.wait_for_runner_s,
        priority=request.priority,
        key=request.key,
    )


async def _retried(task_id: str, wait_for_runner_s: float | None, cas: Any) -> Any:
    return await cas.retry_task(task_id, wait_for_runner_s=wait_for_runner_s)


async def _begin(begin: Callable[[Any], Awaitable[Any]], *, json: bool) -> None:
    """Store the command and say the task's id."""
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        task = await begin(cas)
    if json:
        print_json_line({"task_id": task.task_id, "agent_id": task.agent_id})
    else:
        say(task.task_id)


async def _follow(begin: Callable[[Any], Awaitable[Any]], *, json: bool, quiet: bool) -> None:
    """Store the command and follow the task to its end."""
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    task: Any = None
    try:
        async with Client() as cas:
            task = await begin(cas)
            if json or quiet:
                last = await _follow_plainly(task, json=json)
            else:
                last = await _follow_with_view(task)
            if last.status == "completed" and not json:
                _print_output((await task.result()).output)
    except asyncio.CancelledError:
        if task is None:
            note("the task may have been stored; `cas tasks` shows it if it was")
        else:
            note(f"task {task.task_id} goes on; end it with `cas cancel {task.task_id}`")
        raise
    if last.status != "completed":
        raise TaskNotCompletedError(task.task_id, last.status or "", failure_text(last))


async def _follow_plainly(task: Any, *, json: bool) -> Any:
    last = None
    async for event in task.events():
        last = event
        if json:
            print_json_line(event)
    return last


async def _follow_with_view(task: Any) -> Any:
    from cas_events.cli.view import TaskView  # noqa: PLC0415 - see the package's docstring

    target = console()
    target.print(f"task {task.task_id}", style="dim")
    last: Any = None
    began_s = time.monotonic()  # Not by the events' times, which are of other machines' clocks.
    with TaskView(target, task.agent_id) as view:
        async for last in task.events():
            view.show(last)
    took = duration(time.monotonic() - began_s)
    target.print(f"{last.status} in {took}", style=STATUS_STYLES.get(last.status, ""))
    return last


def _print_output(output: Any) -> None:
    """The output as indented JSON, in colours on a terminal."""
    import msgspec  # noqa: PLC0415 - see the package's docstring

    text = msgspec.json.format(json_bytes(output), indent=2).decode()
    target = console()
    if target.is_terminal:
        from rich.json import JSON  # noqa: PLC0415 - only for terminals

        target.print(JSON(text), soft_wrap=True)
    else:
        say(text)


def cancel(
    task: TaskArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Stored with the cancel.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the task has ended.")] = False,
    json: Json = False,
) -> None:
    """End a task, wherever it runs, also before it starts or while no runner is up.

    Exits 1 when there is no such task. A task that has already ended stays as it is.
    """
    ask(_cancel(task, reason, wait=wait, json=json))


async def _cancel(task_id: str, reason: str, *, wait: bool, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        answer = await cas.cancel_task(task_id, reason=reason, requested_by="cas cancel", wait=wait)
        if answer == "unknown_task":
            raise UnknownTaskError(task_id)
        ended = wait or answer == "already_finished"
        status = (await (await cas.task(task_id)).result()).status if ended else None
    if json:
        print_json_line({"task_id": task_id, "answer": answer} | ({"status": status} if status else {}))
    else:
        words = answer.replace("_", " ")
        say(f"task {task_id}: {words}" + (f", {status}" if status else ""))
