"""`cas schedules`: what starts again and again, and how it stands; from the log and the server's timers, without tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cas_events.cli.options import Json
from cas_events.cli.output import print_json_array, print_json_line, print_table, say
from cas_events.cli.session import ask
from cas_events.cli.start import read_input, read_object

if TYPE_CHECKING:
    from cas_events.schedules import Schedule

_COLUMNS = ("schedule", "agent", "cron", "zone", "next", "missed", "made", "by")
_BY = "cas schedules"

app = typer.Typer(invoke_without_command=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule; `cas schedules` lists them.")]


@app.callback()
def schedules(context: typer.Context, json: Json = False) -> None:
    """List the schedules, with when each is due next; make, pause, resume and cancel them.

    Example: `cas schedules add nightly analyst "0 2 * * *" '{"query": "sales"}' --time-zone Europe/Berlin`
    """
    if context.invoked_subcommand is None:
        ask(_list(json=json))


@app.command("list")
def list_(json: Json = False) -> None:
    """List the schedules, with when each is due next."""
    ask(_list(json=json))


async def _list(*, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        found = await cas.list_schedules()
    if json:
        print_json_array(found)
    else:
        print_table(_COLUMNS, [_row(schedule) for schedule in found])


def _row(schedule: Schedule) -> tuple[Any, ...]:
    due = schedule.next_due
    shown = "" if due is None else f"{due.astimezone():%Y-%m-%d %H:%M:%S}"
    return (
        schedule.name,
        schedule.agent_id,
        schedule.cron,
        schedule.time_zone,
        Text("paused", style="yellow") if schedule.is_paused else Text(shown),
        schedule.missed,
        f"{schedule.created_at.astimezone():%Y-%m-%d %H:%M:%S}",
        schedule.created_by,
    )


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, which is not taken.")],
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent that shall do it.")],
    cron: Annotated[
        str,
        typer.Argument(
            metavar="CRON",
            help="Minute, hour, day, month and weekday, with seconds in front if you like; or `@daily`.",
        ),
    ],
    input: Annotated[
        str | None,
        typer.Argument(
            metavar="JSON", help="The input of each task, a JSON object; `-` reads standard input."
        ),
    ] = None,
    time_zone: Annotated[
        str, typer.Option("--time-zone", metavar="ZONE", help="By whose clock, such as `Europe/Berlin`.")
    ] = "UTC",
    missed: Annotated[
        str,
        typer.Option(
            "--missed",
            metavar="fire_once|skip",
            help="Whether runs that were missed are made up for by one, or by none.",
        ),
    ] = "fire_once",
    missed_after_s: Annotated[
        float, typer.Option("--missed-after", metavar="SECONDS", help="How late a run is missed.")
    ] = 60.0,
    metadata: Annotated[
        str | None, typer.Option("--metadata", metavar="JSON", help="Metadata of each task, a JSON object.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Bound on one attempt of each task.")
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="TEXT", help="Who asks, for the history.")] = _BY,
    json: Json = False,
) -> None:
    """Start a task whenever a cron expression says. Asking again for the same changes nothing.

    Example: `cas schedules add nightly analyst "0 2 * * *" '{"query": "sales"}' --time-zone Europe/Berlin`
    """
    said = {
        "time_zone": time_zone,
        "missed": missed,
        "missed_after_s": missed_after_s,
        "metadata": None
        if metadata is None
        else read_object(metadata.encode(), "the metadata", "--metadata"),
        "timeout_s": timeout,
        "requested_by": by,
    }
    ask(_add((name, agent, read_input(input, None), cron), said, json=json))


async def _add(asked: tuple[Any, ...], said: dict[str, Any], *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        made = await cas.create_schedule(*asked, **said)
    if json:
        print_json_line(made)
    elif made.is_paused:
        say(f"schedule {made.name}: paused")
    else:
        assert made.next_due is not None
        say(f"schedule {made.name}: due at {made.next_due.astimezone():%Y-%m-%d %H:%M:%S}")


By = Annotated[str, typer.Option("--by", metavar="TEXT", help="Who asks, for the history.")]


@app.command("pause")
def pause(name: Name, by: By = _BY, json: Json = False) -> None:
    """Let a schedule stand still, until `cas schedules resume`; what is due meanwhile is not made up for."""
    ask(_change("pause", name, by, json=json))


@app.command("resume")
def resume(name: Name, by: By = _BY, json: Json = False) -> None:
    """Let a schedule go on with its next due time."""
    ask(_change("resume", name, by, json=json))


@app.command("cancel")
def cancel(name: Name, by: By = _BY, json: Json = False) -> None:
    """End a schedule for good; its tasks stay, and its name is free."""
    ask(_change("cancel", name, by, json=json))


async def _change(change: str, name: str, by: str, *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        do = {"pause": cas.pause_schedule, "resume": cas.resume_schedule, "cancel": cas.cancel_schedule}[
            change
        ]
        answer = await do(name, requested_by=by) or "cancelled"
    if json:
        print_json_line({"name": name, "answer": answer})
    else:
        say(f"schedule {name}: {answer.replace('_', ' ')}")
