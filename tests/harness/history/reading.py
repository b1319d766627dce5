"""Reading a deployment's streams back, whole, as they are at this moment."""

from __future__ import annotations

from cas_events.errors import WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.reader import StreamReader
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names
from tests.harness.history.records import Command, History, Recorded


async def read_history(connection: Connection, deployment: str) -> History:
    """Read everything that a deployment's streams hold at this moment."""
    names, history = Names(deployment), History()
    for message in await _read(connection, names.commands, history):
        parsed = names.parse_command(message.subject)
        if parsed is None:
            history.foreign.append(message)
            continue
        history.commands.append(
            Command(
                message.seq,
                message.subject,
                parsed.kind,
                parsed.agent,
                parsed.task,
                message.data,
                message.time_ns,
            )
        )
    for stream in (names.events, names.output):
        for message in await _read(connection, stream, history):
            _record(history, names, message)
    return history


async def _read(connection: Connection, stream: str, history: History) -> list[StoredMessage]:
    """Every message of a stream; what is missing between the first and the last is noted."""
    state = (await JetStream(connection).stream_info(stream)).state
    found: list[StoredMessage] = []
    if state.messages:
        async with StreamReader(connection, stream) as reader:
            async for batch in reader.batches():
                found += batch.messages
                if reader.next_seq > state.last_seq:
                    break
    sequences = {message.seq for message in found}
    absent = [seq for seq in range(1, state.last_seq + 1) if seq not in sequences]
    if absent:
        history.missing.append(f"{stream}: {len(absent)} of {state.last_seq}, such as {absent[:5]}")
    return found


def _record(history: History, names: Names, message: StoredMessage) -> None:
    subject = names.parse_task_event(message.subject)
    if subject is None:
        return  # An event of an agent or of a state.
    try:
        event = decode_event(message.data, seq=message.seq, stream=message.stream)
    except WireError:
        history.foreign.append(message)
        return
    recorded = Recorded(event, subject.class_, message.data, message.time_ns)
    history.events.append(recorded)
    if (event.agent_id, event.task_id) != (subject.agent, subject.task):
        history.missing.append(f"{recorded.name} stands on {message.subject}")
