"""How the log of a command's process is set up: `process_log` for what runs long, plain lines for what asks and ends."""

from __future__ import annotations

import logging

import typer

from cas_events import process_log


def configure_process(level: str, *, service: str) -> None:
    """Log to stderr from ``level`` on: as `process_log.configure_process`, with a wrong level as a usage error."""
    try:
        process_log.configure_process(level, service=service)
    except ValueError as problem:
        raise _usage_error(problem) from None


def configure_command(level: str) -> None:
    """For commands that ask and print: one plain line for each error of the library, and no more unless asked."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter("%(levelname)s %(name)s: %(message)s"))
    try:
        process_log.install(handler, level or "critical")
    except ValueError as problem:
        raise _usage_error(problem) from None


class _PlainFormatter(logging.Formatter):
    """One line of text, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        from cas_events.domain.redaction import DEFAULT  # noqa: PLC0415 - only for commands that have an error

        return DEFAULT.text(super().format(record))


def _usage_error(problem: ValueError) -> typer.BadParameter:
    return typer.BadParameter(str(problem), param_hint="--log-level or CAS_LOG_LEVEL")
