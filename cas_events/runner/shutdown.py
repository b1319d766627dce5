"""The end of a runner process: the signals that ask for it, and agent code that outlives it.

Some tasks swallow their cancellation and some threads do not return. When a runner has shut down, their attempts have been ended or handed over, and nothing that they still do can be
appended. But asyncio waits for its tasks and the interpreter for its threads, so a sync node that blocks for an hour
would keep a process for an hour that was told to go. A process that serves nothing else is therefore ended over them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, NoReturn, Self, TypeVar

from cas_events.observe.tracing import disable_tracing

_log = logging.getLogger(__name__)

# Sync agent code and sync graph nodes run in threads; the default pool (cores + 4) starves them.
THREADS = 64

T = TypeVar("T")


class AgentThreads(ThreadPoolExecutor):
    """The threads of sync agent code, which knows what still runs in them."""

    def __init__(self) -> None:
        super().__init__(THREADS, thread_name_prefix="cas-agent")
        self._calls: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As any executor's."""
        # What runs here is the work of the task that asks: its log lines say so, also from `run_in_executor`.
        call = super().submit(copy_context().run, fn, *args, **kwargs)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    @property
    def busy(self) -> int:
        """Threads that run a call."""
        return sum(call.running() for call in list(self._calls))


class Signals:
    """Calls ``action`` on SIGTERM and SIGINT for the length of a block.

    Attributes:
        heard: whether one came.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, action: Callable[[], None], *, enabled: bool) -> None:
        self._loop = loop
        self._action = action
        self._signals = (signal.SIGTERM, signal.SIGINT) if enabled else ()
        self.heard = False

    def __enter__(self) -> Self:
        for number in self._signals:
            self._loop.add_signal_handler(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._signals:
            self._loop.remove_signal_handler(number)

    def _hear(self) -> None:
        self.heard = True
        self._action()


def end_process(left_behind: Iterable[str]) -> NoReturn:
    """End this process over code that does not end, as a success: everything of the runner's is settled."""
    _log.warning("ending the process over agent code that ignores its end: %s", ", ".join(left_behind))
    disable_tracing()  # Which sends the last spans; nothing that waits for the interpreter's end runs any more.
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(0)
