"""The processes' own log on stderr: lines for people in a terminal, JSON lines otherwise.

structlog renders what the standard library's loggers say, so modules log with plain `logging`. This is about the
process; what agents log is an event and goes to the stream. Commands that only ask log errors alone.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer

LEVELS = ("debug", "info", "warning", "error")
# Loggers of others that tell at INFO what is none of our user's business.
_CHATTY = ("asyncio", "nats", "httpx", "httpcore", "langsmith")


def configure_process(level: str, *, service: str) -> None:
    """Log to stderr from ``level`` on; each line says which service it is of.

    Args:
        level: one of `LEVELS`; empty for ``info``.
        service: ``runner``, ``projector`` or ``up``.
    """
    import structlog  # noqa: PLC0415 - only long-lived processes need it

    def named(_logger: Any, _method: str, fields: dict[str, Any]) -> dict[str, Any]:
        fields["service"] = service
        return fields

    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        named,
    ]
    renderer: Any = structlog.processors.JSONRenderer()
    traces: list[Any] = [structlog.processors.format_exc_info]
    if sys.stderr.isatty():
        shared[2] = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        renderer, traces = structlog.dev.ConsoleRenderer(), []
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *traces, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    _install(handler, level or "info")


def configure_command(level: str) -> None:
    """For commands that ask and print: one plain line for each error of the library, and no more unless asked."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    _install(handler, level or "critical")


def _install(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_known(level).upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _known(level: str) -> str:
    if level not in (*LEVELS, "critical"):
        raise typer.BadParameter(
            f"{level!r} is none of {', '.join(LEVELS)}", param_hint="--log-level or CAS_LOG_LEVEL"
        )
    return level
