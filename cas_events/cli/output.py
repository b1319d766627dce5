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
from rich.padding import Padding
from rich.table import Table
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
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    types: Sequence[str] = (),
    indent: int = 0,
) -> None:
    """A table for people.

    Args:
        columns: the headings.
        rows: the cells; texts, `Text`, or any JSON value.
        types: SQL types of the columns; numbers are aligned to the right.
        indent: columns to stand in from the left.
    """
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for position, column in enumerate(columns):
        right = position < len(types) and is_number(types[position])
        table.add_column(
            Text(cell(column)),
            justify="right" if right else "left",
            overflow="fold",
        )
    target = console()
    length = CELL_LENGTH if target.is_terminal else PIPE_WIDTH
    for row in rows:
        table.add_row(*(_shown(value, length) for value in row))
    shown = table if table.row_count else Text("(no rows)", style="dim")
    target.print(Padding.indent(shown, indent) if indent else shown)


def is_number(sql_type: str) -> bool:
    """Whether values of an SQL type are aligned to the right."""
    return sql_type in _RIGHT or sql_type.startswith(_RIGHT_PREFIXES)


def _shown(value: Any, length: int) -> Text:
    return value if isinstance(value, Text) else Text(cut(cell(value), length))
