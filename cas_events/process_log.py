"""The processes' own log on stderr: lines for people in a terminal, JSON lines otherwise.

structlog renders what the standard library's loggers say, so modules log with plain `logging`; ``structlog.get_logger()``
says it, too. This is about the process: what agents log is an event and goes to the stream (`runner.log_bridge`). Secrets
are masked as they are there, and errors come without local variables. Invariants: a line of JSON is one object with
``event``, ``level``, ``logger``, ``timestamp`` (UTC) and ``service``; nothing of ours is written to stdout.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

from cas_events.settings import wants_colour

LEVELS = ("debug", "info", "warning", "error")
FIELDS = "cas_fields"  # of a log record: the fields of a structlog line
PROCESS_LOG = "cas_process_log"  # attribute of a handler: it shows the process's own log, and no task's
# Loggers of others that tell at INFO what is none of our user's business.
_CHATTY = ("asyncio", "nats", "httpx", "httpcore", "langsmith")

_Line = MutableMapping[str, Any]


def configure_process(level: str, *, service: str) -> None:
    """Log to stderr from ``level`` on; each line says which service it is of.

    Args:
        level: one of `LEVELS`; empty for ``info``.
        service: ``runner``, ``projector`` or ``up``.

    Raises:
        ValueError: there is no such level.
    """
    import structlog  # noqa: PLC0415 - only long-lived processes need it

    def named(_logger: Any, _method: str, line: _Line) -> _Line:
        line["service"] = service
        return line

    is_terminal = sys.stderr.isatty()
    renderer: Any = structlog.processors.JSONRenderer()
    if is_terminal:
        renderer = structlog.dev.ConsoleRenderer(
            colors=wants_colour(), exception_formatter=structlog.dev.plain_traceback
        )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            _flat,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if is_terminal else "iso", utc=not is_terminal),
            named,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,  # As text, so that it is masked, too.
            _masked,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    setattr(handler, PROCESS_LOG, True)
    install(handler, level or "info")
    route_structlog()


def install(handler: logging.Handler, level: str) -> None:
    """Make a handler the only one of this process.

    Raises:
        ValueError: there is no such level.
    """
    if level not in (*LEVELS, "critical"):
        raise ValueError(f"{level!r} is none of {', '.join(LEVELS)}")
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def route_structlog() -> None:
    """Have ``structlog.get_logger()`` speak through the standard library's loggers, unless it is configured already."""
    import structlog  # noqa: PLC0415 - see above

    if structlog.is_configured():
        return
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _to_stdlib],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _to_stdlib(_logger: Any, _method: str, line: _Line) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The last processor of `route_structlog`: what the method of the standard library's logger is called with."""
    message = str(line.pop("event", ""))
    said = {name: line.pop(name) for name in ("exc_info", "stack_info") if name in line}
    return (message,), {**said, "extra": {FIELDS: dict(line)}}


def _flat(_logger: Any, _method: str, line: _Line) -> _Line:
    """The fields of a structlog line beside the others, which win."""
    own = line.pop(FIELDS, {})
    return {**own, **line}


def _masked(_logger: Any, _method: str, line: _Line) -> _Line:
    """The line without secrets; what is no JSON value is looked at as its repr."""
    from cas_events.domain.redaction import DEFAULT  # noqa: PLC0415 - see above

    masked: _Line = DEFAULT.value({name: _plain(value) for name, value in line.items()})
    return masked


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return value if value is None or isinstance(value, str | int | float) else repr(value)
