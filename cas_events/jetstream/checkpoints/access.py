"""How a saver reaches its threads: the stream, the loop that it belongs to, and the view that a call reads or writes by."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol

from cas_events.errors import SyncOnLoopError
from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.jetstream.checkpoints.views import View, Views
from cas_events.jetstream.connection import Connection

T = TypeVar("T")

_SERIALIZERS_MAX = 256


class Shared:
    """What the copies of a saver have in common."""

    def __init__(self) -> None:
        self.stream: CheckpointStream | None = None
        self.connection: Connection | None = None
        self.views = Views()
        # By the identities of a serializer and of the types that another one may construct as well; kept alive here.
        self.serializers: dict[tuple[int, int], tuple[Any, ...]] = {}

    def remember_serializer(self, key: tuple[int, int], made: tuple[Any, ...]) -> None:
        """Keep a serializer that was made, behind what it was made of; all are forgotten when there are many."""
        if len(self.serializers) >= _SERIALIZERS_MAX:
            self.serializers.clear()
        self.serializers[key] = made


class Access:
    """See the module.

    Attributes:
        serde: the serializer.
        shared: what the copies of a saver have in common.
        held: the view of the thread that was acquired for a task's attempt; None outside of a runner.
    """

    serde: SerializerProtocol
    shared: Shared
    held: View | None

    @property
    def stream(self) -> CheckpointStream:
        """The stream of checkpoints, in the saver's own loop."""
        if self.shared.stream is None:
            raise RuntimeError("the saver is not open: `async with JetStreamSaver(url) as saver:`")
        return self.shared.stream

    def view_of_reader(self, thread_id: str, ns: str, fence_seq: int, known: View | None, owner: Any) -> View:
        """A run is a writer of its own; its subgraphs, and what reads beside it in its own task, share its view."""
        if self.held is not None and self.held.thread_id == thread_id:
            return self.held
        if known is None or known.writer.error is not None:
            return View(self.stream, thread_id, fence_seq, owner=owner)
        if ns or (known.owner == owner and known.is_current(fence_seq)):
            return known
        return View(self.stream, thread_id, fence_seq, owner=owner)

    async def writing(self, thread_id: str) -> View:
        """The view of the run that writes; one that has read nothing begins from now."""
        if self.held is not None and self.held.thread_id == thread_id:
            return self.held
        view = self.shared.views.find(thread_id)
        if view is None:
            fence = await self.stream.last(self.stream.thread(thread_id).fence)
            view = View(self.stream, thread_id, fence.seq if fence is not None else 0)
            self.shared.views.remember(view)
        return view

    async def taking(self, thread_id: str) -> View:
        """A view that begins from now, whatever was read before."""
        if self.held is not None and self.held.thread_id == thread_id:
            return self.held
        fence = await self.stream.last(self.stream.thread(thread_id).fence)
        fence_seq = fence.seq if fence is not None else 0
        view = self.shared.views.find(thread_id)
        if view is None or not view.is_current(fence_seq):
            view = View(self.stream, thread_id, fence_seq)
            self.shared.views.remember(view)
        return view

    # --- loops and threads

    async def there(self, work: Coroutine[Any, Any, T]) -> T:
        """Run in the saver's own loop."""
        loop = self.stream.loop
        if asyncio.get_running_loop() is loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

    def wait(self, method: str, work: Coroutine[Any, Any, T]) -> T:
        """Run in the saver's own loop, from a thread."""
        loop = self.stream.loop
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop:
            work.close()
            raise SyncOnLoopError(method)
        return asyncio.run_coroutine_threadsafe(work, loop).result()
