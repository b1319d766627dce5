"""What a delta channel is rebuilt from.

LangGraph's `DeltaChannel` stores its whole value only now and then; between, a checkpoint has only the writes that led
to the next one. The ancestors are walked along their parents, not along the order of commit, since a thread may fork.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import DeltaChannelHistory, get_checkpoint_id
from langgraph.checkpoint.serde.base import SerializerProtocol

from cas_events.jetstream.checkpoints.codec import decode
from cas_events.jetstream.checkpoints.reading import in_order, read_records, read_writes, resolve
from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.jetstream.checkpoints.writing import ns_of_config, thread_of_config
from cas_events.wire.checkpoints import Record, Write
from cas_events.wire.threads import ThreadSubjects

_READS_IN_FLIGHT = 16

Step = tuple[Record, list[tuple[str, Write]]]


async def delta_history(
    stream: CheckpointStream, serde: SerializerProtocol, config: RunnableConfig, channels: Sequence[str]
) -> Mapping[str, DeltaChannelHistory]:
    """For each channel, the writes after its newest stored value before a checkpoint, and that value if there is one."""
    if not channels:
        return {}
    thread = stream.thread(thread_of_config(config))
    chain = await _ancestors(stream, thread, ns_of_config(config), get_checkpoint_id(config), set(channels))
    steps = await _with_writes(stream, thread, chain, set(channels))
    values = [value for record, _ in steps for channel, value in record.values.items() if channel in channels]
    values += [write.value for _, writes in steps for _, write in writes]
    unfolded, pieces = await resolve(stream, thread, values)

    def value_of(value: Any) -> Any:
        return decode(unfolded.get(id(value), value), serde, pieces)

    found: dict[str, DeltaChannelHistory] = {}
    for channel in channels:
        entry: DeltaChannelHistory = {"writes": []}
        for record, writes in steps:
            own = [
                (task, write.channel, value_of(write.value))
                for task, write in writes
                if write.channel == channel
            ]
            entry["writes"] = [*own, *entry["writes"]]
            if channel in record.values:
                entry["seed"] = value_of(record.values[channel])
                break
        found[channel] = entry
    return found


async def _ancestors(
    stream: CheckpointStream, thread: ThreadSubjects, ns: str, checkpoint_id: str | None, channels: set[str]
) -> list[Record]:
    """The checkpoints before one, the nearest first, until each channel has a stored value."""
    stored = await read_records(stream, thread, await stream.everything(thread.records(ns)))
    by_id = {record.id: record for _, record in stored}
    newest = stored[-1][1].id if stored else ""
    record = by_id.get(checkpoint_id or newest)
    chain: list[Record] = []
    seen: set[str] = set()
    missing = set(channels)
    while missing and record is not None and record.parent not in seen:
        seen.add(record.parent)
        record = by_id.get(record.parent)
        if record is not None:
            chain.append(record)
            missing -= record.values.keys()
    return chain


async def _with_writes(
    stream: CheckpointStream, thread: ThreadSubjects, chain: Sequence[Record], channels: set[str]
) -> list[Step]:
    limit = asyncio.Semaphore(_READS_IN_FLIGHT)

    async def one(record: Record) -> Step:
        async with limit:
            messages = await stream.everything(thread.writes(record.ns, record.id))
            stored = await read_writes(stream, thread, messages)
        return record, [each for each in in_order(w for _, w in stored) if each[1].channel in channels]

    return list(await asyncio.gather(*map(one, chain)))
