"""Checkpoints and writes as messages: what is encoded, what is new, and what goes out through the view's writer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from cas_events.jetstream.batches import Outgoing
from cas_events.jetstream.checkpoints.codec import encode, encode_values, encode_whole
from cas_events.jetstream.checkpoints.reading import config_of, read_writes, written_of
from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.jetstream.checkpoints.views import View, Written
from cas_events.wire.checkpoints import Record, Write, Writes, encode_body
from cas_events.wire.pieces import Pieces, pack, pack_or_move

_PACK_INLINE_BYTES = 256 * 1024  # More is compressed in a thread.


def thread_of_config(config: RunnableConfig) -> str:
    """The thread that a config names."""
    return str(config["configurable"]["thread_id"])


def ns_of_config(config: RunnableConfig) -> str:
    """The namespace that a config names; empty for a graph that is nobody's subgraph."""
    return str(config["configurable"].get("checkpoint_ns") or "")


async def put(
    view: View,
    serde: SerializerProtocol,
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
) -> RunnableConfig:
    """Store a checkpoint: its pieces first, its record last."""
    ns, checkpoint_id = ns_of_config(config), checkpoint["id"]
    pieces: Pieces = {}
    values = encode_values(
        checkpoint["channel_values"],
        checkpoint["channel_versions"],
        new_versions,
        view.values.get(ns, {}),
        serde,
        pieces,
    )
    rest = {name: value for name, value in checkpoint.items() if name != "channel_values"}
    record = Record(
        ns=ns,
        id=checkpoint_id,
        parent=get_checkpoint_id(config) or "",
        checkpoint=encode_whole(rest, serde, pieces),
        metadata=encode_whole(get_serializable_checkpoint_metadata(config, metadata), serde, pieces),
        values={channel: value for channel, (_, value) in values.items() if value is not None},
    )
    payload = pack_or_move(encode_body(record), pieces)
    messages = await _packed(view, pieces)
    view.values[ns] = values
    view.written.setdefault((ns, checkpoint_id), {})
    messages.append(Outgoing(view.subjects.record(ns, checkpoint_id), payload))
    if view.defers_input and view.is_blank and metadata.get("source") == "input" and not ns:
        view.know(pieces)
        view.writer.defer(messages)
    else:
        await _store(view, pieces, messages)
    return config_of(view.thread_id, ns, checkpoint_id)


async def put_writes(
    stream: CheckpointStream,
    view: View,
    serde: SerializerProtocol,
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str,
) -> None:
    """Store those of a task's writes that are not stored yet; LangGraph's own are stored anew each time."""
    ns, checkpoint_id = ns_of_config(config), config["configurable"]["checkpoint_id"]
    pieces: Pieces = {}
    encoded = [
        Write(WRITES_IDX_MAP.get(channel, index), channel, encode(value, serde, pieces))
        for index, (channel, value) in enumerate(writes)
    ]
    stored = (await _written(stream, view, ns, checkpoint_id)).setdefault(task_id, set())
    regular = [write for write in encoded if write.index >= 0 and write.index not in stored]
    special = [write for write in encoded if write.index < 0]
    sets = [(f"r{regular[0].index}", regular)] if regular else []
    if special:
        sets.append(("s" + "".join(sorted({str(-write.index) for write in special})), special))
    outgoing = []
    for slot, each in sets:
        body = encode_body(Writes(task=task_id, path=task_path, writes=each))
        subject = view.subjects.write(ns, checkpoint_id, task_id, slot)
        outgoing.append(Outgoing(subject, pack_or_move(body, pieces)))
    if outgoing:
        stored.update(write.index for write in regular)
        messages = [*await _packed(view, pieces), *outgoing]
        if view.writer.is_deferring:
            view.know(pieces)
            view.writer.defer(messages)
        else:
            await _store(view, pieces, messages)


async def _written(stream: CheckpointStream, view: View, ns: str, checkpoint_id: str) -> Written:
    """The writes of a checkpoint; asked for if this run has neither stored nor read it."""
    known = view.written.get((ns, checkpoint_id))
    if known is None and view.is_blank:
        known = view.know_written(ns, checkpoint_id, {})
    if known is None:
        messages = await stream.everything(view.subjects.writes(ns, checkpoint_id))
        stored = await read_writes(stream, view.subjects, messages)
        known = view.know_written(ns, checkpoint_id, written_of(each for _, each in stored))
    return known


async def _packed(view: View, pieces: Pieces) -> list[Outgoing]:
    """The messages of the pieces that are not in the thread yet."""
    missing = view.missing(pieces)
    if sum(map(len, missing.values())) > _PACK_INLINE_BYTES:
        payloads = await asyncio.to_thread(lambda: list(map(pack, missing.values())))
    else:
        payloads = list(map(pack, missing.values()))
    return [
        Outgoing(view.subjects.piece(digest), payload)
        for digest, payload in zip(missing, payloads, strict=True)
    ]


async def _store(view: View, pieces: Pieces, messages: list[Outgoing]) -> None:
    """Hand messages over; from then on the pieces count as stored, and not before."""
    view.know(pieces)
    await view.writer.store(messages)
