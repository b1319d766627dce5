"""Following one task: its result, or all its events in order, live or late.

`ResultWaiter` wants only the terminal event. `EventStream` wants everything, once and in order (promise 6); the
order is decided by the pure ``domain.follow.Sequencer``, this module feeds it from live messages and from the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Self

from cas_events.domain.events import Event
from cas_events.domain.follow import Gap, Key, Sequencer
from cas_events.errors import NotConnectedError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Message
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently
from cas_events.live import LiveHub
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

# An output travels in another stream than the events around it; it is given this long before the log is read.
HOLE_PATIENCE_S = 0.2
# No publisher tries longer than this to store an event, so an older hole stays one.
HOLE_FINAL_S = 35.0
BUFFERED_EVENTS_MAX = 10_000
_STARTED = b'"type":"cas.task.started"'
_HEAD_BYTES = 200  # our envelopes begin with specversion, id and type; data comes later than this


class ResultWaiter:
    """Waits for one task's terminal event.

    Args:
        hub: the client's live subscriptions.
        js: its JetStream.
        names: of the deployment.
        agent_id: the task's agent.
        task_id: the task.
    """

    wants_all = False

    def __init__(self, hub: LiveHub, js: JetStream, names: Names, agent_id: str, task_id: str) -> None:
        self._hub = hub
        self._js = js
        self._names = names
        self.agent_id = agent_id
        self.task_id = task_id
        self._terminal: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Self:
        self._hub.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.remove(self)
        self._terminal.cancel()

    async def wait(self) -> Event:
        """The terminal event."""
        return await self._terminal

    def receive(self, message: Message) -> None:
        """Take a live message."""
        if _STARTED in message.data[:_HEAD_BYTES]:
            return  # Every task's first event, and never what is waited for: not worth decoding.
        self._offer(message.data, seq=int(message.header_value("Nats-Sequence") or 0))

    def end(self) -> None:
        """The client is closed: nothing comes any more."""
        if not self._terminal.done():
            self._terminal.set_exception(
                NotConnectedError(f"the client was closed while task {self.task_id} went on")
            )
            self._terminal.exception()  # Nobody has to wait for it.

    async def look(self) -> None:
        """Read the task's last lifecycle event."""
        if self._terminal.done():
            return
        subject = self._names.lifecycle(self.agent_id, self.task_id)
        message = await self._js.last_message(self._names.events, subject)
        if message is not None:
            self._offer(message.data, seq=message.seq)

    def _offer(self, data: bytes, *, seq: int) -> None:
        try:
            event = decode_event(data, seq=seq, stream=self._names.events)
        except WireError as error:
            _log.warning("ignored a foreign message of task %s: %s", self.task_id, error)
            return
        # A rejected duplicate is what the second user of an id waits for, too.
        if (event.is_terminal or event.is_duplicate_rejection) and not self._terminal.done():
            self._terminal.set_result(event)


class EventStream(AsyncIterator[Event]):
    """All events of one task, ending with the terminal one.

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
        self._next_seq = {names.events: 0, names.output: 1}
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
        """What is missing among the events so far: outputs that retention took, telemetry that the server refused."""
        return tuple(self._sequencer.gaps)

    # --- the iterator ----------------------------------------------------------------------------------------------------

    async def resume_after(self, seq: int) -> None:
        """Deliver only what follows what the task had stored at this `CAS_EVENTS` sequence; 0 for everything."""
        if seq > 0 and not self._is_closed:
            self._sequencer = Sequencer(after=await self._key_at(seq))

    async def _key_at(self, seq: int) -> Key | None:
        """The (attempt, index) of the event there; of the task's last one before it if it is somebody else's."""
        stream = self._names.events
        there = await self._js.message(stream, seq)
        event = None if there is None else _decoded(there)
        if event is not None and (event.agent_id, event.task_id) == (self.agent_id, self.task_id):
            return event.attempt, event.index
        key, from_seq, more = None, 1, True
        while more:
            subject_filter = self._names.event("*", self.agent_id, self.task_id)
            messages, more = await self._js.direct_batch(stream, subject_filter, from_seq=from_seq)
            for message in messages:
                if message.seq > seq:
                    return key
                event = _decoded(message)
                if event is not None:
                    key = max(key or (0, 0), (event.attempt, event.index))
            more = more and bool(messages)
            from_seq = messages[-1].seq + 1 if messages else from_seq
        return key

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
        if len(self._ready) >= BUFFERED_EVENTS_MAX:
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
        if len(self._ready) >= BUFFERED_EVENTS_MAX:
            self._is_behind = True
            return
        await self._read_events()
        # Only what was known before the outputs are read proves that they are complete below it.
        proven = self._sequencer.last_lifecycle
        await self._read_stream(self._names.output, self._names.out(self.agent_id, self.task_id))
        final_before = datetime.now(UTC) - timedelta(seconds=HOLE_FINAL_S)
        self._deliver(self._sequencer.settle(final_before=final_before, proven=proven))
        self._look_again = self._look_again or self._sequencer.is_urgent

    async def _read_events(self) -> None:
        stream = self._names.events
        if self._next_seq[stream] == 0:
            lifecycle = self._names.lifecycle(self.agent_id, self.task_id)
            first = await self._js.next_message(stream, lifecycle)
            if first is None:
                return
            self._next_seq[stream] = first.seq
        await self._read_stream(stream, self._names.event("*", self.agent_id, self.task_id))

    async def _read_stream(self, stream: str, subject_filter: str) -> None:
        """Offer the stored messages from the position on: in batches first, then up to the leader's last."""
        more = True
        while more:
            messages, more = await self._js.direct_batch(
                stream, subject_filter, from_seq=self._next_seq[stream]
            )
            for message in messages:
                self._offer_stored(message)
        while self._sequencer.is_waiting:
            newest = await self._js.next_message(stream, subject_filter, from_seq=self._next_seq[stream])
            if newest is None:
                return
            self._offer_stored(newest)

    def _offer_stored(self, message: StoredMessage) -> None:
        self._next_seq[message.stream] = message.seq + 1
        self._offer(message.data, stream=message.stream, seq=message.seq)

    def _offer(self, data: bytes, *, stream: str, seq: int) -> None:
        try:
            event = decode_event(data, seq=seq, stream=stream)
        except WireError as error:
            _log.warning("ignored a foreign message of task %s: %s", self.task_id, error)
            return
        if event.is_duplicate_rejection and not self._is_over:
            self._is_over = True  # This agent's use of the id was the second one; there is no task to follow.
            self._ready.append(event)
            self._wake()
        self._deliver(self._sequencer.offer(event))

    def _deliver(self, events: list[Event]) -> None:
        self._ready.extend(events)
        if events or self._sequencer.is_done:
            self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


def _decoded(message: StoredMessage) -> Event | None:
    try:
        return decode_event(message.data, seq=message.seq, stream=message.stream)
    except WireError:
        return None
