"""`cas rebuild`: the tables made anew from the log, by the projector that runs, or here when none does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cas_events.cli.options import Json
from cas_events.cli.output import note, print_json_line, say
from cas_events.cli.session import ask
from cas_events.cli.texts import duration
from cas_events.errors import ConnectionLostError, NoRespondersError, ProjectionError
from cas_events.settings import Settings

if TYPE_CHECKING:
    from cas_events.jetstream.connection import Connection

_LOOK_S = 0.5
_ANSWER_S = 5.0
_GOING_ON = ("building", "swapping")


def rebuild(
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss", help="Begin with what the log still holds, if retention took its beginning."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Make the tables anew from the log, beside the live ones, and let them take their place.

    The projector does it when one runs, and answers questions meanwhile; without one, it is done here. A rebuild that
    was interrupted goes on where it stopped.
    """
    ask(_rebuild(accept_loss=accept_loss, json=json))


async def _rebuild(*, accept_loss: bool, json: bool) -> None:
    from cas_events.jetstream.connection import Connection  # noqa: PLC0415 - see the package's docstring

    settings = Settings.from_env()
    async with await Connection.open(settings.url(), name="cas-command") as connection:
        tell = print_json_line if json else _teller()
        try:
            first = await _ask(connection, settings, {"rebuild": True, "accept_loss": accept_loss})
        except NoRespondersError:
            last = await _here(connection, settings, accept_loss=accept_loss, tell=tell)
        else:
            last = first
            async for last in _watched(connection, settings, first):
                if last["state"] in _GOING_ON:
                    tell(last)
    if last["state"] == "failed":
        raise ProjectionError(last["error"])
    if json:
        print_json_line(last)
    else:
        say(f"made anew from {last['messages']:,} messages in {duration(last['took_s'])}")


async def _here(
    connection: Connection, settings: Settings, *, accept_loss: bool, tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415 - see the package's docstring

    from cas_events.wire.subjects import Names  # noqa: PLC0415
    from projections.rebuild import rebuild_here  # noqa: PLC0415

    told = await rebuild_here(
        connection,
        Names(settings.deployment),
        settings.database_path,
        accept_loss=accept_loss,
        tell=lambda progress: tell(msgspec.to_builtins(progress)),
    )
    return dict(msgspec.to_builtins(told))


async def _watched(
    connection: Connection, settings: Settings, first: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """What the projector says of its rebuild, until it is over.

    Raises:
        ProjectionError: the projector has gone.
    """
    progress = first
    while progress["state"] in _GOING_ON:
        yield progress
        await asyncio.sleep(_LOOK_S)
        try:
            progress = await _ask(connection, settings, {})
        except (NoRespondersError, ConnectionLostError) as error:
            raise ProjectionError(
                "the projector has gone during the rebuild; run `cas rebuild` again, it goes on from there"
            ) from error
    if progress["state"] == "none":
        raise ProjectionError(
            "the projector has started anew during the rebuild; run `cas rebuild` again, it goes on from there"
        )
    yield progress


async def _ask(connection: Connection, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415 - see the package's docstring

    from cas_events.wire.subjects import Names  # noqa: PLC0415

    subject = Names(settings.deployment).projector_service
    answer = await connection.request(subject, msgspec.json.encode(request), timeout_s=_ANSWER_S)
    return dict(msgspec.json.decode(answer.data))


def _teller() -> Callable[[dict[str, Any]], None]:
    """Says how far it is, on standard error, about once a second."""
    loop = asyncio.get_running_loop()
    told_s = loop.time()

    def tell(progress: dict[str, Any]) -> None:
        nonlocal told_s
        if loop.time() - told_s < 1.0 or progress["state"] != "building":
            return
        told_s = loop.time()
        eta = "" if progress["eta_s"] is None else f", {duration(progress['eta_s'])} to go"
        note(
            f"{progress['messages']:,} of {progress['of']:,} messages, {progress['per_s']:,.0f} a second{eta}"
        )

    return tell
