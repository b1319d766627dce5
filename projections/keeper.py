"""Keeps one deployment's tables: live, of the right version, and made anew when somebody asks for it.

Invariants: questions are answered all the time, from the live tables, or from an old version's (read-only, standing
still) while this version's are made; only tables that cannot be read answer with `rebuilding`. New tables take the
place of the old ones only after they hold at least as much. A rebuild that fails leaves everything as it was. The
steps between building and serving are all in this module, in order, so that a kill between any two can be tried.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cas_events.errors import CasEventsError, OtherVersionError, ProjectionError, QueryError
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.subjects import Names
from projections import files
from projections.desk import Desk
from projections.fold import Positions
from projections.projector import Projector
from projections.queries import Limits, Queries
from projections.rebuild import Progress, Rebuild, explained
from projections.store import Connection as Tables
from projections.store import Error as StoreError
from projections.store import open_file

log = logging.getLogger(__name__)


class Keeper:
    """Serves the tables of one deployment until `stop`.

    Args:
        connection: to the server.
        names: of the deployment.
        path: the live database file.
        limits: of each query.
        say: told ``ready`` and ``rebuilding``, with the positions of the tables that answer.
        on_applied: told of the commands of each batch that the live tables hold now.

    Attributes:
        desk: where questions are put.
        positions: of the live tables when they were last closed.
    """

    def __init__(
        self,
        connection: Connection,
        names: Names,
        path: Path,
        *,
        limits: Limits | None = None,
        say: Callable[[str, Positions], None] = lambda *_: None,
        on_applied: Callable[[Sequence[StoredMessage]], None] = lambda _: None,
    ) -> None:
        self._connection = connection
        self._names = names
        self._path = path
        self._say = say
        self._on_applied = on_applied
        self._live: Projector | None = None
        self._changed = asyncio.Event()
        self._is_stopping = False
        self._rebuild: Rebuild | None = None
        self._building: asyncio.Task[bool] | None = None
        self._last = Progress("none")
        self.desk = Desk(limits or Limits())
        self.positions = Positions(0, 0)

    @property
    def live_positions(self) -> Positions | None:
        """What the live tables hold now; None while others answer."""
        return None if self._live is None else self._live.positions

    @property
    def progress(self) -> Progress:
        """Of the rebuild that runs, or of the last one."""
        return self._rebuild.progress if self._rebuild is not None else self._last

    def begin_rebuild(self, *, accept_loss: bool = False) -> None:
        """Make the tables anew, beside the live ones; one at a time, so that a second request joins the first."""
        if self._rebuild is None:
            log.info("a rebuild of %s begins", self._path)
            self._rebuild = Rebuild(self._connection, self._names, self._path, accept_loss=accept_loss)
            self._building = asyncio.create_task(self._build(self._rebuild))
            self._building.add_done_callback(self._wake)
            self._changed.set()

    def stop(self) -> None:
        """End `run` after the transaction that runs."""
        self._is_stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Serve until `stop`.

        Raises:
            ProjectionError: the tables cannot be opened, or projecting cannot go on.
        """
        try:
            while not self._is_stopping:
                try:
                    await self._serve_live()
                except OtherVersionError as error:
                    await self._serve_old(error)
        finally:
            await self._give_up()

    async def _serve_live(self) -> None:
        """Project and answer, until a stop or until new tables take the place of these."""
        projector = await Projector.open(self._connection, self._names, self._path)
        queries = Queries(
            projector.fold.reader,
            events_stream=self._names.events,
            limits=self.desk.limits,
            quietly=projector.quietly,
            version=lambda: projector.fold.positions,
        )
        projector.before_checkpoints(queries.pause)
        projector.on_applied(self._on_applied)
        self._live = projector
        running = asyncio.create_task(projector.run())
        running.add_done_callback(self._wake)
        self.desk.open(queries, projector.wait_for)
        self._say("ready", projector.positions)
        finished = False
        try:
            await self._until(lambda: running.done() or self._is_built())
            projector.stop()
            await running
            finished = await self._finish(projector.positions)
        finally:
            projector.stop()
            self._live = None
            await asyncio.gather(
                running, return_exceptions=True
            )  # Awaited above, unless this is a cancellation.
            self.positions = projector.positions
            await self.desk.close(at_once=self._is_stopping)
            await projector.close()
        if finished:
            await self._swap()

    async def _serve_old(self, found: OtherVersionError) -> None:
        """Answer from the tables of another version as they are, until those of this version have taken their place.

        Raises:
            ProjectionError: they cannot be made.
        """
        log.warning(
            "%s holds projection version %d; version %d is made from the log",
            self._path,
            found.found,
            found.wanted,
        )
        self.begin_rebuild()
        old = await self._open_old()
        finished = False
        try:
            await self._until(lambda: self._rebuild is None or self._is_built())
            finished = await self._finish(Positions(0, 0))
        finally:
            await self.desk.close(at_once=self._is_stopping)
            if old is not None:
                old.close()
        if finished:
            await self._swap()
        if self._last.state == "failed" and not self._is_stopping:
            raise ProjectionError(
                f"the tables of version {found.wanted} cannot be made: {self._last.error}"
            ) from found

    async def _open_old(self) -> Tables | None:
        """Have questions answered from the old tables; None if they cannot even be read."""
        try:
            old = await asyncio.to_thread(open_file, self._path, read_only=True)
            rows = old.execute("SELECT last_seq FROM cas_projection WHERE stream = ?", (self._names.events,))
        except (ProjectionError, StoreError) as error:
            log.warning("the old tables cannot be read meanwhile: %s", error)
            self.desk.refuse("the tables are being made anew from the log; ask again later")
            self._say("rebuilding", Positions(0, 0))
            return None
        position = int(rows[0][0]) if rows else 0
        queries = Queries(old.cursor, events_stream=self._names.events, limits=self.desk.limits)
        self.desk.open(queries, partial(self._wait_for_old, position))
        self._say("rebuilding", Positions(0, position))
        return old

    async def _wait_for_old(self, position: int, seq: int, timeout_s: float) -> None:  # noqa: ARG002 - nothing to wait for
        if seq > position:
            made = self.progress
            raise QueryError(
                f"sequence {seq} is not in the tables: they stand at {position} while they are made anew from the log "
                f"({made.messages} of {made.of})",
                reason="rebuilding",
            )

    # --- the new tables ----------------------------------------------------------------------------------------------

    def _is_built(self) -> bool:
        """Whether new tables are there, but for the newest messages."""
        return self._building is not None and self._building.done() and self._building.result()

    async def _build(self, rebuild: Rebuild) -> bool:
        try:
            await rebuild.catch_up()
        except (CasEventsError, OSError) as error:
            await self._fail(rebuild, error)
            return False
        return True

    async def _finish(self, least: Positions) -> bool:
        """Bring the new tables to where the others stopped, and close them; whether there are any."""
        if self._is_stopping or self._rebuild is None or not self._is_built():
            return False
        try:
            await self._rebuild.finish(least)
        except (CasEventsError, OSError) as error:
            await self._fail(self._rebuild, error)
            return False
        return True

    async def _swap(self) -> None:
        assert self._rebuild is not None
        rebuild = self._rebuild
        try:
            await asyncio.to_thread(files.swap, rebuild.path, self._path)
        except (CasEventsError, OSError) as error:
            await self._fail(rebuild, error)
            return
        self._last = msgspec.structs.replace(rebuild.progress, state="done", eta_s=0.0)
        self._rebuild = self._building = None
        log.info("%s has been made anew from %d messages", self._path, self._last.messages)

    async def _fail(self, rebuild: Rebuild, error: Exception) -> None:
        log.error("the rebuild of %s failed: %s", self._path, explained(error))
        self._last = msgspec.structs.replace(rebuild.progress, state="failed", error=explained(error))
        self._rebuild = self._building = None
        await rebuild.give_up()

    async def _give_up(self) -> None:
        """At the end: leave a rebuild that runs to a later one."""
        rebuild, building = self._rebuild, self._building
        self._rebuild = self._building = None
        if building is not None:
            building.cancel()
            await asyncio.gather(
                building, return_exceptions=True
            )  # A failure has been told by the building itself.
        if rebuild is not None:
            await rebuild.give_up()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not (self._is_stopping or condition()):
            await self._changed.wait()
            self._changed.clear()

    def _wake(self, _: asyncio.Task[Any]) -> None:
        self._changed.set()
