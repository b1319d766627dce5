"""``ctx.log``: a structlog logger whose lines become `cas.log` events, from the agent's level on.

Fields that are bound, with ``bind`` or in structlog's context variables, are in every line. The level is decided by
methods that do nothing, so that a line below it costs next to nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from cas_events.runner.context import Emitter, Origin

LEVELS = ("debug", "info", "warning", "error", "critical")


def level_number(level: str) -> int:
    """A level as the standard library counts it."""
    return int(getattr(logging, level.upper()))


def level_name(number: int) -> str:
    """The level that a number of the standard library, perhaps between two levels, belongs to."""
    return LEVELS[min(max(number // 10, 1), len(LEVELS)) - 1]  # They are 10 apart, from 10 on.


def task_logger(emitter: Emitter, origin: Callable[[], Origin], level: int) -> Any:
    """A structlog logger for an attempt.

    Args:
        emitter: where lines go.
        origin: where in a workflow a line is said.
        level: lines below it are dropped, as the standard library counts levels.
    """
    return structlog.wrap_logger(
        _LogSink(emitter, origin),
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.format_exc_info, _split],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
    )


def _split(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The last structlog processor: hand the level, the message and the fields to the sink."""
    message = event.pop("event", "")
    return (str(message), event), {}


class _LogSink:
    """The innermost logger: one method a level, each an event."""

    def __init__(self, emitter: Emitter, origin: Callable[[], Origin]) -> None:
        self._emitter = emitter
        self._origin = origin

    def __getattr__(self, level: str) -> Callable[[str, dict[str, Any]], None]:
        if level not in LEVELS:
            raise AttributeError(level)
        return lambda message, metadata: self._emitter.log(level, message, metadata, origin=self._origin())
