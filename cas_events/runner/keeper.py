"""The keeper: a thread with its own connection that keeps a process's leases honest.

A blocked event loop is not a dead runner, so renewals come from here; and a blocked event loop must not swallow
commands, so the pulls come from here too (PROTOCOL section 4, "While it runs"):

- it renews, and ends what runs over its time, through ``leases``;
- it pulls, through ``intake``;
- it answers other runners' question whether this process holds a task, and shows itself, through ``presence``;
- when the loop has not ticked for ``stall_s`` it ends the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from cas_events.errors import ServerError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.connection import Connection, Message
from cas_events.jetstream.reads import DecidingReads
from cas_events.observe.meter import NO_METER, Meter
from cas_events.runner.holds import Desk, Offer
from cas_events.runner.intake import Intake
from cas_events.runner.leases import Leases
from cas_events.runner.ledger import Ledger
from cas_events.runner.presence import Presence
from cas_events.runner.roster import Roster
from cas_events.runner.storage import StorageWatch
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

BEAT_S = 0.05
CLOSE_S = 5.0
STALL_EXIT_CODE = 75
RESTART_DELAY_S = 1.0
CONFIRM_S = 5.0
# A pull for each place that becomes free costs the server and this process more than the task that it brings.
WAKES_FOR_ALL = 8
WAKE_AFTER_S = 0.002


class Keeper:
    """One process's keeper thread.

    Args:
        url: of the server.
        runner_id: the process's runner token.
        names: of the deployment.
        desk: what is shared with the event loop.
        reads: the event loop's reads of commands, which are told how many replicas there are.
        roster: the agents to pull for and to answer for.
        on_offer: called on ``loop`` with each offered delivery.
        loop: the runner's event loop.
        stall_s: how long the loop may not tick before the process is ended.
        meter: told what happens.
        word_of: what clients are told of an agent that ask whether it is served.
    """

    def __init__(
        self,
        *,
        url: str,
        runner_id: str,
        names: Names,
        desk: Desk,
        reads: DecidingReads,
        roster: Roster,
        on_offer: Callable[[Offer], None],
        loop: asyncio.AbstractEventLoop,
        stall_s: float,
        word_of: Callable[[str], dict[str, Any]],
        meter: Meter = NO_METER,
    ) -> None:
        self._url = url
        self._runner_id = runner_id
        self._names = names
        self._desk = desk
        self._roster = roster
        self._roster_version = 0  # carried out here
        self._followed_version = 0  # and by the server
        self._confirming: asyncio.Task[None] | None = None
        self._on_offer = on_offer
        self._main_loop = loop
        self._stall_s = stall_s
        self._meter = meter
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="cas-keeper", daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._leases = Leases(names, desk, loop=loop, publish=self._publish, meter=meter)
        self._wake_is_due = False
        self.storage = StorageWatch(names, reads)
        self._intake = Intake(
            desk=desk,
            storage=self.storage,
            on_offer=on_offer,
            loop=loop,
            send=self._publish,
            meter=meter,
        )
        self._presence = Presence(
            names,
            runner_id,
            roster,
            desk=desk,
            is_pulling=lambda: self._intake.is_pulling,
            publish=self._publish,
            word_of=word_of,
        )

    # --- called from the event loop ------------------------------------------------------------------------------------

    async def start(self, *, timeout_s: float = 10.0) -> None:
        """Start the thread and wait until it pulls.

        Raises:
            ServerError: it could not connect within ``timeout_s``.
        """
        self._thread.start()
        # Not in a pool's thread: agents may have taken all of them.
        deadline_s = time.monotonic() + timeout_s
        while not self._ready.is_set():
            if time.monotonic() > deadline_s:
                raise ServerError("the keeper thread could not connect in time")
            await asyncio.sleep(BEAT_S / 5)

    async def followed(self, version: int) -> None:
        """Wait until the roster's changes up to a version are carried out.

        Raises:
            ServerError: the thread is gone.
        """
        while self._followed_version < version:
            self.require_alive()
            await asyncio.sleep(BEAT_S / 5)

    def tick(self) -> None:
        """Say that the event loop runs."""
        self._desk.loop_ticked_s = time.monotonic()

    @property
    def is_connected(self) -> bool:
        """Whether its connection is up; from any thread."""
        connection = self._connection
        return connection is not None and connection.is_connected

    def require_alive(self) -> None:
        """Check that the thread runs.

        Raises:
            ServerError: it has been started and is gone.
        """
        if self._thread.ident is not None and not self._thread.is_alive() and not self._is_closing:
            raise ServerError("the keeper thread is gone; without it every lease would run out")

    def place_freed(self) -> None:
        """A place is free again; wake the keeper if it was waiting for one: for several at a time, but soon."""
        if not self._intake.is_hungry or self._wake_is_due:
            return
        if self._desk.free_places * WAKES_FOR_ALL >= self._desk.places:
            self._wake()
        else:
            self._wake_is_due = True
            self._main_loop.call_later(WAKE_AFTER_S, self._wake)

    def _wake(self) -> None:
        self._wake_is_due = False
        if self._intake.is_hungry and self._loop is not None:
            self._intake.is_hungry = False
            with suppress(RuntimeError):  # Its loop is closed: it ends, or starts anew and asks by itself.
                self._loop.call_soon_threadsafe(self._intake.ask)

    def stop_pulling(self) -> None:
        """Ask for nothing more, and give back what was offered and not taken."""
        self._intake.is_pulling = False

    async def close(self) -> None:
        """End the thread."""
        self._is_closing = True
        deadline_s = time.monotonic() + CLOSE_S
        while self._thread.is_alive() and time.monotonic() < deadline_s:  # noqa: ASYNC110 - a thread tells nobody of its end
            await asyncio.sleep(BEAT_S / 5)

    # --- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Supervise: whatever goes wrong is logged, and the keeper starts anew."""
        while not self._is_closing:
            try:
                asyncio.run(self._keep())
            except (
                Exception
            ):  # The keeper must outlive any fault of its own: without it every lease runs out.
                _log.exception("keeper failed, starting anew runner=%s", self._runner_id)
                time.sleep(RESTART_DELAY_S)

    async def _keep(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with await Connection.open(self._url, name=f"cas-keeper-{self._runner_id}") as connection:
            self._connection = connection
            js = JetStream(connection)
            ledger = Ledger(js, self._names, BlobStore(js, self._names.blob_bucket), self._meter)
            await connection.subscribe(self._names.runner_service(self._runner_id), self._answer_owner)
            await self._presence.open(connection)
            self._intake.open(js)
            self._roster_version, self._confirming = 0, None
            self._follow_roster()
            await self.storage.refresh(js)
            self._ready.set()
            try:
                await self._beat(js, ledger)
            finally:
                await self._presence.close()
                await self._intake.close()

    async def _beat(self, js: JetStream, ledger: Ledger) -> None:
        """Until told to close: give back, ask, renew, watch."""
        while not self._is_closing:
            self._end_if_stalled()
            self._follow_roster()
            self._intake.give_back_untaken()
            self._intake.ask()
            self._leases.renew_due(js, ledger)
            self._presence.beat_if_due()
            self.storage.refresh_if_due(js)
            await asyncio.sleep(BEAT_S)
        await self._leases.settle(timeout_s=1.0)

    def _end_if_stalled(self) -> None:
        stalled_s = time.monotonic() - self._desk.loop_ticked_s
        if stalled_s > self._stall_s:
            _log.critical("the event loop has not run for %.0f s; ending the process", stalled_s)
            os._exit(STALL_EXIT_CODE)

    # --- services ------------------------------------------------------------------------------------------------------

    def _follow_roster(self) -> None:
        """Pull for what is on the roster now, and answer for what is served."""
        version = self._roster.version
        if version != self._roster_version:
            self._intake.pull_from(self._roster.sources)
            self._presence.follow_roster()
            self._roster_version = version
        if version != self._followed_version and (self._confirming is None or self._confirming.done()):
            self._confirming = asyncio.get_running_loop().create_task(self._confirm(version))

    async def _confirm(self, version: int) -> None:
        """What others ask from now on reaches a server that knows what is answered here."""
        assert self._connection is not None
        try:
            await self._connection.flush(CONFIRM_S)
        except ServerError as error:
            _log.debug("roster %d not confirmed yet: %s", version, error)
        else:
            self._followed_version = version

    def _answer_owner(self, request: Message) -> None:
        """Another runner asks: ``{"task", "fence"}``; answer ``{"mine": bool}``."""
        try:
            question = msgspec.json.decode(request.data, type=_OwnerQuestion)
        except msgspec.DecodeError:
            return
        mine = any(
            hold.task_id == question.task and hold.fence_seq == question.fence and not hold.is_lost
            for hold in list(self._desk.holds.values())
        )
        # A blocked loop may not have seen yet that its `started` is stored: that is not a dead runner either.
        mine = mine or any(task_id == question.task for _, task_id in list(self._desk.claims))
        self._publish(request.reply, msgspec.json.encode({"mine": mine}))

    def _publish(self, subject: str, payload: bytes) -> None:
        """Publish, or not: everything sent here is repeated by whoever needs it."""
        if not subject or self._connection is None:
            return
        try:
            self._connection.publish(subject, payload)
        except ServerError as error:
            _log.debug("not sent to %s: %s", subject, error)


class _OwnerQuestion(msgspec.Struct):
    """What a runner asks the one that wrote `started`."""

    task: str
    fence: int
