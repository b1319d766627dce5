"""Deleting checkpoints."""

from __future__ import annotations

from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.jetstream.checkpoints.views import View


async def delete_thread(stream: CheckpointStream, view: View) -> None:
    """Delete all but the fence of a thread. Records go first: what has no record is not there."""
    thread = view.subjects
    if await stream.last(thread.everything) is None:
        return
    view.forget()
    await view.writer.take()
    for filter_ in (thread.all_records, thread.all_writes, thread.all_pieces):
        await stream.purge([filter_])
