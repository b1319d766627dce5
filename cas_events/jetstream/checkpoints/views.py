"""What one run knows of a thread: the fence that it read and holds, and what is stored already.

A view is made when a run reads the thread, and every write of the run goes through it (`fencing`). So each run is a
writer of its own, in one process or in many: the first one to write moves the fence on from where it has read it, and
whoever has read before that is refused. What a view knows lets a run write without reading: which pieces are in the
thread, where the values of unchanged channels are, and which writes a checkpoint has.

LangGraph tells a saver nothing about the run that calls; the view is found by a context variable, which the tasks of
a run inherit from where it read its thread.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import OrderedDict
from contextvars import ContextVar
from typing import Any

import msgspec

from cas_events.jetstream.checkpoints.fencing import FencedWriter
from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.wire.checkpoints import Fence
from cas_events.wire.pieces import Value
from cas_events.wire.threads import ThreadSubjects

_VIEWS_IN_CONTEXT = 8
_RECENT_MAX = 256
_KNOWN_PIECES_MAX = 20_000
_KNOWN_CHECKPOINTS_MAX = 64

Version = str | int | float
Written = dict[str, set[int]]
"""The indexes of stored writes, by task."""


class View:
    """One writer's view of one thread.

    Args:
        stream: of the checkpoints.
        thread_id: the thread.
        fence_seq: the fence as it was read; 0 if there was none.
        fence: what the fence shall say once this writer has taken it.
        owner: the asyncio task or the thread that reads, by `owner_here`.

    Attributes:
        values: by namespace, what the newest checkpoint there has for a channel at a version; None if it has nothing.
        written: the writes of a checkpoint, by namespace and id.
        writer: writes under the fence.
        owner: who reads, as given.
        is_blank: whether nothing is in the thread but what this view remembers to have stored: nobody had the fence.
        defers_input: whether the checkpoint of a run's input, which is of no use alone, may wait for the one after it.
    """

    def __init__(
        self,
        stream: CheckpointStream,
        thread_id: str,
        fence_seq: int,
        *,
        fence: Fence | None = None,
        owner: Any = None,
    ) -> None:
        self.thread_id = thread_id
        self.subjects: ThreadSubjects = stream.thread(thread_id)
        self.values: dict[str, dict[str, tuple[Version, Value | None]]] = {}
        self.written: OrderedDict[tuple[str, str], Written] = OrderedDict()
        content = msgspec.structs.replace(fence or Fence(), thread=thread_id)
        self.writer = FencedWriter(stream, self.subjects, thread_id, fence_seq, content, self.forget)
        self.owner = owner
        self.is_blank = fence_seq == 0
        self.defers_input = False
        self._known: dict[bytes, None] = {}

    def forget(self) -> None:
        """Nothing is known to be stored any more."""
        self.is_blank = False
        self.values.clear()
        self.written.clear()
        self._known.clear()

    async def require_fence(self) -> None:
        """Take the fence now, if that was to be seen to with what is stored first.

        Raises:
            ThreadNotNewError: the thread has been somebody's.
        """
        if not self.writer.is_holder:
            await self.writer.take()

    async def settle(self) -> None:
        """Store what waits for more."""
        if self.writer.is_deferring:
            await self.writer.store([])

    def is_current(self, fence_seq: int) -> bool:
        """Whether nobody else has written since; ``fence_seq`` is the fence as it is now."""
        return self.writer.error is None and self.writer.fence_seq == fence_seq

    def missing(self, pieces: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Those of the pieces that are not known to be stored."""
        return {digest: part for digest, part in pieces.items() if digest not in self._known}

    def know(self, digests: Any) -> None:
        """These pieces are in the thread."""
        if len(self._known) > _KNOWN_PIECES_MAX:
            self._known.clear()
        self._known.update(dict.fromkeys(digests))

    def know_written(self, ns: str, checkpoint_id: str, written: Written) -> Written:
        """These writes are on top of a checkpoint, and no others."""
        self.written[ns, checkpoint_id] = written
        while len(self.written) > _KNOWN_CHECKPOINTS_MAX:
            self.written.popitem(last=False)
            self.is_blank = False
        return written


def owner_here() -> Any:
    """Who runs this: the asyncio task, or the thread."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return weakref.ref(task) if task is not None else threading.get_ident()


_in_context: ContextVar[tuple[tuple[int, View], ...]] = ContextVar("cas_checkpoint_views", default=())


class Views:
    """The views of one saver and of its copies: those of the context, and the newest of each thread."""

    def __init__(self) -> None:
        self._recent: OrderedDict[str, View] = OrderedDict()

    def find(self, thread_id: str) -> View | None:
        """The view of the run that calls; the newest one if its context is not that of a run."""
        return self.in_context(thread_id) or self._recent.get(thread_id)

    def in_context(self, thread_id: str) -> View | None:
        """The view that this context has read."""
        mine = id(self)
        for key, view in _in_context.get():
            if key == mine and view.thread_id == thread_id:
                return view
        return None

    def remember(self, view: View) -> None:
        """From here on this context, and what it starts, writes through the view."""
        others = [
            each for each in _in_context.get() if each[0] != id(self) or each[1].thread_id != view.thread_id
        ]
        _in_context.set(((id(self), view), *others[: _VIEWS_IN_CONTEXT - 1]))
        self._recent[view.thread_id] = view
        self._recent.move_to_end(view.thread_id)
        while len(self._recent) > _RECENT_MAX:
            self._recent.popitem(last=False)
