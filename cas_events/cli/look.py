"""`cas logs`, `cas tail` and `cas replay`: the log itself, without tables and without a projector."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from cas_events.cli.options import AgentFilter, EventType, Json, TaskArgument, TaskFilter
from cas_events.cli.output import console, note, print_json_line, print_line
from cas_events.cli.session import ask
from cas_events.cli.texts import LEVELS, STATUS_STYLES, clock, cut, level_rank, log_level, log_text, summary
from cas_events.domain.events import LOG, Event

_SUMMARY_LENGTH = 200
_HEADING = f"{'seq':>8}  {'time':<12}  {'event':<20}  {'agent':<16}  {'task':<36}  att.idx  what"


def logs(
    task: TaskArgument,
    level: Annotated[
        str, typer.Option("--level", metavar="LEVEL", help=f"Only from this level on: {', '.join(LEVELS)}.")
    ] = "debug",
    grep: Annotated[
        str | None,
        typer.Option(
            "--grep",
            metavar="REGEX",
            help="Only lines in whose message or fields this regular expression is found; `(?i)` for any case.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task ends.")] = False,
    json: Json = False,
) -> None:
    """Print what a task logged, from the log itself: complete, also while no projector runs."""
    if level not in LEVELS:
        raise typer.BadParameter(f"{level!r} is none of {', '.join(LEVELS)}", param_hint="--level")
    wanted = _regex(grep)

    def is_chosen(event: Event) -> bool:
        if event.type != LOG or level_rank(log_level(event)) < level_rank(level):
            return False
        return wanted is None or wanted.search(log_text(event)) is not None

    ask(_logs(task, is_chosen, follow=follow, json=json))


def _regex(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except (re.error, RecursionError, OverflowError) as problem:
        raise typer.BadParameter(
            f"{text!r} is no regular expression: {problem}", param_hint="--grep"
        ) from None


async def _logs(task_id: str, is_chosen: Callable[[Event], bool], *, follow: bool, json: bool) -> None:
    from cas_events.cli.view import log_line  # noqa: PLC0415 - see the package's docstring
    from cas_events.client import Client  # noqa: PLC0415

    show = _printer(log_line, json=json, live=follow)
    told: set[tuple[int, int]] = set()
    async with Client() as cas:
        events = (await cas.task(task_id)).events() if follow else cas.replay(task_id=task_id)
        async for event in events:
            # A resent line is stored twice; the key tells.
            if is_chosen(event) and _key(event) not in told:
                told.add(_key(event))
                show(event)


def _key(event: Event) -> tuple[int, int]:
    return event.attempt, event.index


def tail(
    task: TaskFilter = None,
    agent: AgentFilter = None,
    workflow: Annotated[
        str | None, typer.Option("--workflow", metavar="TASK", help="Only this task and all its descendants.")
    ] = None,
    type: EventType = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="now|start|SEQ", help="Where to begin; the default is now."),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(
            "--after", metavar="SEQ", min=0, help="Go on behind this event, the last one that was seen."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show events as they are stored, until Ctrl-C, or until the task or the workflow has ended.

    Nothing is missed and nothing comes twice, whatever happens to the server or to the connection; a `gap` line says
    what retention took.
    """
    choice = {"task_id": task, "agent": agent, "workflow": workflow, "type": type, "after": after}
    begin = _begin(from_) if after is None else None
    if after is not None and from_ is not None:
        raise typer.BadParameter("give --from or --after, not both", param_hint="--after")
    if sum(value is not None for value in (task, agent, workflow)) > 1:
        raise typer.BadParameter("one of --task, --agent and --workflow is enough", param_hint="--workflow")
    ask(_tail({**choice, "from_": begin}, json=json))


def _begin(text: str | None) -> str | int:
    if text is None or text in ("now", "start"):
        return text or "now"
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"{text!r} is neither now, start nor a sequence", param_hint="--from")
    return int(text)


async def _tail(choice: dict[str, Any], *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        await _print_events(cas.follow(**choice), json=json, live=True)


def replay(
    task: TaskFilter = None,
    agent: AgentFilter = None,
    type: EventType = None,
    from_seq: Annotated[
        int, typer.Option("--from-seq", "--from", metavar="SEQ", min=1, help="Start at this sequence.")
    ] = 1,
    to_seq: Annotated[
        int | None, typer.Option("--to-seq", metavar="SEQ", min=1, help="End with this sequence.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Only what was stored from this time on (ISO 8601, UTC)."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Only what was stored until this time.")
    ] = None,
    speed: Annotated[
        str,
        typer.Option("--speed", metavar="N|max", help="1x: as far apart as it happened; 10x: faster; max."),
    ] = "max",
    pause_max: Annotated[
        float | None,
        typer.Option(
            "--max-pause",
            metavar="SECONDS",
            min=0.0,
            help="With a speed: never wait longer for the next event.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Print the stored events, oldest first, up to the newest one of now."""
    options = {
        "since": _time(since, "--since"),
        "until": _time(until, "--until"),
        "speed": _speed(speed),
        "pause_max_s": pause_max,
    }
    if to_seq is not None:
        options["to_seq"] = to_seq
    ask(_replay({"task_id": task, "agent": agent, "type": type, "from_seq": from_seq, **options}, json=json))


def _time(text: str | None, option: str) -> str | None:
    try:
        return None if text is None else datetime.fromisoformat(text).isoformat()
    except ValueError:
        problem = f"{text!r} is no time such as 2026-11-22T09:00:00Z"
        raise typer.BadParameter(problem, param_hint=option) from None


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < math.inf:
        raise typer.BadParameter(
            f"{text!r} is neither max nor a factor such as 1x or 10x", param_hint="--speed"
        )
    return speed


async def _replay(choice: dict[str, Any], *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        events = cas.replay(**choice, on_fallback=_note_fallback)
        await _print_events(events, json=json, live=choice["speed"] is not None)


def _note_fallback(why: str) -> None:
    note(f"{why}; the times are looked up in the stream itself")


async def _print_events(events: AsyncIterator[Event], *, json: bool, live: bool) -> None:
    if not json:
        print_line(console(), Text(_HEADING, style="bold"))
    show = _printer(event_line, json=json, live=live)
    async for event in events:
        show(event)


def event_line(event: Event) -> Text:
    """An event as a line of a table whose columns have fixed widths, so that it can be endless."""
    style = STATUS_STYLES.get(event.status or "", "")
    line = Text(f"{event.seq:>8}  {clock(event.time)}  ")
    line.append(f"{event.type.removeprefix('cas.'):<20}", style=style)
    place = f"{event.attempt}.{event.index}" if event.task_id else ""
    line.append(
        f"  {event.agent_id:<16}  {event.task_id:<36}  {place:<7}  {cut(summary(event), _SUMMARY_LENGTH)}"
    )
    return line


def _printer(render: Callable[[Event], Text], *, json: bool, live: bool) -> Callable[[Event], None]:
    """Prints events one by one; ``live`` ones at once, others as the buffer fills."""
    target = console()

    def show(event: Event) -> None:
        if json:
            print_json_line(event, flush=live)
        else:
            print_line(target, render(event), flush=live)

    return show
