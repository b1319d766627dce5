"""Following one task: all its events, once and in order, live or late (promise 6).

The order is decided by the pure ``domain.follow.Sequencer``; this module feeds it from live messages and from the log.
Memory is bounded: the log is read in pages, no further than the reader of the stream can keep up with, and live
messages that nobody takes are left to the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

from cas_events.domain.events import GAP, Event
from cas_events.domain.follow import Gap, Sequencer
from cas_events.errors import NotConnectedError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Message
from cas_events.jetstream.patience import patiently
from cas_events.live import LiveHub
from cas_events.task_log import TaskLog
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

# An output travels in another stream than the events around it; it is given this long before the log is read.
HOLE_PATIENCE_S = 0.2
# No publisher tries longer than this to store an event, so an older hole stays one.
HOLE_FINAL_S = 35.0
_NEVER = datetime.min.replace(tzinfo=UTC)
BUFFERED_EVENTS_MAX = 10_000
# With so many events that nobody has taken yet, the log is not read on.
READ_AHEAD_EVENTS = 1_000


class EventStream(AsyncIterator[Event]):
    """All events of one task, ending with the terminal one; an item of type ``cas.gap`` stands for what is missing.

    Dropping the iterator leaves nothing behind; `aclose` does so at once.

    Args:
        hub: the client's live subscriptions.
        js: its JetStream.
        names: of the deployment.
        agent_id: the task's agent.
        task_id: the task.
        begin: awaited once, when the iteration begins and the stream listens already.
    """

    wants_all = True

    def __init__(
        self,
        hub: LiveHub,
        js: JetStream,
        names: Names,
        agent_id: str,
        task_id: str,
        *,
        begin: Callable[[EventStream], Awaitable[None]],
    ) -> None:
        self._hub = hub
        self._js = js
        self._names = names
        self.agent_id = agent_id
        self.task_id = task_id
        self._begin: Callable[[EventStream], Awaitable[None]] | None = begin
        self._sequencer = Sequencer()
        self._stored = TaskLog(js, names, agent_id, task_id)
        self._gaps_told = 0
        self._ready: deque[Event] = deque()
        self._wakeup: asyncio.Future[None] | None = None
        self._looking = asyncio.Lock()
        self._patience: asyncio.TimerHandle | None = None
        self._is_behind = False
        self._look_again = False
        self._is_over = False
        self._is_closed = False
        self._is_cut_off = False

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """What is missing among the events so far: outputs that retention took, telemetry that the server refused.

        Each is also an item of the stream, of type ``cas.gap``, before the event that follows it; see `Event`.
        """
        return tuple(self._sequencer.gaps)

    # --- the iterator ----------------------------------------------------------------------------------------------------

    async def resume_after(self, seq: int) -> None:
        """Deliver only what follows what the task had stored at this `CAS_EVENTS` sequence; 0 for everything."""
        if seq <= 0 or self._is_closed:
            return
        last = await self._stored.last_until(seq)
        if last is not None:
            self._sequencer = Sequencer(after=(last.attempt, last.index))
            self._is_over = last.is_terminal  # The reader has seen the end already.

    async def __anext__(self) -> Event:
        if self._begin is not None and not self._is_closed:
            begin, self._begin = self._begin, None
            self._hub.add(self)  # First listen, then begin: what is published from now on is not missed.
            try:
                await begin(self)
            except BaseException:
                self._close()
                raise
        while not self._ready:
            if self._is_cut_off:
                raise NotConnectedError(f"the client was closed while task {self.task_id} went on")
            if self._is_closed or self._is_over or self._sequencer.is_done:
                await self.aclose()
                raise StopAsyncIteration
            if self._is_behind:
                self._is_behind = False
                await patiently(self.look)
                continue
            self._wakeup = asyncio.get_running_loop().create_future()
            try:
                await self._wakeup
            finally:
                self._wakeup = None
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Stop following; the task itself goes on."""
        self._close()

    def end(self) -> None:
        """The client is closed: nothing comes any more."""
        self._is_cut_off = not (self._is_closed or self._is_over or self._sequencer.is_done)
        self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._patience is not None:
            self._patience.cancel()
        self._hub.remove(self)
        self._wake()

    # --- what arrives ----------------------------------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """Take a live message."""
        if self._is_behind or len(self._ready) >= BUFFERED_EVENTS_MAX:
            self._is_behind = True  # Read from the log once the buffer has been taken.
            return
        stream = message.header_value("Nats-Stream") or self._names.events
        seq = int(message.header_value("Nats-Sequence") or 0)
        self._offer(message.data, stream=stream, seq=seq)
        if not self._sequencer.is_waiting:
            return
        if self._sequencer.is_urgent:
            self._hub.spawn(self._look_if_waiting())
        elif self._patience is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(HOLE_PATIENCE_S, self._run_out_of_patience)

    def _run_out_of_patience(self) -> None:
        self._patience = None
        self._hub.spawn(self._look_if_waiting())

    async def _look_if_waiting(self) -> None:
        if self._sequencer.is_waiting:
            await self.look()

    async def look(self) -> None:
        """Read what the log has of the task and this stream has not seen."""
        self._look_again = True
        if self._looking.locked():
            return  # What is being read may be older than what this call is about: it is read once more then.
        async with self._looking:
            while self._look_again and not self._is_closed:
                self._look_again = False
                await self._look_once()

    async def _look_once(self) -> None:
        self._stored.begin()
        while not (self._stored.is_read or self._is_closed):
            if len(self._ready) >= READ_AHEAD_EVENTS:
                self._is_behind = True
                return
            await self._read_page()
        self._look_again = self._look_again or self._sequencer.is_urgent

    async def _read_page(self) -> None:
        # Only what was known before the outputs are read proves that they are complete below it.
        known = self._sequencer.last_lifecycle
        for event in await self._stored.page():
            self._take(event)
        # What a replica did not have yet, the leader has.
        while self._sequencer.is_waiting and (newest := await self._stored.newest()) is not None:
            self._take(newest)
        proven = known if self._stored.has_outputs_below(known) else (0, 0)
        proven = max(proven, self._stored.settled(HOLE_FINAL_S))
        # By the clock of who made it only once there is nothing left to read.
        age = timedelta(seconds=HOLE_FINAL_S)
        final_before = datetime.now(UTC) - age if self._stored.is_read else _NEVER
        self._deliver(self._sequencer.settle(final_before=final_before, proven=proven))

    def _offer(self, data: bytes, *, stream: str, seq: int) -> None:
        try:
            event = decode_event(data, seq=seq, stream=stream)
        except WireError as error:
            _log.warning("ignored a foreign message of task %s: %s", self.task_id, error)
            return
        self._take(event)

    def _take(self, event: Event) -> None:
        if event.is_duplicate_rejection and not self._is_over:
            self._is_over = True  # This agent's use of the id was the second one; there is no task to follow.
            self._ready.append(event)
            self._wake()
        self._deliver(self._sequencer.offer(event))

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            self._tell_gaps_before(event)
            self._ready.append(event)
        if events or self._sequencer.is_done:
            self._wake()

    def _tell_gaps_before(self, event: Event) -> None:
        while self._gaps_told < len(self._sequencer.gaps):
            gap = self._sequencer.gaps[self._gaps_told]
            if (gap.attempt, gap.last_index) > (event.attempt, event.index):
                return
            self._gaps_told += 1
            self._ready.append(_gap_item(gap, event))

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


def _gap_item(gap: Gap, event: Event) -> Event:
    """The item that stands for a gap, before the event that follows it."""
    return Event(
        type=GAP,
        task_id=event.task_id,
        agent_id=event.agent_id,
        attempt=gap.attempt,
        index=gap.first_index,
        time=event.time,
        data={"from_index": gap.first_index, "to_index": gap.last_index},
        seq=0,
        stream="",
    )
