"""`cas agents`: who serves what, and how each agent stands; from the log and the runners, without tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cas_events.cli.options import Json
from cas_events.cli.output import note, print_json_array, print_json_line, print_table, say
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
    intake = Text(_intake(agent), style="" if _intake(agent) == "open" else "yellow")
    breaker = Text(agent.breaker, style="" if agent.breaker == "closed" else "red")
    seen = clock(agent.last_seen) if agent.last_seen is not None else ""
    return agent.agent_id, runners, agent.running, agent.queued, intake, breaker, agent.version, seen


def _intake(agent: AgentStatus) -> str:
    if agent.status == "deregistered":
        return "deregistered" if agent.new_tasks == "wait" else "refused"
    return "paused" if agent.is_paused else "open"


AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="The agent; `cas agents` lists them.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Stored with the event.")]


@app.command("pause")
def pause(agent: AgentArgument, reason: Reason = "", json: Json = False) -> None:
    """Stop an agent's intake on every runner, until `cas agents resume`; tasks that run go on, new ones wait."""
    ask(_control(agent, reason, pause=True, json=json))


@app.command("resume")
def resume(agent: AgentArgument, reason: Reason = "", json: Json = False) -> None:
    """Start an agent's intake again. What its open breaker holds back waits for the breaker's probe."""
    ask(_control(agent, reason, pause=False, json=json))


@app.command("deregister")
def deregister(
    agent: AgentArgument,
    refuse: Annotated[
        bool,
        typer.Option("--refuse", help="Reject the tasks that have not begun, instead of letting them wait."),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until no runner runs a task of it.")] = False,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Take an agent out of service on every runner, through restarts, until `cas agents register`; running tasks end."""
    ask(_deregister(agent, reason, refuse=refuse, wait=wait, json=json))


@app.command("register")
def register(agent: AgentArgument, json: Json = False) -> None:
    """Put a deregistered agent into service again, on every runner that has its code."""
    ask(_register(agent, json=json))


@app.command("set")
def set_(
    agent: AgentArgument,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", metavar="N", help="Tasks at once, fleet-wide; takes effect at once."),
    ] = None,
    lease_s: Annotated[
        float | None,
        typer.Option(
            "--lease-s",
            metavar="SECONDS",
            help="After how long a silent runner's task goes elsewhere; restart the runners before it is shortened.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Change an agent's settings on the server, for the whole fleet; without an option, show them."""
    ask(_set(agent, concurrency, lease_s, json=json))


async def _control(agent_id: str, reason: str, *, pause: bool, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        change = cas.pause_agent if pause else cas.resume_agent
        answer = await change(agent_id, reason=reason)
    _tell(agent_id, answer, json=json)


async def _deregister(agent_id: str, reason: str, *, refuse: bool, wait: bool, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        answer = await cas.deregister_agent(
            agent_id, new_tasks="refuse" if refuse else "wait", reason=reason, wait=wait
        )
    _tell(agent_id, answer, json=json)


async def _register(agent_id: str, *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        answer = await cas.register_agent(agent_id)
        is_served = await cas.is_served(agent_id)
    _tell(agent_id, answer, json=json, note="" if is_served else "; no live runner has its code, start one")


def _tell(agent_id: str, answer: str, *, json: bool, note: str = "") -> None:
    if json:
        print_json_line({"agent_id": agent_id, "answer": answer})
    else:
        say(answer.replace("_", " ") + note)


async def _set(agent_id: str, concurrency: int | None, lease_s: float | None, *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        settings = await cas.set_agent(agent_id, concurrency=concurrency, lease_s=lease_s)
    if json:
        print_json_line({"agent_id": agent_id, **settings})
    else:
        say(f"concurrency {settings['concurrency']}, lease {settings['lease_s']:g} s")
    if lease_s is not None:
        note(
            "Runners that live renew by the lease that they found at their start: restart them before you shorten it."
        )
