"""One checkpoint, read with everything that belongs to it: record, values and writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, writes_sort_key
from langgraph.checkpoint.serde.base import SerializerProtocol

from cas_events.errors import CheckpointUnreadableError, WireError
from cas_events.jetstream.checkpoints.codec import decode
from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.jetstream.checkpoints.views import View, Written
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.checkpoints import Record, Write, Writes, decode_record, decode_writes, record_values
from cas_events.wire.pieces import (
    BODY_BYTES_MAX,
    Value,
    join_pieces,
    moved,
    pages_of,
    unfold,
    unpack,
    wanted,
)
from cas_events.wire.threads import ThreadSubjects

_TRIES = 3


async def read_records(
    stream: CheckpointStream, thread: ThreadSubjects, messages: Sequence[StoredMessage]
) -> list[tuple[StoredMessage, Record]]:
    """The records of messages, in their order."""
    return [
        (message, _decoded(message, body, decode_record))
        for message, body in await _bodies(stream, thread, messages)
    ]


async def read_writes(
    stream: CheckpointStream, thread: ThreadSubjects, messages: Sequence[StoredMessage]
) -> list[tuple[StoredMessage, Writes]]:
    """The writes of messages, in their order."""
    return [
        (message, _decoded(message, body, decode_writes))
        for message, body in await _bodies(stream, thread, messages)
    ]


def _decoded(message: StoredMessage, body: bytes, decode_body: Any) -> Any:
    try:
        return decode_body(body)
    except WireError as error:
        raise CheckpointUnreadableError(message.subject, str(error)) from error


async def _bodies(
    stream: CheckpointStream, thread: ThreadSubjects, messages: Sequence[StoredMessage]
) -> list[tuple[StoredMessage, bytes]]:
    """The bodies of messages; those that were too large for a message are fetched."""
    bodies = []
    for message in messages:
        try:
            elsewhere = moved(message.data)
            if elsewhere is None:
                body = unpack(message.data, limit_bytes=BODY_BYTES_MAX)
            else:
                body = join_pieces(elsewhere, await stream.pieces(thread, wanted(elsewhere)))
        except WireError as error:
            raise CheckpointUnreadableError(message.subject, str(error)) from error
        bodies.append((message, body))
    return bodies


async def resolve(
    stream: CheckpointStream, thread: ThreadSubjects, values: Iterable[Value]
) -> tuple[dict[int, Value], dict[bytes, bytes]]:
    """All pieces that values need, and the values without pages, by the identity of the given ones.

    Raises:
        WireError: a page is missing, or is none.
    """
    given = list(values)
    pieces = await stream.pieces(thread, (need for value in given for need in wanted(value)))
    unfolded = {id(value): unfold(value, pieces) for value in given if any(pages_of(value))}
    if unfolded:
        more = (need for value in unfolded.values() for need in wanted(value) if need[0] not in pieces)
        pieces |= await stream.pieces(thread, more)
    return unfolded, pieces


class Assembled(msgspec.Struct, frozen=True):
    """A checkpoint that was read.

    Attributes:
        found: as LangGraph takes it.
        record: its record.
        pieces: the hashes of all that it needed.
        written: which writes it has.
    """

    found: CheckpointTuple
    record: Record
    pieces: list[bytes]
    written: Written

    def teach(self, view: View) -> None:
        """A view learns from it what is stored."""
        ns, versions = self.record.ns, self.found.checkpoint["channel_versions"]
        view.know(self.pieces)
        view.values[ns] = {
            channel: (version, self.record.values.get(channel)) for channel, version in versions.items()
        }
        view.know_written(ns, self.record.id, self.written)


async def assemble(
    stream: CheckpointStream,
    thread_id: str,
    thread: ThreadSubjects,
    serde: SerializerProtocol,
    message: StoredMessage,
) -> Assembled | None:
    """The checkpoint of a record's message; None if it was deleted meanwhile.

    Raises:
        CheckpointUnreadableError: bytes are missing or are not ours.
    """
    for tries_left in reversed(range(_TRIES)):
        ((_, record),) = await read_records(stream, thread, [message])
        stored = await read_writes(
            stream, thread, await stream.everything(thread.writes(record.ns, record.id))
        )
        writes = [each for _, each in stored]
        values = [*record_values(record), *(write.value for each in writes for write in each.writes)]
        try:
            unfolded, pieces = await resolve(stream, thread, values)
            found = _tuple(thread_id, record, writes, serde, unfolded, pieces)
        except WireError as error:
            # Somebody may be pruning the thread at this moment.
            again = await stream.last(message.subject)
            if again is None:
                return None
            if not tries_left:
                raise CheckpointUnreadableError(message.subject, str(error)) from error
            message = again
            continue
        return Assembled(found, record, list(pieces), written_of(writes))
    raise AssertionError("unreachable")


def _tuple(
    thread_id: str,
    record: Record,
    stored: list[Writes],
    serde: SerializerProtocol,
    unfolded: dict[int, Value],
    pieces: dict[bytes, bytes],
) -> CheckpointTuple:
    def value_of(value: Value) -> Any:
        return decode(unfolded.get(id(value), value), serde, pieces)

    checkpoint = value_of(record.checkpoint)
    checkpoint["channel_values"] = {channel: value_of(value) for channel, value in record.values.items()}
    return CheckpointTuple(
        config=config_of(thread_id, record.ns, record.id),
        checkpoint=checkpoint,
        metadata=value_of(record.metadata),
        parent_config=config_of(thread_id, record.ns, record.parent) if record.parent else None,
        pending_writes=[(task, write.channel, value_of(write.value)) for task, write in in_order(stored)],
    )


def config_of(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}}


def in_order(stored: Iterable[Writes]) -> list[tuple[str, Write]]:
    """The writes that count, with their tasks, in the order in which they apply.

    Of a task's writes with one index the first counts, of LangGraph's own (below zero) the last.
    """
    kept: dict[tuple[str, int], tuple[str, Write]] = {}
    for each in stored:
        for write in each.writes:
            key = (each.task, write.index)
            if write.index < 0 or key not in kept:
                kept[key] = (each.path, write)
    ordered = sorted(kept.items(), key=lambda item: writes_sort_key(item[1][0], *item[0]))
    return [(task, write) for (task, _), (_, write) in ordered]


def written_of(stored: Iterable[Writes]) -> Written:
    """Which indexes are stored, by task."""
    written: Written = {}
    for each in stored:
        written.setdefault(each.task, set()).update(write.index for write in each.writes)
    return written
