"""`cas state`: what an agent keeps from task to task, from the log itself; shown, and changed by an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from cas_events.cli.options import Json
from cas_events.cli.output import json_bytes, print_json_array, print_json_line, print_table, say
from cas_events.cli.session import ask
from cas_events.cli.texts import clock, plain
from cas_events.errors import WireError
from cas_events.wire.jsonvalue import decode_json

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
    merge: Annotated[
        str | None,
        typer.Option("--merge", metavar="JSON", help="Merge this object into it; null takes a member away."),
    ] = None,
    whole: Annotated[
        str | None, typer.Option("--set", metavar="JSON", help="Put this object in its place.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Empty it; its history goes on.")] = False,
    expected: Annotated[
        int | None,
        typer.Option("--expect", metavar="REVISION", min=0, help="Change only this revision."),
    ] = None,
    json: Json = False,
) -> None:
    """Show or change the state of an agent, or of one of its keys, in the log itself: also while no projector runs."""
    changes = [option for option in (merge, whole, True if reset else None) if option is not None]
    if len(changes) + history + (as_of is not None) > 1 and not (history and as_of is not None):
        raise typer.BadParameter(
            "give one of --merge, --set, --reset, --as-of and --history", param_hint="--merge"
        )
    if expected is not None and not changes:
        raise typer.BadParameter("is of use with --merge, --set or --reset", param_hint="--expect")
    if changes:
        patch = (
            None
            if reset
            else _object("--set" if merge is None else "--merge", whole if merge is None else merge)
        )
        ask(_change(agent, key, patch, expected, whole=whole is not None, json=json))
        return
    if history and as_of is not None:
        raise typer.BadParameter(
            "says the same as a line of --history; give one of the two", param_hint="--as-of"
        )
    ask(_history(agent, key, json=json) if history else _state(agent, key, as_of, json=json))


def _object(option: str, text: str | None) -> dict[str, Any]:
    try:
        found = decode_json((text or "").encode())
    except WireError as error:
        raise typer.BadParameter(f"{text!r} is no JSON: {error}", param_hint=option) from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{text!r} is no JSON object", param_hint=option)
    return found


async def _change(
    agent_id: str,
    key: str | None,
    patch: dict[str, Any] | None,
    expected: int | None,
    *,
    whole: bool,
    json: bool,
) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        if patch is None:
            found = await cas.reset_agent_state(agent_id, key, expected_revision=expected)
        else:
            found = await cas.update_agent_state(
                agent_id, patch, key, expected_revision=expected, whole=whole
            )
    _print(found, json=json)


async def _state(agent_id: str, key: str | None, as_of: int | None, *, json: bool) -> None:
    from cas_events.client import Client  # noqa: PLC0415 - see the package's docstring

    async with Client() as cas:
        found = await cas.get_agent_state(agent_id, key, as_of=as_of)
    _print(found, json=json)


def _print(found: AgentState, *, json: bool) -> None:
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
