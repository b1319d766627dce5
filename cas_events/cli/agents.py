"""`cas agents`: who serves what, and how each agent stands; from the log and the runners, without tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from cas_events.cli.options import Json
from cas_events.cli.output import print_json_array, print_table
from cas_events.cli.session import ask
from cas_events.cli.texts import clock

if TYPE_CHECKING:
    from cas_events.fleet import AgentStatus

_COLUMNS = ("agent", "runners", "running", "queued", "intake", "breaker", "version", "last seen")
_TYPES = ("VARCHAR", "BIGINT", "BIGINT", "BIGINT")

app = typer.Typer(invoke_without_command=True)


@app.callback()
def agents(context: typer.Context, json: Json = False) -> None:
    """List the agents: live runners, tasks that run and wait, pauses and breakers.

    A runner that was killed is gone from here within three beats, that is 3 seconds.
    """
    if context.invoked_subcommand is None:
        ask(_list(json=json))


async def _list(*, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        found = await cas.agents()
    if json:
        print_json_array(found)
        return
    print_table(_COLUMNS, [_row(agent) for agent in found], types=_TYPES)


def _row(agent: AgentStatus) -> tuple[Any, ...]:
    runners = Text(str(agent.runners), style="" if agent.runners else "red")
    intake = Text("paused", style="yellow") if agent.is_paused else Text("open")
    breaker = Text(agent.breaker, style="" if agent.breaker == "closed" else "red")
    seen = clock(agent.last_seen) if agent.last_seen is not None else ""
    return agent.agent_id, runners, agent.running, agent.queued, intake, breaker, agent.version, seen
