"""From arguments to an exit code: the one place where errors become a line on stderr.

Exit codes: 0 only on success; 1 an error; 2 wrong usage or a path that is not there; 130 Ctrl-C. Every error is one
line, ``error: …``; ``CAS_DEBUG=1`` adds the stack trace of those that nobody expected.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper

from typer import Abort, Typer, TyperException

from cas_events.cli.app import app
from cas_events.cli.texts import one_line
from cas_events.errors import CasEventsError, PathNotFoundError
from cas_events.settings import wants_traces

ERROR = 1
USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141  # as a shell says it of a program that SIGPIPE ended


def main(app: Typer = app, name: str = "cas") -> None:
    """Run with the process's own arguments, and end the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # A terminal that cannot show a character gets its number.
            stream.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:], app, name)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.current_thread()):
        # A call that cannot be cancelled, for example: the interpreter would wait for its thread.
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str], app: Typer = app, name: str = "cas") -> int:
    """Run one command and return the exit code."""
    try:
        code = app(list(arguments), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except TyperException as error:
        return _say(f"{error.format_message()} (see `{_command_path(error, name)} --help`)", error.exit_code)
    except (Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as end:  # Typer's answer to a broken pipe.
        return BROKEN_PIPE if isinstance(end.__context__, BrokenPipeError) else ERROR
    except BrokenPipeError:
        # Whoever read has gone. What is still buffered must not raise again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    except Exception as error:  # Said in one line below; nothing is swallowed.
        return _say_error(error)
    return code if isinstance(code, int) else 0


def _say_error(error: Exception) -> int:
    error = _first(error)
    if wants_traces():
        traceback.print_exception(error)
    if isinstance(error, CasEventsError):
        # Errors name the parameter of the Python call; here it is an option.
        text = str(error).replace("pass wait_for_runner_s", "pass --wait-for-runner SECONDS")
        return _say(text, USAGE if isinstance(error, PathNotFoundError) else ERROR)
    hint = "" if wants_traces() else " (CAS_DEBUG=1 shows where)"
    return _say(f"{type(error).__name__}: {error}{hint}", ERROR)


def _first(error: Exception) -> Exception:
    """The first error in a nest of groups: one line has room for one."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"error: {one_line(message)}\n")
    return code


def _command_path(error: TyperException, name: str) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else name
