"""`cas tasks` and `cas sql`: questions to the projection."""

from __future__ import annotations

import asyncio
import csv
import sys
from contextlib import nullcontext, redirect_stdout
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cas_events.cli.asking import connected, query, query_arrow
from cas_events.cli.options import AsOf, Json, as_of_value
from cas_events.cli.output import json_bytes, note, print_json_array, print_table
from cas_events.cli.session import ask
from cas_events.cli.texts import STATUS_STYLES, duration
from cas_events.domain.events import QUEUED, STATUSES
from cas_events.settings import Settings

if TYPE_CHECKING:
    from cas_events.jetstream.connection import Connection
    from cas_events.wire.rows import QueryResult

SERVED_ASK_S = 1.0

_COLUMNS = ("task_id", "agent_id", "status", "attempt", "progress", "message", "created_at", "finished_at")
# What people see, and whether it is a number.
_HEADINGS = {
    **dict.fromkeys(("task", "agent", "status"), "VARCHAR"),
    **dict.fromkeys(("progress", "attempt"), "DOUBLE"),
    **dict.fromkeys(("created", "took", "message"), "VARCHAR"),
}
_TASKS = f"SELECT {', '.join(_COLUMNS)} FROM cas_tasks"  # noqa: S608 - constants
# The first execute of an id is the task's.
_DUE = "SELECT task_id, arg_min(data->>'$.not_before', seq) AS not_before FROM cas_commands WHERE kind = 'execute'"
_NEWEST_FIRST = " ORDER BY created_at DESC, task_id DESC"


def tasks(
    status: Annotated[
        str | None, typer.Option("--status", metavar="STATUS", help=f"Only these: {', '.join(STATUSES)}.")
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="AGENT", help="Only this agent's.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="At most so many.")
    ] = 50,
    json: Json = False,
) -> None:
    """List tasks, the newest first.

    A queued task whose agent no live runner serves is shown as `queued (unserved)`, one that is to start later with
    the time when it is due.
    """
    if status is not None and status not in STATUSES:
        raise typer.BadParameter(f"{status!r} is none of {', '.join(STATUSES)}", param_hint="--status")
    conditions = {"status": status, "agent_id": agent}
    ask(
        _tasks({column: value for column, value in conditions.items() if value is not None}, limit, json=json)
    )


async def _tasks(conditions: dict[str, str], limit: int, *, json: bool) -> None:
    settings = Settings.from_env()
    where = " AND ".join(f"{column} = ?" for column in conditions)
    sql = _TASKS + (f" WHERE {where}" if where else "") + _NEWEST_FIRST
    async with connected(settings) as connection:
        # One more than is shown tells whether there are more.
        answer = await query(settings, connection, sql, list(conditions.values()), limit=limit + 1)
        rows = answer.dicts()
        queued = [row for row in rows if row["status"] == QUEUED]
        served = await _served(settings, connection, {row["agent_id"] for row in queued})
        due = await _due(settings, connection, [row["task_id"] for row in queued])
    for row in rows:
        row["served"] = served.get(row["agent_id"]) if row["status"] == QUEUED else None
        row["not_before"] = due.get(row["task_id"])
    if json:
        print_json_array(rows[:limit])
        return
    print_table(list(_HEADINGS), [_task_cells(row) for row in rows[:limit]], types=list(_HEADINGS.values()))
    if len(rows) > limit:
        note(f"there are more; --limit is {limit}")


async def _due(
    settings: Settings, connection: Connection | None, task_ids: list[str]
) -> dict[str, str | None]:
    """What the commands of tasks say of their start, as RFC 3339 text."""
    if not task_ids:
        return {}
    marks = ", ".join("?" * len(task_ids))
    sql = f"{_DUE} AND task_id IN ({marks}) GROUP BY task_id"
    answer = await query(settings, connection, sql, task_ids, limit=len(task_ids))
    return {row["task_id"]: row["not_before"] for row in answer.dicts()}


async def _served(
    settings: Settings, connection: Connection | None, agents: set[str]
) -> dict[str, bool | None]:
    """Whether a live runner serves each agent; None where there is nobody to ask."""
    if connection is None or not agents:
        return dict.fromkeys(agents)
    from cas_events.errors import ConnectionLostError, NoRespondersError  # noqa: PLC0415 - only if somebody waits
    from cas_events.wire.subjects import Names  # noqa: PLC0415

    names = Names(settings.deployment)

    async def is_served(agent: str) -> bool:
        try:
            await connection.request(names.agent_service(agent), timeout_s=SERVED_ASK_S)
        except (NoRespondersError, ConnectionLostError):
            return False
        return True

    in_order = sorted(agents)
    return dict(zip(in_order, await asyncio.gather(*map(is_served, in_order)), strict=True))


