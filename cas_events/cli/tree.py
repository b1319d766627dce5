"""`cas tree`: a task's family, from the root down."""

from __future__ import annotations

from typing import Any

from rich.text import Text
from rich.tree import Tree

from cas_events.cli.asking import connected, last_seq, query
from cas_events.cli.options import Json, TaskArgument
from cas_events.cli.output import console, print_json_array, print_line
from cas_events.cli.session import ask
from cas_events.cli.texts import STATUS_STYLES, duration
from cas_events.domain.tokens import require_token
from cas_events.errors import UnknownTaskError
from cas_events.settings import Settings

_LEADS = ("  ", "│ ", "├─ ", "└─ ")


def tree(task: TaskArgument, json: Json = False) -> None:
    """Show a task with its parents and children, from the root down.

    Any task of the family will do. With --json: one array, depth first, each task with its `depth` and `parent_id`.
    """
    ask(_tree(require_token("task id", task), json=json))


async def _tree(task_id: str, *, json: bool) -> None:
    from projections.statements import script  # noqa: PLC0415 - see the package's docstring

    settings = Settings.from_env()
    async with connected(settings) as connection:
        answer = await query(settings, connection, script("tree"), [task_id])
        if not answer.rows and connection is not None:  # It may be so new that the tables do not have it yet.
            newest = await last_seq(settings)
            answer = await query(settings, connection, script("tree"), [task_id], wait_for=newest)
    rows = answer.dicts()
    if not rows:
        raise UnknownTaskError(task_id)
    if json:
        print_json_array(rows)
        return
    target = console()
    if target.is_terminal:
        target.print(_drawn(rows, task_id), soft_wrap=True)
        return
    for lead, row in zip(_leads([row["depth"] for row in rows]), rows, strict=True):
        print_line(target, Text(lead) + _words(row, task_id))


def _drawn(rows: list[dict[str, Any]], task_id: str) -> Tree:
    """The rows as a tree of rich."""
    root = Tree(_words(rows[0], task_id))
    branches = [root]
    for row in rows[1:]:
        del branches[row["depth"] :]
        branches.append(branches[-1].add(_words(row, task_id)))
    return root


def _leads(depths: list[int]) -> list[str]:
    """What stands before each row, so that a pipe gets the tree, too."""
    leads = []
    for at, depth in enumerate(depths):
        later = depths[at + 1 :]
        lead = ""
        for level in range(1, depth + 1):
            # Whether a sibling at this level follows before the line goes up.
            until = next((n for n, other in enumerate(later) if other < level), len(later))
            follows = level in later[:until]
            blank, line, fork, corner = _LEADS
            lead += (fork if follows else corner) if level == depth else (line if follows else blank)
        leads.append(lead)
    return leads


def _words(row: dict[str, Any], task_id: str) -> Text:
    """Agent, status, duration, attempt and id of one task."""
    status = row["status"]
    parts = [
        Text(row["agent_id"] or "?", style="bold"),
        Text(status, style=STATUS_STYLES.get(status, "")),
    ]
    if row["finished_at"] is not None and row["duration_s"] is not None:
        parts.append(Text(duration(row["duration_s"])))
    elif row["progress"] is not None:
        parts.append(Text(f"{row['progress']:.0%}"))
    if (row["attempt"] or 0) > 1:
        parts.append(Text(f"attempt {row['attempt']}", style="yellow"))
    parts.append(Text(row["task_id"], style="bold cyan" if row["task_id"] == task_id else "dim"))
    return Text("  ").join(parts)
