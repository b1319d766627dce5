"""Taking a thread for a task's attempt: the fence goes to the newest one (PROTOCOL section 9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cas_events.errors import CheckpointFencedError, ThreadBusyError
from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.jetstream.checkpoints.views import View
from cas_events.wire.checkpoints import Fence, decode_fence

_RACES_MAX = 10


async def acquired(
    stream: CheckpointStream,
    thread_id: str,
    fence: Fence,
    displace: Callable[[Fence], Awaitable[bool]] | None,
    *,
    is_likely_new: bool = False,
) -> View:
    """A view that holds the fence, or will; arguments and errors are those of `JetStreamSaver.acquire`."""
    if is_likely_new:
        view = View(stream, thread_id, 0, fence=fence)
        view.writer.assume_new()
        return view
    subject = stream.thread(thread_id).fence
    for race in range(_RACES_MAX):
        found = await stream.last(subject)
        if found is not None:
            await _check(thread_id, decode_fence(found.data), fence, displace)
        view = View(stream, thread_id, found.seq if found is not None else 0, fence=fence)
        try:
            await view.writer.take()
        except CheckpointFencedError:
            if race == _RACES_MAX - 1:
                raise
            continue  # Somebody was faster: see who.
        return view
    raise AssertionError("unreachable")


async def _check(
    thread_id: str, holder: Fence, fence: Fence, displace: Callable[[Fence], Awaitable[bool]] | None
) -> None:
    if not holder.task:
        return
    if (holder.agent, holder.task) == (fence.agent, fence.task):
        if holder.started_seq > fence.started_seq:
            raise CheckpointFencedError(thread_id, str(holder))
    elif displace is None or not await displace(holder):
        raise ThreadBusyError(thread_id, agent=holder.agent, task=holder.task)
