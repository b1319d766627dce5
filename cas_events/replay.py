"""Reading the log as events, oldest first: for audits, for tools, and to see again how it went."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import NamedTuple

from cas_events.domain.events import Event
from cas_events.domain.tokens import require_token
from cas_events.errors import UnknownTaskError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.reader import StreamReader
from cas_events.selection import Selection
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)


class Span(NamedTuple):
    """A range of sequences, both ends in it; None: up to the newest one of now."""

    from_seq: int = 1
    to_seq: int | None = None


async def replay_events(
    connection: Connection,
    js: JetStream,
    names: Names,
    selection: Selection,
    *,
    task_id: str | None,
    span: Span,
    follow: bool,
) -> AsyncIterator[Event]:
    """Yield stored events; see `Client.replay`.

    Raises:
        UnknownTaskError: a task is asked for that is not in the log.
    """
    stream = selection.stream(names)
    end_seq = (await js.stream_info(stream)).state.last_seq
    if span.to_seq is not None:
        end_seq = min(end_seq, span.to_seq)
    filters = await _filters(js, names, selection, task_id)
    if not follow and end_seq < span.from_seq:
        return
    async with StreamReader(connection, stream, filters=filters, from_seq=span.from_seq) as reader:
        async for batch in reader.batches():
            for message in batch.messages:
                if not follow and message.seq > end_seq:
                    return
                try:
                    event = decode_event(message.data, seq=message.seq, stream=message.stream)
                except WireError as error:
                    _log.warning("skipped a foreign message: %s", error)
                    continue
                if selection.matches(event):
                    yield event
            if not follow and (not batch.pending or reader.next_seq > end_seq):
                return


async def _filters(js: JetStream, names: Names, selection: Selection, task_id: str | None) -> list[str]:
    if task_id is not None and not selection.agent_id:
        command = await js.next_message(names.commands, names.execute("*", require_token("task id", task_id)))
        if command is None:
            raise UnknownTaskError(task_id)
        selection = Selection(command.subject.split(".")[3], selection.type)
    return selection.subject_filters(names, task_id)


class Pace:
    """When each event is due: as far apart as the events were made, or faster. Pure.

    Args:
        speed: 1.0 as it happened, 10.0 ten times as fast.
        pause_max_s: no two events are further apart than this, in seconds of the replay; None for no bound.
    """

    def __init__(self, speed: float, pause_max_s: float | None = None) -> None:
        self._speed = speed
        self._pause_max_s = pause_max_s
        self._last: datetime | None = None
        self._due_s = 0.0

    def due_s(self, moment: datetime) -> float:
        """Seconds from the first event of the replay to one of this time; never less than for the one before."""
        if self._last is not None:
            pause_s = max(0.0, (moment - self._last).total_seconds() / self._speed)
            self._due_s += pause_s if self._pause_max_s is None else min(pause_s, self._pause_max_s)
        self._last = moment if self._last is None else max(self._last, moment)
        return self._due_s


async def paced(events: AsyncIterator[Event], pace: Pace) -> AsyncIterator[Event]:
    """The events, each when it is due."""
    loop = asyncio.get_running_loop()
    began_s: float | None = None
    async for event in events:
        due_s = pace.due_s(event.time)
        began_s = loop.time() if began_s is None else began_s
        await asyncio.sleep(max(0.0, began_s + due_s - loop.time()))
        yield event


def moment_of(value: datetime | str) -> datetime:
    """A time as an aware one in UTC; one without an offset is UTC.

    Raises:
        ValueError: it is no time in ISO 8601.
    """
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
