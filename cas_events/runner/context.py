"""What agent code holds in its hands: the task's context.

`current_task()` gives the same handle inside graph nodes, async or threaded. Outside a runner it is a harmless
stand-in: nothing is stored, log lines go to the standard logging module.

Every method may be called from any thread and takes effect at once; awaiting what it returns adds back-pressure,
which plain threads do without.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import structlog

if TYPE_CHECKING:
    from cas_events.runner.attempts import Attempt

LEVELS = ("debug", "info", "warning", "error", "critical")


class Awaitable(Protocol):
    """What can be awaited, or left alone without a warning."""

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until there is room for more."""


class Emitter(Protocol):
    """Where a context's events go."""

    def progress(self, fraction: float, message: str, *, node: str | None, agent: str | None) -> Awaitable:
        """Emit a `cas.progress` event."""

    def output(self, value: Any, *, kind: str) -> Awaitable:
        """Emit a `cas.output` event."""

    def log(self, level: str, message: str, metadata: Mapping[str, Any]) -> None:
        """Emit a `cas.log` event."""

    def step(self, type_: str, members: Mapping[str, Any]) -> None:
        """Emit a `cas.step` event."""


class TaskContext:
    """One attempt of one task, as its agent sees it.

    Attributes:
        task_id: the task.
        agent_id: the agent that the task was started for.
        attempt: the epoch, from 1.
        metadata: the caller's own, read-only by convention.
        log: a structlog logger; each line becomes a `cas.log` event.
        held: the attempt as this process holds it, for adapters of agent frameworks; None outside of its process.
    """

    def __init__(
        self,
        *,
        task_id: str,
        agent_id: str,
        attempt: int,
        metadata: Mapping[str, Any],
        make_emitter: Callable[[], Emitter],
        is_cancelled: Callable[[], bool],
        current_node: Callable[[], str | None] | None = None,
        held: Attempt | None = None,
    ) -> None:
        self.task_id = task_id
        self.agent_id = agent_id
        self.attempt = attempt
        self.metadata = metadata
        self._make_emitter = make_emitter
        self._emitter_made: Emitter | None = None
        self._making = threading.Lock()
        self._is_cancelled = is_cancelled
        self.current_node = current_node
        self.held = held
        self._log: Any = None

    @property
    def _emitter(self) -> Emitter:
        if self._emitter_made is None:
            with self._making:  # Parallel threads may emit their first event at the same time.
                self._emitter_made = self._emitter_made or self._make_emitter()
        return self._emitter_made

    def progress(self, fraction: float, message: str = "") -> Awaitable:
        """Say how far the work is.

        Args:
            fraction: 0 to 1; what lies outside is clipped.
            message: one short line.

        Raises:
            ValueError: the fraction is not a number.
        """
        fraction = float(fraction)
        if fraction != fraction:  # noqa: PLR0124 - the test for NaN
            raise ValueError("progress is a number from 0 to 1, not NaN")
        node = self.current_node() if self.current_node else None
        # The nodes of a workflow are named after the agents that they run.
        return self._emitter.progress(min(1.0, max(0.0, fraction)), str(message), node=node, agent=node)

    def output(self, value: Any) -> Awaitable:
        """Publish a partial result for whoever follows the task; kept for 24 hours.

        Raises:
            NotJsonError: the value has no JSON form; the error names the path.
        """
        return self._emitter.output(value, kind="partial")

    def emit_output(self, value: Any, *, kind: str) -> Awaitable:
        """As `output`, with another kind than ``partial``; for adapters of agent frameworks."""
        return self._emitter.output(value, kind=kind)

    def emit_step(self, type_: str, members: Mapping[str, Any]) -> None:
        """Emit a `cas.step` event; for adapters of agent frameworks."""
        self._emitter.step(type_, members)

    @property
    def log(self) -> Any:
        """A structlog logger: ``ctx.log.info("reading", source="…")``."""
        if self._log is None:
            self._log = structlog.wrap_logger(
                _LogSink(self._emitter),
                processors=[
                    structlog.contextvars.merge_contextvars,
                    structlog.processors.format_exc_info,
                    _split,
                ],
                wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
                context_class=dict,
            )
        return self._log

    def is_cancelled(self) -> bool:
        """Whether somebody asked for the task's end; threads and long loops should look now and then."""
        return self._is_cancelled()


def _split(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The last structlog processor: hand the level, the message and the fields to the sink."""
    message = event.pop("event", "")
    return (str(message), event), {}


class _LogSink:
    """The innermost logger: one method a level, each an event."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter

    def __getattr__(self, level: str) -> Callable[[str, dict[str, Any]], None]:
        if level not in LEVELS:
            raise AttributeError(level)
        return lambda message, metadata: self._emitter.log(level, message, metadata)


class _Done:
    """An awaitable that is done."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


DONE = _Done()


class _Detached:
    """The emitter outside a runner: logs lines, drops the rest."""

    _logger = logging.getLogger("cas_events.detached")

    def progress(self, fraction: float, message: str, *, node: str | None, agent: str | None) -> Awaitable:
        """Drop it."""
        del fraction, message, node, agent
        return DONE

    def output(self, value: Any, *, kind: str) -> Awaitable:
        """Drop it."""
        del value, kind
        return DONE

    def log(self, level: str, message: str, metadata: Mapping[str, Any]) -> None:
        """Log the line with the standard logging module."""
        fields = " ".join(f"{name}={value!r}" for name, value in metadata.items())
        self._logger.log(getattr(logging, level.upper()), "%s %s", message, fields)

    def step(self, type_: str, members: Mapping[str, Any]) -> None:
        """Drop it."""
        del type_, members


def _detached_context() -> TaskContext:
    return TaskContext(
        task_id="detached",
        agent_id="detached",
        attempt=0,
        metadata={},
        make_emitter=_Detached,
        is_cancelled=lambda: False,
    )


_current: ContextVar[TaskContext | None] = ContextVar("cas_events_task", default=None)


def current_task() -> TaskContext:
    """The context of the task that this code runs for; a harmless stand-in outside a runner."""
    return _current.get() or _detached_context()


def is_agent_code() -> bool:
    """Whether the code that runs here was started for a task."""
    return _current.get() is not None


@contextmanager
def task_scope(context: TaskContext) -> Generator[None]:
    """Make a context the current one for a block of code and all that it calls."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
