"""The tables made anew beside the live ones, from the first message of the log on.

A rebuild that was interrupted goes on where its file stops, since what is in it is a function of the log like any
other. A file that cannot be used (of another version, of another log, damaged) is thrown away and begun again.
The swap is `files`'; who serves queries meanwhile is `keeper`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from cas_events.errors import (
    FileInUseError,
    LogCutError,
    OtherLogError,
    ProjectionError,
    StreamRewoundError,
)
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.wire.subjects import Names
from projections import files
from projections.fold import Positions
from projections.projector import Projector

log = logging.getLogger(__name__)

_LOOK_S = 0.1
_CLOSE_ENOUGH = 1_000  # Messages behind the log at which the live projector is stopped for the rest.


class Progress(msgspec.Struct, frozen=True):
    """How far a rebuild is.

    Attributes:
        state: ``building``, ``swapping``, ``done``, ``failed``, or ``none``: there has been none in this process.
        messages: commands and events in the new tables.
        of: messages that the log holds.
        per_s: messages a second, since this process began.
        eta_s: seconds until all are in; None while nothing is known.
        took_s: seconds since this process began.
        error: why it failed.
    """

    state: str
    messages: int = 0
    of: int = 0
    per_s: float = 0.0
    eta_s: float | None = None
    took_s: float = 0.0
    error: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed")


class Rebuild:
    """One rebuild of a deployment's tables.

    Args:
        connection: to the server.
        names: of the deployment.
        live: the database file that is to be replaced; not touched before `files.swap`.
        accept_loss: begin with what the log still holds, if retention took its beginning.
    """

    def __init__(
        self, connection: Connection, names: Names, live: Path, *, accept_loss: bool = False
    ) -> None:
        self._connection = connection
        self._names = names
        self._accept_loss = accept_loss
        self._projector: Projector | None = None
        self._running: asyncio.Task[None] | None = None
        self._began_s = time.monotonic()
        self._began_at = 0
        self.path = files.beside(live, accept_loss=accept_loss)
        self.progress = Progress("building")

    async def catch_up(self, tell: Callable[[Progress], None] = lambda _: None) -> None:
        """Build until nearly everything that the log holds is in the new tables.

        Args:
            tell: called from time to time.

        Raises:
            LogCutError: retention took the beginning of the log, and that was not accepted.
            ProjectionError: the storage failed.
        """
        try:
            await self._build(tell)
        except (StreamRewoundError, OtherLogError):
            log.warning("%s is of another log and is begun again", self.path)
            await self.give_up()
            await asyncio.to_thread(files.discard, self.path)
            await self._build(tell)

    async def finish(self, least: Positions) -> None:
        """Bring in what the live tables had when they were stopped, and close the new file in order.

        Raises:
            ProjectionError: the storage failed.
        """
        projector, running = self._open()
        self.progress = msgspec.structs.replace(self.progress, state="swapping")
        while not _reaches(projector.positions, least):
            await self._pause(running)
        projector.stop()
        await running
        if not await projector.checkpoint():
            raise ProjectionError(
                f"{self.path} cannot be closed in order; see the log, and run the rebuild again"
            )
        await projector.close()
        self._projector = self._running = None

    async def give_up(self) -> None:
        """Close the new file as it is; a later rebuild goes on with it. Idempotent."""
        projector, running = self._projector, self._running
        self._projector = self._running = None
        if projector is not None and running is not None:
            projector.stop()
            await asyncio.gather(running, return_exceptions=True)  # Whoever built has been told.
            await projector.close()

    async def _build(self, tell: Callable[[Progress], None]) -> None:
        if self._projector is None:
            self._projector = await self._usable()
            self._running = asyncio.create_task(self._projector.run())
            self._began_at = sum(self._projector.positions)
        projector, running = self._open()
        aim = target = await self._end()
        while not (
            _reaches(projector.positions, aim) and sum(projector.positions) + _CLOSE_ENOUGH >= sum(target)
        ):
            aim = target if _reaches(projector.positions, aim) else aim
            self._note(projector.positions, target)
            tell(self.progress)
            await self._pause(running)
            target = await self._end()
        self._note(projector.positions, target)
        tell(self.progress)

    async def _usable(self) -> Projector:
        """The new file as an earlier rebuild left it; an empty one if that cannot be used."""
        try:
            return await self._projector_on()
        except FileInUseError as error:
            raise ProjectionError(f"another rebuild runs already, in process {error.pid}") from error
        except ProjectionError as error:
            log.warning("an earlier rebuild cannot be gone on with: %s", error)
        await asyncio.to_thread(files.discard, self.path)
        return await self._projector_on()

    async def _projector_on(self) -> Projector:
        return await Projector.open(self._connection, self._names, self.path, accept_loss=self._accept_loss)

    def _open(self) -> tuple[Projector, asyncio.Task[None]]:
        assert self._projector is not None
        assert self._running is not None
        return self._projector, self._running

    async def _pause(self, running: asyncio.Task[None]) -> None:
        """A moment, or the error that ended the building."""
        await asyncio.wait([running], timeout=_LOOK_S)
        if running.done():
            running.result()
            raise ProjectionError("the rebuild was stopped")

    async def _end(self) -> Positions:
        js = JetStream(self._connection)
        commands = (await js.stream_info(self._names.commands)).state
        events = (await js.stream_info(self._names.events)).state
        # A stream from which retention took everything has a last sequence that nobody will see.
        return Positions(
            commands.last_seq if commands.messages else 0, events.last_seq if events.messages else 0
        )

    def _note(self, positions: Positions, target: Positions) -> None:
        took_s = time.monotonic() - self._began_s
        done, total = sum(positions), sum(target)
        per_s = (done - self._began_at) / took_s if took_s else 0.0
        self.progress = Progress(
            "building",
            messages=done,
            of=max(total, done),
            per_s=round(per_s, 1),
            eta_s=round(max(0, total - done) / per_s, 1) if per_s else None,
            took_s=round(took_s, 2),
        )


async def rebuild_here(
    connection: Connection,
    names: Names,
    live: Path,
    *,
    accept_loss: bool = False,
    tell: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Rebuild in this process, while no projector has the live file.

    Raises:
        ProjectionError: a projector has it, or the rebuild failed; the live file is as it was.
    """
    with files.unwritten(live):
        pass
    rebuild = Rebuild(connection, names, live, accept_loss=accept_loss)
    try:
        await rebuild.catch_up(tell)
        await rebuild.finish(Positions(0, 0))
    finally:
        await rebuild.give_up()
    await asyncio.to_thread(files.swap, rebuild.path, live)
    return msgspec.structs.replace(rebuild.progress, state="done", eta_s=0.0)


def explained(error: Exception) -> str:
    """Why a rebuild failed, in one line."""
    line = str(error).partition("\n")[0] or type(error).__name__
    return line if isinstance(error, LogCutError) else f"{line}; the tables are as they were"


def _reaches(positions: Positions, target: Positions) -> bool:
    return positions.commands >= target.commands and positions.events >= target.events
