"""What agent code holds in its hands: the task's context.

`current_task()` gives the same handle inside graph nodes, async or threaded. Outside a runner it is a harmless
stand-in: nothing is stored, log lines go to the standard logging module.

Every method may be called from any thread and takes effect at once; awaiting what it returns adds back-pressure,
which plain threads do without.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Unpack

from cas_events.domain.redaction import DEFAULT
from cas_events.domain.tokens import require_token
from cas_events.runner.children import ChildOptions, Children, NoChildren
from cas_events.runner.state import StandInState, StateOfAgent
from cas_events.runner.task_logger import task_logger

if TYPE_CHECKING:
    from cas_events.runner.attempts import Attempt
    from cas_events.session import Task


class Origin(NamedTuple):
    """Where in a workflow something is said.

    Attributes:
        node: the graph's node; None outside graphs.
        agent: the agent whose part of the work it is; None if the task's agent does all of it.
    """

    node: str | None = None
    agent: str | None = None


NOWHERE = Origin()


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

    def log(self, level: str, message: str, metadata: Mapping[str, Any], *, origin: Origin = NOWHERE) -> None:
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
        log_level: what is logged below it is dropped, as the standard library counts levels.
        state: the state of the task's agent: ``await ctx.state.update({…})``; see `StateOfAgent`.
        redaction: what is taken out of log lines, progress messages and errors before they are stored.
        is_over: tells whether the attempt has ended: what its code logs after that is nobody's.
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
        current_origin: Callable[[], Origin] = lambda: NOWHERE,
        log_level: int = logging.NOTSET,
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
        self.current_origin = current_origin
        self.log_level = log_level
        self.held = held
        self.redaction = DEFAULT
        self.is_over: Callable[[], bool] = lambda: False
        self.state: StateOfAgent = StandInState()
        self.current_place: Callable[[], str] | None = None
        self.make_children: Callable[[TaskContext], Children] = _no_children
        self._children_made: Children | None = None
        self._log: Any = None

    @property
    def emitter(self) -> Emitter:
        """Where its events go; made when it is first needed."""
        if self._emitter_made is None:
            with self._making:  # Parallel threads may emit their first event at the same time.
                self._emitter_made = self._emitter_made or self._make_emitter()
        return self._emitter_made

    @property
    def children(self) -> Children:
        """Who starts its children; made when it is first needed."""
        if self._children_made is None:
            with self._making:
                self._children_made = self._children_made or self.make_children(self)
        return self._children_made

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
        node, agent = self.current_origin()
        return self.emitter.progress(min(1.0, max(0.0, fraction)), str(message), node=node, agent=agent)

    def named(self, agent_id: str) -> TaskContext:
        """The same handle in another agent's name: its progress and log lines say whose part of the work they are.

        In a graph's nodes the name is the node's without this; it is for a function that calls other agents' functions.

        Raises:
            InvalidNameError: the name is no token.
        """
        require_token("agent", agent_id)
        twin = copy.copy(self)
        twin.current_origin = lambda: Origin(self.current_origin().node, agent_id)
        twin._make_emitter = lambda: self.emitter  # noqa: SLF001 - of its own class
        twin.make_children = lambda _: self.children
        twin._making = threading.Lock()  # noqa: SLF001 - ours is held while ours is made
        twin._log = None  # noqa: SLF001
        return twin

    def _origin(self) -> Origin:
        return self.current_origin()  # Which changes when a graph begins to run.

    def output(self, value: Any) -> Awaitable:
        """Publish a partial result for whoever follows the task; kept for 24 hours.

        Raises:
            NotJsonError: the value has no JSON form; the error names the path.
        """
        return self.emitter.output(value, kind="partial")

    def emit_output(self, value: Any, *, kind: str) -> Awaitable:
        """As `output`, with another kind than ``partial``; for adapters of agent frameworks."""
        return self.emitter.output(value, kind=kind)

    def emit_step(self, type_: str, members: Mapping[str, Any]) -> None:
        """Emit a `cas.step` event; for adapters of agent frameworks."""
        self.emitter.step(type_, members)

    def call(
        self, agent_id: str, input: Mapping[str, Any] | None = None, **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, Any]:
        """Run another agent as a child of this task and wait for its output; in a thread by ``asyncio.run(ctx.call(…))``.

        The same call finds the same child in every attempt of this task: one that has ended is not run again. What
        counts as the same, `runner.child_ids` says; a ``key`` names it. Whoever stops waiting leaves the child running;
        it ends with this task, if that is cancelled or fails.

        Args:
            agent_id: the agent, not this task's own and none that waits for this task.
            input: what it gets, a JSON object.
            options: see `ChildOptions`.

        Raises:
            ChildTaskError: the child did not complete; it carries the child's result.
            ChildConflictError: the key or id was used before, with another agent or input.
            CallCycleError: the agent waits for this task, so that the two could wait for each other.
            AgentUnavailableError: no live runner serves the agent.
            InvalidCommandError, InvalidNameError, NotJsonError, PayloadTooLargeError: nothing was sent.
            AttemptOverError: this attempt has ended, or is another runner's by now.
            NotInTaskError: no task runs here.
        """
        return self.children.call(agent_id, input, self._place_of_call(), options)

    def spawn(
        self, agent_id: str, input: Mapping[str, Any] | None = None, **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, Task]:
        """Start another agent as a child of this task; its handle, whose ``output()`` and ``result()`` wait for it.

        Arguments and errors as for `call`. A child that nobody waits for goes on when this task completes; it is
        cancelled when this task is cancelled or fails.
        """
        return self.children.spawn(agent_id, input, self._place_of_call(), options)

    def _place_of_call(self) -> str:
        return self.current_place() if self.current_place else ""

    @property
    def log(self) -> Any:
        """A structlog logger: ``ctx.log.info("reading", source="…")``.

        The standard library's loggers, called in agent code, say it just as well (`log_bridge`).
        """
        if self._log is None:
            self._log = task_logger(self.emitter, self._origin, self.log_level)
        return self._log

    def is_cancelled(self) -> bool:
        """Whether somebody asked for the task's end; threads and long loops should look now and then."""
        return self._is_cancelled()


def _no_children(_context: TaskContext) -> Children:
    return NoChildren()


class _Done:
    """An awaitable that is done."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


DONE = _Done()


class Breath:
    """An awaitable that lets the event loop run once, and then waits for room."""

    __slots__ = ("_until_room",)

    def __init__(self, until_room: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._until_room = until_room

    def __await__(self) -> Generator[Any, None, None]:
        yield
        yield from self._until_room().__await__()


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

    def log(self, level: str, message: str, metadata: Mapping[str, Any], *, origin: Origin = NOWHERE) -> None:
        """Log the line with the standard logging module."""
        del origin
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


def running_task() -> TaskContext | None:
    """The context of the task that this code runs for; None outside of tasks."""
    return _current.get()


@contextmanager
def task_scope(context: TaskContext) -> Generator[None]:
    """Make a context the current one for a block of code and all that it calls."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
