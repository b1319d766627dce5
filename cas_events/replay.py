"""Reading the log as events, oldest first, for audits and for tails."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from cas_events.domain.events import Event
from cas_events.domain.tokens import require_token
from cas_events.errors import UnknownTaskError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.reader import StreamReader
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)


async def replay_events(
    connection: Connection,
    js: JetStream,
    names: Names,
    *,
    task_id: str | None,
    agent_id: str | None,
    from_seq: int,
    follow: bool,
) -> AsyncIterator[Event]:
    """Yield stored events; see `Client.replay`.

    Raises:
        UnknownTaskError: a task is asked for that is not in the log.
    """
    end_seq = (await js.stream_info(names.events)).state.last_seq
    filters = await _filters(js, names, task_id, agent_id)
    if not follow and end_seq < from_seq:
        return
    async with StreamReader(connection, names.events, filters=filters, from_seq=from_seq) as reader:
        async for batch in reader.batches():
            for message in batch.messages:
                if not follow and message.seq > end_seq:
                    return
                try:
                    yield decode_event(message.data, seq=message.seq, stream=message.stream)
                except WireError as error:
                    _log.warning("skipped a foreign message: %s", error)
            if not follow and (not batch.pending or reader.next_seq > end_seq):
                return


async def _filters(js: JetStream, names: Names, task_id: str | None, agent_id: str | None) -> list[str]:
    if task_id is not None:
        require_token("task id", task_id)
        if agent_id is None:
            command = await js.next_message(names.commands, names.execute("*", task_id))
            if command is None:
                raise UnknownTaskError(task_id)
            agent_id = command.subject.split(".")[3]
        return [names.event("*", require_token("agent", agent_id), task_id)]
    if agent_id is not None:
        require_token("agent", agent_id)
        return [names.event("*", agent_id, "*"), names.agent_event(agent_id)]
    return [names.all_events]
