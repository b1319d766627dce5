"""What checkpoints of LangGraph threads meet."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError
from cas_events.errors.wire import WireError


class CheckpointFencedError(CasEventsError):
    """Another writer has taken the thread since this one read it: nothing was stored, and nothing of this one will be.

    Attributes:
        thread_id: the thread.
        holder: who writes it now, in words.
    """

    def __init__(self, thread_id: str, holder: str) -> None:
        super().__init__(
            f"thread {_shown(thread_id)} was taken over by {holder}: this run has lost it and can store nothing more; "
            f"read the thread again, and go on from there"
        )
        self.thread_id = thread_id
        self.holder = holder


class ThreadNotNewError(CheckpointFencedError):
    """A thread that was taken to be new has been somebody's: nothing was stored, and it may be acquired by reading it."""


class ThreadBusyError(CasEventsError):
    """Another task holds the thread.

    Attributes:
        thread_id: the thread.
        agent: the agent of the task that holds it.
        task: that task.
    """

    def __init__(self, thread_id: str, *, agent: str, task: str) -> None:
        super().__init__(
            f"thread {_shown(thread_id)} is held by task {task!r} of agent {agent!r}; wait for its end, or cancel it"
        )
        self.thread_id = thread_id
        self.agent = agent
        self.task = task


class CheckpointUnreadableError(WireError):
    """A stored checkpoint whose bytes are missing, or are not those that it names.

    Attributes:
        subject: the message that cannot be read.
    """

    def __init__(self, subject: str, problem: str) -> None:
        super().__init__(f"the checkpoint data on {subject} cannot be read: {problem}")
        self.subject = subject


class SyncOnLoopError(CasEventsError, RuntimeError):
    """A sync method of a checkpointer or a store was called on its own event loop, which would wait for itself for ever.

    Attributes:
        method: the method.
    """

    def __init__(self, method: str, *, async_ways: str = "graph.ainvoke, graph.aget_state") -> None:
        super().__init__(
            f"{method}() was called on the event loop that serves it; await a{method}() ({async_ways}) there, or call "
            f"it from a thread"
        )
        self.method = method


def _shown(thread_id: str) -> str:
    return repr(thread_id if len(thread_id) <= 80 else thread_id[:77] + "...")
