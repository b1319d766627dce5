"""Where output goes: JSON for programs, tables and colours for people, on standard output.

A listing as JSON is one array of objects, a stream is JSON lines. Rich leaves out colours when standard output is no
terminal or NO_COLOR is set; nothing is wrapped or cut to a width there either.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from cas_events.cli.texts import cell, cut, plain

PIPE_WIDTH = 10_000  # of a line that goes to a file or a pipe: nothing is wrapped
CELL_LENGTH = 100  # of a cell on a terminal; `--json` has all of it

_RIGHT = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
)
_RIGHT_PREFIXES = ("DECIMAL", "FLOAT", "DOUBLE", "UHUGEINT")


def console() -> Console:
    """The console on standard output."""
    return _console(stderr=False)


def error_console() -> Console:
    """The console on standard error, for what is neither a result nor an error."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False, emoji=False, markup=False)


def note(text: str) -> None:
    """Say something beside the result, on standard error."""
    error_console().print(Text(plain(text), style="dim"))


def say(text: str) -> None:
    """A line of result, as it is."""
    sys.stdout.write(text + "\n")


def json_bytes(value: Any) -> bytes:
    """A value as JSON; what has no JSON form as its repr."""
    return msgspec.json.encode(value, enc_hook=repr)


def print_json_line(value: Any, *, flush: bool = True) -> None:
    """One line of a JSON stream."""
    sys.stdout.write(json_bytes(value).decode() + "\n")
    if flush:
        sys.stdout.flush()


def print_json_array(rows: Iterable[Any]) -> None:
    """A listing: one array, one element a line."""
    lines = ",\n".join(json_bytes(row).decode() for row in rows)
    sys.stdout.write(f"[\n{lines}\n]\n" if lines else "[]\n")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, types: Sequence[str] = (), indent: int = 0
) -> None:
    """A table for people.

    Each row is one line, whatever the width of the terminal: an id that is broken into pieces cannot be copied.

    Args:
        columns: the headings.
        rows: the cells; texts, `Text`, or any JSON value.
        types: SQL types of the columns; numbers are aligned to the right.
        indent: columns to stand in from the left.
    """
    target = console()
    length = CELL_LENGTH if target.is_terminal else PIPE_WIDTH
    lead = Text(" " * indent)
    cells = [[_shown(value, length) for value in row] for row in rows]
    if not cells:
        target.print(lead + Text("(no rows)", style="dim"))
        return
    headings = [Text(cell(column), style="bold") for column in columns]
    widths = [max(line[at].cell_len for line in (headings, *cells)) for at in range(len(columns))]
    is_right = [at < len(types) and is_number(types[at]) for at in range(len(columns))]
    for line in (headings, *cells):
        for at, text in enumerate(line):
            missing = widths[at] - text.cell_len
            if is_right[at]:
                text.pad_left(missing)
            elif at + 1 < len(line):
                text.pad_right(missing)
        print_line(target, lead + Text("  ").join(line))


def print_line(target: Console, line: Text, *, flush: bool = False) -> None:
    """A line that is neither wrapped nor cut; without a terminal, without the cost of styles."""
    if target.is_terminal:
        target.print(line, soft_wrap=True)
    else:
        target.file.write(line.plain + "\n")
        if flush:
            target.file.flush()


def is_number(sql_type: str) -> bool:
    """Whether values of an SQL type are aligned to the right."""
    return sql_type in _RIGHT or sql_type.startswith(_RIGHT_PREFIXES)


def _shown(value: Any, length: int) -> Text:
    return value if isinstance(value, Text) else Text(cut(cell(value), length))
