"""Rows as they are against rows as they must be: pure.

Each table has its SQL, which brings times as microseconds, JSON as text and bytes as base64, and its columns with what
kind of value they hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from projections.verify.plain_fold import ANY, COMMANDS, EVENTS, LETTERS, LOGS
from projections.verify.values import Row, found_text, shown_found, shown_text

TASKS, AGENTS, STATES = "cas_tasks", "cas_agents", "cas_agent_state"
ROW = "(row)"


class Difference(msgspec.Struct, frozen=True):
    """One place where a table is not what the log says.

    Attributes:
        table: its name.
        key: of the row.
        column: which one, or `ROW` for a row that is missing or too many.
        expected: what the log says.
        found: what the table has.
    """

    table: str
    key: str
    column: str
    expected: Any
    found: Any


class Table(msgspec.Struct, frozen=True):
    """How a table is read.

    Attributes:
        name: of the table.
        columns: names and kinds: ``p`` plain, ``j`` JSON, ``t`` text, ``u`` time, ``b`` bytes.
        key: how many of the first columns tell rows apart.
        changed: position of the column that says which event changed the row last; -1: rows never change.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    key: int = 1
    changed: int = -1

    @property
    def select(self) -> str:
        """The beginning of the query, up to WHERE."""
        forms = {"j": "{}::VARCHAR", "u": "epoch_us({})", "b": "base64({})"}
        shown = ", ".join(forms.get(kind, "{}").format(f'"{name}"') for name, kind in self.columns)
        return f"SELECT {shown} FROM {self.name}"  # noqa: S608 - constants

    @property
    def key_columns(self) -> str:
        """For ORDER BY and the like."""
        return ", ".join(f'"{name}"' for name, _ in self.columns[: self.key])


def _columns(text: str) -> tuple[tuple[str, str], ...]:
    """``name:kind`` by blanks; a kind that is not given is plain."""
    pairs = (item.partition(":") for item in text.split())
    return tuple((name, kind or "p") for name, _, kind in pairs)


BY_NAME = {
    table.name: table
    for table in (
        Table(EVENTS, _columns("seq id type task_id agent_id attempt index time:u data:j")),
        Table(LOGS, _columns("seq task_id agent_id attempt level:t message:t metadata:j time:u")),
        Table(COMMANDS, _columns("seq kind agent_id task_id time:u data:j")),
        Table(LETTERS, _columns("seq stream subject task_id agent_id reason:t detail:t raw:b time:u")),
        Table(
            TASKS,
            _columns(
                "task_id agent_id status attempt progress message:t input:j output:j error:j metadata:j parent_id"
                " correlation_id created_at:u started_at:u finished_at:u cancel_reason:t last_seq"
            ),
            changed=16,
        ),
        Table(
            AGENTS,
            _columns("agent_id status version:t schema:j registered_at:u breaker paused last_seq"),
            changed=7,
        ),
        Table(STATES, _columns("agent_id key revision state:j time:u seq"), key=2, changed=5),
    )
}


def differences(table: Table, expected: Sequence[Row], found: Sequence[Row]) -> Iterator[Difference]:
    """What is not as it must be; both sorted by key, without a key twice in ``expected``."""
    wanted = {row[: table.key]: row for row in expected}
    seen = set()
    for row in found:
        key = row[: table.key]
        if key in seen or key not in wanted:
            yield Difference(
                table.name, key_text(key), ROW, "no row", "the row twice" if key in seen else "a row"
            )
        else:
            yield from row_differences(table, wanted[key], row)
        seen.add(key)
    for key in wanted:
        if key not in seen:
            yield Difference(table.name, key_text(key), ROW, "a row", "no row")


def row_differences(table: Table, expected: Row, found: Row) -> Iterator[Difference]:
    """The columns that differ."""
    for (name, kind), want, have in zip(table.columns, expected, found, strict=True):
        shown = _shown(kind, have, want)
        if want not in (shown, ANY):
            yield Difference(table.name, key_text(expected[: table.key]), name, want, shown)


def key_text(key: Row) -> str:
    """A key for people."""
    return "/".join(str(part) for part in key)


def _shown(kind: str, value: Any, expected: Any) -> Any:
    if value is None or kind in "pu":
        return value
    if kind == "j":
        return shown_found(value)
    return shown_text(value) if kind == "b" else found_text(value, expected)
