"""The checkpoints of a thread, or of every thread, the newest first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, get_checkpoint_id
from langgraph.checkpoint.serde.base import SerializerProtocol

from cas_events.jetstream.checkpoints.codec import decode
from cas_events.jetstream.checkpoints.reading import assemble, read_records, resolve
from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.checkpoints import Record, decode_fence
from cas_events.wire.threads import ThreadSubjects, text_of, thread_of

There = Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]


async def listed(
    stream: CheckpointStream,
    serde: SerializerProtocol,
    there: There,
    config: RunnableConfig | None,
    filter_: dict[str, Any] | None,
    before: RunnableConfig | None,
    limit: int | None,
) -> AsyncIterator[CheckpointTuple]:
    """The checkpoints that match; ``there`` runs work in the stream's loop."""
    left = limit
    for message in await there(_candidates(stream, config, before)):
        if left is not None and left <= 0:
            return
        found = await there(_matching(stream, serde, message, filter_))
        if found is not None:
            yield found
            left = left - 1 if left is not None else None


async def _candidates(
    stream: CheckpointStream, config: RunnableConfig | None, before: RunnableConfig | None
) -> list[StoredMessage]:
    """The records that may match, the newest first."""
    messages = await stream.everything(_records_of(stream, config))
    before_id = get_checkpoint_id(before) if before else None
    if before_id is not None:
        messages = _older(messages, before_id)
    return messages[::-1]


def _records_of(stream: CheckpointStream, config: RunnableConfig | None) -> str:
    if config is None:
        return ThreadSubjects(stream.names.thread("*")).all_records
    configurable = config["configurable"]
    thread = stream.thread(str(configurable["thread_id"]))
    ns = configurable.get("checkpoint_ns")
    if ns is None:
        return thread.all_records
    checkpoint_id = get_checkpoint_id(config)
    return thread.record(ns, checkpoint_id) if checkpoint_id else thread.records(ns)


def _older(messages: list[StoredMessage], checkpoint_id: str) -> list[StoredMessage]:
    """Those that were committed before a checkpoint; by their ids, which hold a time, if that one is gone."""
    token = ThreadSubjects("").record("", checkpoint_id).rpartition(".")[2]
    ids = [message.subject.rpartition(".")[2] for message in messages]
    if token in ids:
        return messages[: ids.index(token)]
    return [message for message, each in zip(messages, ids, strict=True) if each < token]


async def _matching(
    stream: CheckpointStream,
    serde: SerializerProtocol,
    message: StoredMessage,
    filter_: dict[str, Any] | None,
) -> CheckpointTuple | None:
    """The checkpoint of a record, if its metadata matches and it is still there."""
    thread = thread_of(message.subject)
    if filter_:
        ((_, record),) = await read_records(stream, thread, [message])
        metadata = await metadata_of(stream, thread, serde, record)
        if any(metadata.get(key) != value for key, value in filter_.items()):
            return None
    assembled = await assemble(stream, await thread_id_of(stream, thread), thread, serde, message)
    return assembled.found if assembled is not None else None


async def metadata_of(
    stream: CheckpointStream, thread: ThreadSubjects, serde: SerializerProtocol, record: Record
) -> dict[str, Any]:
    """A record's metadata."""
    _, pieces = await resolve(stream, thread, [record.metadata])
    metadata: dict[str, Any] = decode(record.metadata, serde, pieces)
    return metadata


async def thread_id_of(stream: CheckpointStream, thread: ThreadSubjects) -> str:
    """The id of a thread, from its token or from its fence."""
    text = text_of(thread.token)
    if text is not None:
        return text
    fence = await stream.last(thread.fence)
    return decode_fence(fence.data).thread if fence is not None else ""
