"""The standard library's loggers inside agents: what is said for a task becomes its `cas.log` event.

Whose a line is, the context variable of the task says: coroutines, `asyncio.to_thread`, `run_in_executor` and the nodes
of graphs carry it; a bare ``threading.Thread`` does not, unless it runs in a `contextvars.copy_context()`. In the
process of an isolated agent everything is the one task's. Lines of nobody's stay in the process's own log, and so do
those of attempts that have ended, and those of this package and of NATS, which are about the process: a line about an event that cannot be stored must not
become an event.

The root logger's level is lowered to that of the most talkative agent, and all other handlers get no more than before.
Invariants: nothing is raised into the code that logs; several runners of a process share the bridge, and the last one
leaves the root logger as it was.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import structlog

from cas_events.process_log import FIELDS, PROCESS_LOG
from cas_events.runner.context import TaskContext, running_task
from cas_events.runner.task_logger import level_name

_OURS = frozenset({"cas_events", "projections", "nats", "asyncio"})
_AGENTS = "cas_events.agents."
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", FIELDS}


@contextmanager
def bridged(level: int) -> Generator[None]:
    """Bridge for the length of a block.

    Args:
        level: of the most talkative agent, as the standard library counts.
    """
    _bridge.open(level)
    try:
        yield
    finally:
        _bridge.close_once()


def lower_to(level: int) -> None:
    """An agent was added that says more than those before it."""
    _bridge.lower_to(level)


def give_all_to(context: TaskContext) -> None:
    """In the process of an isolated agent: whatever is logged from now on is this task's."""
    _bridge.sole = context
    _bridge.open(context.log_level)


class _Bridge(logging.Handler):
    """The handler; there is one in a process."""

    def __init__(self) -> None:
        super().__init__()
        self.sole: TaskContext | None = None
        self._opening = threading.Lock()
        self._users = 0
        self._level_before = logging.WARNING
        self._held_back: list[tuple[logging.Handler, _AsBefore]] = []
        self._here = threading.local()

    # --- between the runners of a process --------------------------------------------------------------------------------

    def open(self, level: int) -> None:
        """One user more."""
        root = logging.getLogger()
        with self._opening:
            self._users += 1
            if self._users == 1:
                self._level_before = root.level
                for handler in root.handlers:
                    as_before = _AsBefore(self, handler, root.level)
                    handler.addFilter(as_before)
                    self._held_back.append((handler, as_before))
                root.addHandler(self)
            root.setLevel(min(level, root.level))

    def lower_to(self, level: int) -> None:
        """Have the root logger pass on lines from this level on, while somebody uses the bridge."""
        root = logging.getLogger()
        with self._opening:
            if self._users:
                root.setLevel(min(level, root.level))

    def close_once(self) -> None:
        """One user less."""
        root = logging.getLogger()
        with self._opening:
            self._users -= 1
            if self._users:
                return
            root.removeHandler(self)
            for handler, as_before in self._held_back:
                handler.removeFilter(as_before)
            self._held_back.clear()
            root.setLevel(self._level_before)

    # --- one line --------------------------------------------------------------------------------------------------------

    def owner(self, record: logging.LogRecord) -> TaskContext | None:
        """The task whose line it is; None for the process."""
        if getattr(self._here, "is_emitting", False) or _is_ours(record.name):
            return None
        context = running_task() or self.sole
        return None if context is None or context.is_over() else context

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a line, from any thread; without the lock that other handlers have, since nothing here needs one."""
        context = self.owner(record)
        if context is None:
            self._fall_back(record)
        elif record.levelno >= context.log_level:
            self._here.is_emitting = True  # What an object's own repr logs is not about the task.
            try:
                context.emitter.log(
                    level_name(record.levelno),
                    _message(record),
                    _fields(record),
                    origin=context.current_origin(),
                )
            except Exception:  # Agent code must not fail because it logs.
                self.handleError(record)
            finally:
                self._here.is_emitting = False
        return True

    def _fall_back(self, record: logging.LogRecord) -> None:
        """As the standard library does where nobody has configured a handler: warnings go to stderr."""
        last = logging.lastResort
        if last is None or record.levelno < max(last.level, self._level_before):
            return
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return
            logger = logger.parent if logger.propagate else None
        last.handle(record)


class _AsBefore(logging.Filter):
    """For another handler of the root logger: no more than it got before the level was lowered.

    The process's own log does not show what is a task's, and names the task where a line is about one.
    """

    def __init__(self, bridge: _Bridge, handler: logging.Handler, level: int) -> None:
        super().__init__()
        self._bridge = bridge
        self._is_process_log = getattr(handler, PROCESS_LOG, False)
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the handler gets it."""
        if self._is_process_log:
            if self._bridge.owner(record) is not None:
                return False
            context = running_task()
            if context is not None:
                record.task_id, record.agent_id = context.task_id, context.agent_id
                record.attempt = context.attempt
        return record.levelno >= self._level or _has_own_level(record.name)


def _has_own_level(name: str) -> bool:
    """Whether a logger's level is its own or a parent's, and not the root's."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None and logger.parent is not None:
        if logger.level != logging.NOTSET:
            return True
        logger = logger.parent
    return False


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in _OURS and not name.startswith(_AGENTS)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as problem:  # Arguments that do not fit their message are no reason to lose both.
        return f"{record.msg!r} with {record.args!r} ({type(problem).__name__})"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The logger's name, what was bound or passed as ``extra``, and the error as text."""
    fields: dict[str, Any] = {"logger": record.name, **structlog.contextvars.get_contextvars()}
    fields |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
    fields |= record.__dict__.get(FIELDS, {})
    if record.exc_info and record.exc_info[0] is not None:
        fields["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    elif record.exc_text:
        fields["exception"] = record.exc_text
    if record.stack_info:
        fields["stack"] = record.stack_info
    return fields


_bridge = _Bridge()