def _task_cells(row: dict[str, Any]) -> list[Any]:
    """The cells under `_HEADINGS`."""
    status = row["status"]
    shown = f"{status} (unserved)" if row["served"] is False else status
    due = _due_time(row["not_before"])
    if due is not None:
        shown += f", due {_short_time(due)}"
    return [
        row["task_id"],
        row["agent_id"],
        Text(shown, style=STATUS_STYLES.get(status, "")),
        None if row["progress"] is None else f"{row['progress']:.0%}",
        row["attempt"],
        _short_time(row["created_at"]),
        _took(row["created_at"], row["finished_at"]),
        row["message"],
    ]


def _due_time(not_before: str | None) -> str | None:
    """When a task is due, if that is a time and still ahead."""
    try:
        moment = None if not_before is None else datetime.fromisoformat(not_before)
    except ValueError:  # Anybody's command: a runner rejects it.
        return None
    if moment is None or moment.tzinfo is None or moment <= datetime.now(UTC):
        return None
    return not_before


def _short_time(text: str) -> str:
    """An RFC 3339 time as local date and time, to the second."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _took(begin: str, end: str | None) -> str:
    if end is None:
        return ""
    return duration((datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds())


class SqlFormat(StrEnum):
    """How `cas sql` writes its rows."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"


def sql(
    statement: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT; `-` reads standard input.")],
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            "-p",
            metavar="VALUE",
            help="For the next `?`: JSON if it is JSON, otherwise text. Repeatable.",
        ),
    ] = None,
    wait_for: Annotated[
        int,
        typer.Option("--wait-for", metavar="SEQ", min=0, help="Answer only when the tables hold this event."),
    ] = 0,
    as_of: AsOf = None,
    format_: Annotated[
        SqlFormat | None,
        typer.Option("--format", help="A table for people, JSON, CSV, or an Arrow IPC stream."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write there, not to standard output."),
    ] = None,
    json: Json = False,
) -> None:
    """Ask the tables: one read-only statement.

    The projector answers; when none runs, its file is read. Tables: cas_tasks, cas_agent_logs, cas_agent_events,
    cas_commands, cas_agents, cas_agent_state, cas_dead_letters, cas_projection.

    Example: `cas sql "SELECT status, count(*) FROM cas_tasks GROUP BY ALL"`
    """
    text = sys.stdin.read() if statement == "-" else statement
    form = format_ or (SqlFormat.JSON if json else SqlFormat.TABLE)
    if form is SqlFormat.ARROW and output is None and sys.stdout.isatty():
        raise typer.BadParameter(
            "Arrow is not for a terminal; name a file with --output", param_hint="--format"
        )
    asked = {
        "params": [_param(value) for value in param or []],
        "wait_for": wait_for,
        "as_of": as_of_value(as_of),
    }
    ask(_sql(text, asked, form, output))


def _param(text: str) -> Any:
    """A parameter's value: JSON scalars are what they are, anything else is text."""
    import msgspec  # noqa: PLC0415 - see the package's docstring

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


async def _sql(statement: str, asked: dict[str, Any], form: SqlFormat, output: Path | None) -> None:
    settings = Settings.from_env()
    async with connected(settings) as connection:
        if form is SqlFormat.ARROW:
            data = await query_arrow(settings, connection, statement, **asked)
        else:
            answer = await query(settings, connection, statement, **asked)
    if form is SqlFormat.ARROW:
        with nullcontext(sys.stdout.buffer) if output is None else output.open("wb") as binary:
            binary.write(data)
        return
    with (
        nullcontext(sys.stdout)
        if output is None
        else output.open("w", encoding="utf-8", newline="") as target,
        redirect_stdout(target),
    ):
        _print(answer, form)


def _print(answer: QueryResult, form: SqlFormat) -> None:
    if form is SqlFormat.JSON:
        print_json_array(answer.dicts())
    elif form is SqlFormat.CSV:
        lines = csv.writer(sys.stdout, lineterminator="\n")
        lines.writerow(answer.columns)
        lines.writerows([_csv_cell(value) for value in row] for row in answer.rows)
    else:
        print_table(answer.columns, answer.rows, types=answer.types)


def _csv_cell(value: Any) -> Any:
    """Text and numbers as they are, nothing for null, anything else as JSON."""
    if isinstance(value, bool | dict | list):
        return json_bytes(value).decode()
    return value
