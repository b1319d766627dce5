"""`cas state`: what an agent keeps from task to task, from the log itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from cas_events.cli.options import Json
from cas_events.cli.output import json_bytes, print_json_array, print_json_line, print_table, say
from cas_events.cli.session import ask
from cas_events.cli.texts import clock, plain

if TYPE_CHECKING:
    from cas_events.agent_states import AgentState


def state(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent.")],
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="One of its states beside its own.")
    ] = None,
    as_of: Annotated[
        int | None,
        typer.Option("--as-of", metavar="SEQ", min=0, help="As it was after this event of the log."),
    ] = None,
    history: Annotated[bool, typer.Option("--history", help="List every change, oldest first.")] = False,
    json: Json = False,
) -> None:
    """Show the state of an agent, or of one of its keys, from the log itself: also while no projector runs."""
    if history and as_of is not None:
        raise typer.BadParameter(
            "says the same as a line of --history; give one of the two", param_hint="--as-of"
        )
    ask(_history(agent, key, json=json) if history else _state(agent, key, as_of, json=json))


async def _state(agent_id: str, key: str | None, as_of: int | None, *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        found = await cas.get_agent_state(agent_id, key, as_of=as_of)
    if json:
        print_json_line(found)
        return
    made = f", {clock(found.time)} by {found.source}" if found.time is not None else ""
    say(plain(f"revision {found.revision}{made}"))
    say(msgspec.json.format(json_bytes(found.state), indent=2).decode())


async def _history(agent_id: str, key: str | None, *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        changes = [change async for change in cas.agent_state_history(agent_id, key)]
    if json:
        print_json_array(changes)
        return
    print_table(
        ("revision", "seq", "time", "state"), [_row(change) for change in changes], types=("BIGINT", "BIGINT")
    )


def _row(change: AgentState) -> tuple[Any, ...]:
    return change.revision, change.seq, clock(change.time) if change.time else "", change.state
