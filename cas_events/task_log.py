"""What the log holds of one task, read in pages: `CAS_EVENTS` and `CAS_OUTPUT` side by side.

Invariants: the two streams advance together by (attempt, index), so that whoever puts them in order has to hold no
more than about a page; what is read once is not read again. Direct gets, never a consumer: followers cost the server
nothing while they wait. The order itself is `domain.follow`'s.
"""

from __future__ import annotations

import logging
from collections import deque
from datetime import UTC, datetime, timedelta

from cas_events.domain.events import Event
from cas_events.domain.follow import Key
from cas_events.errors import WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TaskLog:
    """Reads one task's stored messages.

    Args:
        js: the client's JetStream.
        names: of the deployment.
        agent_id: the task's agent.
        task_id: the task.
    """

    def __init__(self, js: JetStream, names: Names, agent_id: str, task_id: str) -> None:
        self._js = js
        self._names = names
        self._agent_id = agent_id
        self._task_id = task_id
        self._lifecycle = names.lifecycle(agent_id, task_id)
        self._events = _Side(js, names.events, names.event("*", agent_id, task_id), next_seq=0)
        self._outputs = _Side(js, names.output, names.out(agent_id, task_id), next_seq=1)
        self._last = self._events
        self._marks: deque[tuple[datetime, Key]] = deque()
        self._settled: Key = (0, 0)

    @property
    def is_read(self) -> bool:
        """Whether both streams have been read to their ends since `begin`."""
        return self._events.is_read and self._outputs.is_read

    def settled(self, publish_s: float) -> Key:
        """Below this nothing can come any more: what was read so far goes on long enough behind it.

        Args:
            publish_s: how long a publisher may try to store an event. Measured by when events were stored, since the
                clocks of those that made them may be wrong.
        """
        read_until = min(self._events.read_until, self._outputs.read_until)
        while self._marks and self._marks[0][0] + timedelta(seconds=publish_s) <= read_until:
            self._settled = max(self._settled, self._marks.popleft()[1])
        return self._settled

    def has_outputs_below(self, key: Key) -> bool:
        """Whether all outputs below a lifecycle event that was known before the last page have been read."""
        outputs = self._outputs
        return outputs.last_key > key or (outputs.is_read and self._last is outputs)

    def begin(self) -> None:
        """Read on, from where the last page ended: there may be more by now."""
        self._events.is_read = self._outputs.is_read = False

    async def page(self) -> list[Event]:
        """The next page, of the stream that is behind the other one."""
        events, outputs = self._events, self._outputs
        if events.next_seq == 0:
            await self._find_first()
        if events.is_read or (events.last_key > outputs.last_key and not outputs.is_read):
            self._last = outputs
        else:
            self._last = events
            outputs.is_read = False  # They may have been read before these events were stored.
        found = await self._last.page()
        self._marks.append((self._last.last_time, self._last.last_key))
        return found

    async def newest(self) -> Event | None:
        """The next event behind a stream that was read to its end, from the leader; None if there is none."""
        return await self._last.newest() if self._last.is_read else None

    async def last_until(self, seq: int) -> Event | None:
        """The event at a sequence of `CAS_EVENTS`; if that is none of the task's, its last one before."""
        stream = self._names.events
        there = await self._js.message(stream, seq)
        event = None if there is None else _decoded(there)
        if event is not None and (event.agent_id, event.task_id) == (self._agent_id, self._task_id):
            return event
        side = _Side(self._js, stream, self._names.event("*", self._agent_id, self._task_id), next_seq=1)
        last: Event | None = None
        while not side.is_read:
            for event in await side.page():
                if event.seq > seq:
                    return last
                last = event if last is None or _key(event) > _key(last) else last
        return last

    async def _find_first(self) -> None:
        """Where the task begins; a read of one subject is much cheaper than one with a wildcard from the start."""
        first = await self._js.next_message(self._names.events, self._lifecycle)
        if first is None:
            self._events.is_read = True
        else:
            self._events.next_seq = first.seq


class _Side:
    """One of the two streams."""

    def __init__(self, js: JetStream, stream: str, subject_filter: str, *, next_seq: int) -> None:
        self._js = js
        self._stream = stream
        self._filter = subject_filter
        self.last_time = _EPOCH
        self.next_seq = next_seq
        self.last_key: Key = (0, 0)
        self.is_read = False

    @property
    def read_until(self) -> datetime:
        return datetime.now(UTC) if self.is_read else self.last_time

    async def page(self) -> list[Event]:
        messages, more = await self._js.direct_batch(self._stream, self._filter, from_seq=self.next_seq)
        self.is_read = not more
        return [event for event in map(self._take, messages) if event is not None]

    async def newest(self) -> Event | None:
        while True:
            from_seq = max(1, self.next_seq)
            message = await self._js.next_message(self._stream, self._filter, from_seq=from_seq)
            event = None if message is None else self._take(message)
            if message is None or event is not None:
                return event

    def _take(self, message: StoredMessage) -> Event | None:
        self.next_seq = message.seq + 1
        self.last_time = datetime.fromtimestamp(message.time_ns / 1e9, UTC)
        event = _decoded(message)
        if event is not None:
            self.last_key = max(self.last_key, _key(event))
        return event


def _key(event: Event) -> Key:
    return event.attempt, event.index


def _decoded(message: StoredMessage) -> Event | None:
    try:
        return decode_event(message.data, seq=message.seq, stream=message.stream)
    except WireError as error:
        _log.warning("ignored a foreign message of a task: %s", error)
        return None
