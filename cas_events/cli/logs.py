"""The processes' own log on stderr: lines for people in a terminal, JSON lines otherwise.

structlog renders what the standard library's loggers say, so modules log with plain `logging`; ``structlog.get_logger()``
says it, too. This is about the process: what agents log is an event and goes to the stream (`runner.log_bridge`). Secrets
are masked as they are there. Commands that only ask log errors alone.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
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

    from cas_events.runner.task_logger import PROCESS_LOG, route_structlog  # noqa: PLC0415 - the same

    def named(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        fields["service"] = service
        return fields

    is_terminal = sys.stderr.isatty()
    time = structlog.processors.TimeStamper(fmt="%H:%M:%S" if is_terminal else "iso", utc=not is_terminal)
    renderer: Any = structlog.processors.JSONRenderer(default=repr)
    if is_terminal:
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            _flat,
            time,
            named,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            # As text, so that it is masked, too; and without the local variables, which are nobody's business.
            structlog.processors.format_exc_info,
            _masked,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    setattr(handler, PROCESS_LOG, True)
    route_structlog()
    _install(handler, level or "info")


def _flat(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The fields of a structlog line beside the others."""
    from cas_events.runner.task_logger import FIELDS  # noqa: PLC0415 - loaded by then

    own = fields.pop(FIELDS, {})
    return {**own, **fields}


def _masked(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    """The line without secrets; what is no JSON value is looked at as its repr."""
    from cas_events.domain.redaction import DEFAULT  # noqa: PLC0415 - commands that have no secret to hide

    masked = DEFAULT.value({name: _plain(value) for name, value in fields.items()})
    assert isinstance(masked, dict)
    return masked


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return value if value is None or isinstance(value, str | int | float) else repr(value)


def configure_command(level: str) -> None:
    """For commands that ask and print: one plain line for each error of the library, and no more unless asked."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainFormatter("%(levelname)s %(name)s: %(message)s"))
    _install(handler, level or "critical")


class _PlainFormatter(logging.Formatter):
    """One line of text, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        from cas_events.domain.redaction import DEFAULT  # noqa: PLC0415 - only for commands that have an error

        return DEFAULT.text(super().format(record))


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
