"""Deleting, pruning and copying threads.

Whoever deletes takes the fence first: every other writer has lost the thread then, and with it what it believed to be
stored. Records go first and pieces last, so a crash leaves pieces without a record, which the next pruning finds, and
never a record without its pieces. What a `DeltaChannel` of a kept checkpoint needs of its ancestors is kept with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence

from langgraph.checkpoint.serde.base import SerializerProtocol

from cas_events.jetstream.batches import Outgoing
from cas_events.jetstream.checkpoints.listing import metadata_of
from cas_events.jetstream.checkpoints.reading import read_records, read_writes
from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.jetstream.checkpoints.views import View
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.checkpoints import Record, record_values
from cas_events.wire.pieces import Value, moved, pages_of, unfold, wanted
from cas_events.wire.threads import ThreadSubjects, thread_of

_DELTA_COUNTERS = "counters_since_delta_snapshot"
_COPY_MESSAGES = 256

Stored = tuple[StoredMessage, Record]


async def delete_thread(stream: CheckpointStream, view: View) -> None:
    """Delete all but the fence of a thread."""
    thread = view.subjects
    if await stream.last(thread.everything) is None:
        return
    await _take(view)
    for filter_ in (thread.all_records, thread.all_writes, thread.all_pieces):
        await stream.purge([filter_])


async def keep_latest(stream: CheckpointStream, view: View, serde: SerializerProtocol) -> None:
    """Delete all but the newest checkpoint of each namespace, and what nothing needs any more."""
    thread = view.subjects
    if await stream.last(thread.all_records) is None:
        return
    await _take(view)
    stored = await read_records(stream, thread, await stream.everything(thread.all_records))
    kept: dict[str, Stored] = {}
    for ns in {record.ns for _, record in stored}:
        own = [each for each in stored if each[1].ns == ns]
        async for each in _with_ancestors(stream, thread, serde, own):
            kept[each[0].subject] = each
    await _sweep(stream, thread, stored, kept)


async def delete_runs(
    stream: CheckpointStream, view: View, serde: SerializerProtocol, run_ids: Collection[str]
) -> None:
    """Delete a thread's checkpoints of some runs, by the ``run_id`` of their metadata."""
    thread = view.subjects
    await _take(view)
    stored = await read_records(stream, thread, await stream.everything(thread.all_records))
    kept = {
        message.subject: (message, record)
        for message, record in stored
        if (await metadata_of(stream, thread, serde, record)).get("run_id") not in run_ids
    }
    await _sweep(stream, thread, stored, kept)


async def threads_of_runs(
    stream: CheckpointStream, serde: SerializerProtocol, run_ids: Collection[str]
) -> list[ThreadSubjects]:
    """The threads that have checkpoints of some runs; reads every record of the deployment."""
    found: dict[ThreadSubjects, None] = {}
    if not run_ids:
        return []
    for message in await stream.everything(ThreadSubjects(stream.names.thread("*")).all_records):
        thread = thread_of(message.subject)
        if thread not in found:
            ((_, record),) = await read_records(stream, thread, [message])
            if (await metadata_of(stream, thread, serde, record)).get("run_id") in run_ids:
                found[thread] = None
    return list(found)


async def copy_thread(stream: CheckpointStream, source: ThreadSubjects, view: View) -> None:
    """Copy all checkpoints of a thread into the view's; records last, in the order of their commit."""
    target = view.subjects
    records = await stream.everything(source.all_records)
    if not records:
        return
    # What records need is read after them, so that it is there.
    rest = [*await stream.everything(source.all_pieces), *await stream.everything(source.all_writes)]
    view.forget()
    messages = [Outgoing(source.moved(each.subject, target), each.data) for each in (*rest, *records)]
    for first in range(0, len(messages), _COPY_MESSAGES):
        await view.writer.store(messages[first : first + _COPY_MESSAGES])
    view.forget()


async def _take(view: View) -> None:
    view.forget()
    await view.writer.take()


async def _with_ancestors(
    stream: CheckpointStream, thread: ThreadSubjects, serde: SerializerProtocol, stored: Sequence[Stored]
) -> AsyncIterator[Stored]:
    """The newest checkpoint of a namespace, and those before it that its delta channels are rebuilt from."""
    by_id = {record.id: (message, record) for message, record in stored}
    message, record = stored[-1]
    yield message, record
    counters = (await metadata_of(stream, thread, serde, record)).get(_DELTA_COUNTERS) or {}
    needed = {channel for channel in counters if channel not in record.values}
    seen = {record.id}
    while needed and record.parent in by_id and record.parent not in seen:
        message, record = by_id[record.parent]
        seen.add(record.id)
        yield message, record
        needed -= record.values.keys()


async def _sweep(
    stream: CheckpointStream, thread: ThreadSubjects, stored: Iterable[Stored], kept: dict[str, Stored]
) -> None:
    """Delete every record that is not kept, and then the writes and the pieces that nothing needs."""
    await stream.purge([message.subject for message, _ in stored if message.subject not in kept])
    kept_writes = {thread.writes_of(subject).removesuffix(">") for subject in kept}
    writes = {
        subject.rpartition(".")[0].rpartition(".")[0] + "."
        for subject in await stream.subjects(thread.all_writes)
    }
    await stream.purge([prefix + ">" for prefix in writes - kept_writes])
    needed = {thread.piece(digest) for digest in await _needed(stream, thread, list(kept.values()))}
    present = await stream.subjects(thread.all_pieces)
    if needed:
        await stream.purge([subject for subject in present if subject not in needed])
    elif present:
        await stream.purge([thread.all_pieces])


async def _needed(stream: CheckpointStream, thread: ThreadSubjects, kept: Sequence[Stored]) -> set[bytes]:
    """The pieces of kept checkpoints, of their records and of their writes."""
    values: list[Value] = [value for _, record in kept for value in record_values(record)]
    messages = [message for message, _ in kept]
    for message in list(messages):
        found = await stream.everything(thread.writes_of(message.subject))
        messages += found
        for _, each in await read_writes(stream, thread, found):
            values += [write.value for write in each.writes]
    values += [elsewhere for message in messages if (elsewhere := moved(message.data)) is not None]
    pages = await stream.pieces(thread, (need for value in values for need in pages_of(value)))
    unfolded = [unfold(value, pages) for value in values]
    return {digest for value in (*values, *unfolded) for digest, _ in wanted(value)}
