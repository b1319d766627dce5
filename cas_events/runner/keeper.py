"""The keeper: a thread with its own connection that keeps a process's leases honest.

A blocked event loop is not a dead runner, so renewals come from here; and a blocked event loop must not swallow
commands, so the pulls come from here too (PROTOCOL section 4, "While it runs"):

- before each renewal it reads the task's last lifecycle event and stops for good when that is not its fence;
- at ``timeout_s`` and the grace it appends `failed`/`timeout` itself, under the same lock;
- it pulls, through ``intake``;
- it answers other runners' question whether this process holds a task, and clients' whether an agent is served;
- when the loop has not ticked for ``stall_s`` it ends the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from cas_events.domain import events
from cas_events.errors import CasEventsError, ServerError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.connection import Connection, Message
from cas_events.jetstream.queue import ACK, WPI, nak
from cas_events.jetstream.reads import DecidingReads
from cas_events.observe.meter import NO_METER, Meter
from cas_events.runner.holds import Desk, Hold, Offer, Source
from cas_events.runner.intake import Intake
from cas_events.runner.ledger import Ledger, LostRaceError
from cas_events.runner.presence import Presence
from cas_events.runner.storage import StorageWatch
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

BEAT_S = 0.05
CLOSE_S = 5.0
STALL_EXIT_CODE = 75
RESTART_DELAY_S = 1.0
RENEWALS_AT_ONCE = 64
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
        sources: the consumers to pull from.
        on_offer: called on ``loop`` with each offered delivery.
        loop: the runner's event loop.
        stall_s: how long the loop may not tick before the process is ended.
        meter: told what happens.
        words: by agent, what clients are told that ask whether it is served.
    """

    def __init__(
        self,
        *,
        url: str,
        runner_id: str,
        names: Names,
        desk: Desk,
        reads: DecidingReads,
        sources: Sequence[Source],
        on_offer: Callable[[Offer], None],
        loop: asyncio.AbstractEventLoop,
        stall_s: float,
        words: Mapping[str, dict[str, Any]],
        meter: Meter = NO_METER,
    ) -> None:
        self._url = url
        self._runner_id = runner_id
        self._names = names
        self._desk = desk
        self._sources = sources
        self._on_offer = on_offer
        self._main_loop = loop
        self._stall_s = stall_s
        self._meter = meter
        self._words = words
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="cas-keeper", daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._renewing: set[asyncio.Task[None]] = set()
        self._wake_is_due = False
        self.storage = StorageWatch(names, reads)
        self._intake = Intake(
            desk=desk,
            sources=sources,
            storage=self.storage,
            on_offer=on_offer,
            loop=loop,
            send=self._publish,
            meter=meter,
        )
        self._agent_ids = sorted({source.agent_id for source in sources if source.agent_id})
        self._presence = Presence(
            names,
            runner_id,
            self._agent_ids,
            desk=desk,
            is_pulling=lambda: self._intake.is_pulling,
            publish=self._publish,
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
            await self._answer_services(connection)
            self._intake.open(js)
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
            self._intake.give_back_untaken()
            self._intake.ask()
            self._renew_due(js, ledger)
            self._presence.beat_if_due()
            self.storage.refresh_if_due(js)
            await asyncio.sleep(BEAT_S)
        if self._renewing:
            await asyncio.wait(self._renewing, timeout=1.0)

    def _end_if_stalled(self) -> None:
        stalled_s = time.monotonic() - self._desk.loop_ticked_s
        if stalled_s > self._stall_s:
            _log.critical("the event loop has not run for %.0f s; ending the process", stalled_s)
            os._exit(STALL_EXIT_CODE)

    # --- services ------------------------------------------------------------------------------------------------------

    async def _answer_services(self, connection: Connection) -> None:
        await connection.subscribe(self._names.runner_service(self._runner_id), self._answer_owner)
        for agent_id in self._agent_ids:
            await connection.subscribe(self._names.agent_service(agent_id), self._answer_agent)
        await self._presence.open(connection)

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

    def _answer_agent(self, request: Message) -> None:
        if self._intake.is_pulling:
            agent_id = request.subject.rpartition(".")[2]
            word = {"runner": self._runner_id, **self._words.get(agent_id, {})}
            self._publish(request.reply, msgspec.json.encode(word))

    def _publish(self, subject: str, payload: bytes) -> None:
        """Publish, or not: everything sent here is repeated by whoever needs it."""
        if not subject or self._connection is None:
            return
        try:
            self._connection.publish(subject, payload)
        except ServerError as error:
            _log.debug("not sent to %s: %s", subject, error)

    # --- the leases ----------------------------------------------------------------------------------------------------

    def _renew_due(self, js: JetStream, ledger: Ledger) -> None:
        now_s = time.monotonic()
        for hold in list(self._desk.holds.values()):
            if hold.is_lost or len(self._renewing) >= RENEWALS_AT_ONCE:
                continue
            if hold.deadline_s is not None and now_s > hold.deadline_s:
                hold.deadline_s = None
                self._spawn_renewal(self._fail_timed_out(ledger, hold))
            elif now_s >= hold.renew_at_s:
                hold.renew_at_s = now_s + hold.ack_wait_s / 3
                self._spawn_renewal(self._renew(js, hold))

    def _spawn_renewal(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._renewing.add(task)
        task.add_done_callback(self._renewed)

    def _renewed(self, task: asyncio.Task[None]) -> None:
        self._renewing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a renewal failed", exc_info=task.exception())

    async def _renew(self, js: JetStream, hold: Hold) -> None:
        """Renew one lease, if the task is still ours; without a read there is no renewal."""
        try:
            last = await js.last_message(
                self._names.events, hold.lifecycle_subject, timeout_s=hold.ack_wait_s / 3
            )
        except CasEventsError as error:
            hold.renew_at_s = time.monotonic() + BEAT_S
            _log.debug("lease not renewed task=%s: %s", hold.task_id, error)
            return
        if last is None or last.seq != hold.fence_seq:
            self._lose(hold)
        elif hold.key in self._desk.holds:
            self._publish(hold.delivery.reply, WPI)

    def _lose(self, hold: Hold) -> None:
        hold.is_lost = True
        self._meter.fenced(hold.agent_id)
        self._main_loop.call_soon_threadsafe(hold.on_lost)

    async def _fail_timed_out(self, ledger: Ledger, hold: Hold) -> None:
        """The event loop did not end a task in time: end it from here, under the same lock."""
        try:
            await ledger.append(
                hold.encoder,
                events.FAILED,
                agent_id=hold.agent_id,
                index=next(hold.indexes),
                time_ns=time.time_ns(),
                members={
                    "tries": hold.tries,
                    "command_seq": hold.command_seq,
                    "error": {
                        "type": "TimeoutError",
                        "message": f"the attempt ran longer than {hold.timeout_s:g} s",
                    },
                    "reason": "timeout",
                },
                expected_seq=hold.fence_seq,
            )
        except LostRaceError:
            _log.info("task %s ended before its timeout was stored", hold.task_id)
        except CasEventsError as error:
            hold.deadline_s = time.monotonic() + RESTART_DELAY_S
            _log.warning("the timeout of task %s is not stored yet: %s", hold.task_id, error)
            return
        else:
            # Whoever gets it next ends the children and passes the slot on; from here that would take too long.
            self._publish(hold.delivery.reply, nak(0) if hold.must_be_settled else ACK)
        self._lose(hold)


class _OwnerQuestion(msgspec.Struct):
    """What a runner asks the one that wrote `started`."""

    task: str
    fence: int
