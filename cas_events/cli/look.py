"""`cas logs`, `cas tail` and `cas replay`: the log itself, without tables and without a projector."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated

import typer
from rich.text import Text

from cas_events.cli.asking import last_seq
from cas_events.cli.options import AgentFilter, Json, TaskArgument, TaskFilter
from cas_events.cli.output import console, print_json_line, print_line
from cas_events.cli.session import ask
from cas_events.cli.texts import LEVELS, STATUS_STYLES, clock, cut, level_rank, log_level, summary
from cas_events.domain.events import LOG, Event
from cas_events.settings import Settings

_SUMMARY_LENGTH = 200
_HEADING = f"{'seq':>8}  {'time':<12}  {'event':<20}  {'agent':<16}  {'task':<36}  att.idx  what"


def logs(
    task: TaskArgument,
    level: Annotated[
        str, typer.Option("--level", metavar="LEVEL", help=f"Only from this level on: {', '.join(LEVELS)}.")
    ] = "debug",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task ends.")] = False,
    json: Json = False,
) -> None:
    """Print what a task logged, from the log itself: complete, also while no projector runs."""
    if level not in LEVELS:
        raise typer.BadParameter(f"{level!r} is none of {', '.join(LEVELS)}", param_hint="--level")
    ask(_logs(task, level_rank(level), follow=follow, json=json))


async def _logs(task_id: str, rank: int, *, follow: bool, json: bool) -> None:
    from cas_events.cli.view import log_line  # noqa: PLC0415 - see the package's docstring
    from cas_events.client import Client  # noqa: PLC0415

    show = _printer(log_line, json=json, live=follow)
    told: set[tuple[int, int]] = set()
    async with Client() as cas:
        events = (await cas.task(task_id)).events() if follow else cas.replay(task_id=task_id)
        async for event in events:
            # A resent line is stored twice; the key tells.
            if event.type == LOG and level_rank(log_level(event)) >= rank and _key(event) not in told:
                told.add(_key(event))
                show(event)


def _key(event: Event) -> tuple[int, int]:
    return event.attempt, event.index


def tail(task: TaskFilter = None, agent: AgentFilter = None, json: Json = False) -> None:
    """Show events as they are stored, from now on, until Ctrl-C."""
    ask(_tail(task, agent, json=json))


async def _tail(task_id: str | None, agent: str | None, *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        from_seq = await last_seq(Settings.from_env()) + 1
        events = cas.replay(task_id=task_id, agent=agent, from_seq=from_seq, follow=True)
        await _print_events(events, json=json, live=True)


def replay(
    task: TaskFilter = None,
    agent: AgentFilter = None,
    from_seq: Annotated[
        int, typer.Option("--from", metavar="SEQ", min=1, help="Start at this sequence.")
    ] = 1,
    json: Json = False,
) -> None:
    """Print the stored events, oldest first, up to the newest one of now."""
    ask(_replay(task, agent, from_seq, json=json))


async def _replay(task_id: str | None, agent: str | None, from_seq: int, *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        events = cas.replay(task_id=task_id, agent=agent, from_seq=from_seq)
        await _print_events(events, json=json, live=False)


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
