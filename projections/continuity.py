"""Whether the log is still the one that the tables were made from.

A server that syncs to disk now and then (`sync_interval`) may lose the newest messages to a power cut, acknowledged or
not, and gives their sequences to others. The tables may have been synced later, and then hold what never happened; and
a projector that goes on from its position would pass over the first events of the new tail. So before it goes on, at a
start and after every reconnection, the newest row of the events and of the commands is compared with the message that
now has its sequence. What retention has taken is no contradiction.
"""

from __future__ import annotations

from dataclasses import dataclass

from cas_events.errors import OtherLogError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest rows of the tables: a command's sequence and time of storing, an event's sequence and id.

    Attributes:
        command: (sequence, microseconds since the epoch), or None if there is none.
        event: (sequence, id), or None if there is none.
    """

    command: tuple[int, int] | None
    event: tuple[int, str] | None


async def require_same_log(js: JetStream, names: Names, newest: Newest) -> None:
    """Check that the log holds what the tables hold last.

    Raises:
        OtherLogError: it does not: the log ends before, or holds something else there.
    """
    if newest.command is not None:
        seq, time_us = newest.command
        found = await _message(js, names.commands, seq)
        if found is not None and found.time_ns // 1000 != time_us:
            raise _contradiction(names.commands, seq, "another command has that sequence")
    if newest.event is not None:
        seq, event_id = newest.event
        found = await _message(js, names.events, seq)
        if found is not None and _id_of(found) != event_id:
            raise _contradiction(
                names.events, seq, f"there it has {_id_of(found) or 'no event'}, not {event_id}"
            )


async def _message(js: JetStream, stream: str, seq: int) -> StoredMessage | None:
    """The message of a sequence; None if retention took it.

    Raises:
        OtherLogError: the log ends before it.
    """
    found = await patiently(lambda: js.message(stream, seq))
    if found is None:
        state = (await patiently(lambda: js.stream_info(stream))).state
        if state.last_seq < seq:
            raise _contradiction(stream, seq, f"it ends at {state.last_seq}")
    return found


def _id_of(message: StoredMessage) -> str:
    try:
        return decode_event(message.data, seq=message.seq, stream=message.stream).id
    except WireError:
        return ""


def _contradiction(stream: str, seq: int, what: str) -> OtherLogError:
    return OtherLogError(
        f"the tables hold {stream} up to {seq} at least, and the log contradicts them: {what}. The server has lost what "
        "it had acknowledged (a power cut without `sync_interval: always`, or an old copy of its store); "
        "stop the projector and run `cas rebuild`: it makes the tables anew from the log"
    )
