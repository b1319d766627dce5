"""What the messages of a thread hold: the fence, a checkpoint's record, a task's writes. Pure.

Record and writes are MessagePack with named members; unknown members are ignored. The fence is JSON, so that any
NATS client can read who holds a thread (PROTOCOL section 9).
"""

from __future__ import annotations

import msgspec

from cas_events.errors import WireError
from cas_events.wire.pieces import Inline, Items, Value, Whole


class Fence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who may write a thread: a task in its newest attempt, or a writer outside of any task.

    Attributes:
        agent: the task's agent; empty outside of a task.
        task: the task; empty outside of one.
        started_seq: sequence of the ``cas.task.started`` that this attempt is.
        thread: the thread's id, since a long one is not in the subject.
        writer: made anew each time that the fence is written.
    """

    agent: str = ""
    task: str = ""
    started_seq: int = 0
    thread: str = ""
    writer: str = ""

    def __str__(self) -> str:
        if self.task:
            return f"task {self.task!r} of agent {self.agent!r} (started at {self.started_seq})"
        return f"writer {self.writer!r}"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A checkpoint.

    Attributes:
        ns: its namespace.
        id: its id.
        parent: the id of the checkpoint that it follows; empty if none.
        checkpoint: the checkpoint without its values.
        metadata: its metadata.
        values: the values of its channels.
    """

    ns: str = ""
    id: str
    parent: str = ""
    checkpoint: Inline | Whole
    metadata: Inline | Whole
    values: dict[str, Inline | Whole | Items] = {}


class Write(msgspec.Struct, frozen=True, array_like=True):
    """One value that a task wrote; ``index`` is below zero for LangGraph's own channels, where the last one counts."""

    index: int
    channel: str
    value: Inline | Whole | Items


class Writes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a task wrote on top of a checkpoint, with one call."""

    task: str
    path: str = ""
    writes: list[Write]


_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(Record).decode
_decode_writes = msgspec.msgpack.Decoder(Writes).decode
_encode_json = msgspec.json.Encoder().encode
_decode_fence = msgspec.json.Decoder(Fence).decode


def encode_body(body: Record | Writes) -> bytes:
    """The bytes of a record or of writes."""
    return _encode(body)


def decode_record(body: bytes) -> Record:
    """A record.

    Raises:
        WireError: the bytes are none.
    """
    try:
        return _decode_record(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a checkpoint's record: {error}") from error


def decode_writes(body: bytes) -> Writes:
    """A task's writes.

    Raises:
        WireError: the bytes are none.
    """
    try:
        return _decode_writes(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a task's writes: {error}") from error


def encode_fence(fence: Fence) -> bytes:
    """The bytes of a fence message."""
    return _encode_json(fence)


def decode_fence(data: bytes) -> Fence:
    """Who holds a thread; somebody unknown if the bytes do not say."""
    try:
        return _decode_fence(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Fence(writer="unknown")


def record_values(record: Record) -> list[Value]:
    """Everything in a record that may need pieces."""
    return [record.checkpoint, record.metadata, *record.values.values()]
