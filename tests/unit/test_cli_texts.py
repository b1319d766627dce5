"""What the command line makes of values: pure functions, so examples suffice."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from cas_events.cli import texts
from cas_events.cli.children import Backoff
from cas_events.cli.demo_report import Sieve
from cas_events.cli.look import event_line
from cas_events.cli.output import is_number
from cas_events.cli.view import TaskView, log_line
from cas_events.domain import events
from cas_events.domain.events import Event

NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)


def event(type_: str, **data: Any) -> Event:
    return Event(
        type=type_,
        task_id="t1",
        agent_id="echo",
        attempt=1,
        index=2,
        time=NOON,
        data=data,
        seq=7,
        stream="CAS_EVENTS",
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\rb", "a\\x0db"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb", "a\\x202eb"),
        ("tab\tstop", "tab    stop"),
        ("two\nlines", "two\nlines"),
        ("[red]markup[/red]", "[red]markup[/red]"),
    ],
)
def test_nothing_that_is_shown_can_steer_the_terminal(text: str, shown: str) -> None:
    assert texts.plain(text) == shown


def test_an_error_is_one_line() -> None:
    assert texts.one_line("first\nsecond\x07\n") == "first second\\x07"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.004, "0.00 s"), (1.234, "1.23 s"), (12.34, "12.3 s"), (125, "2 min 05 s"), (3599.7, "60 min 00 s")],
)
def test_duration_has_a_fitting_precision(seconds: float, shown: str) -> None:
    assert texts.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        ("a\nb", "a b"),
        (3, "3"),
        (True, "true"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (timedelta(1), '"P1D"'),
    ],
)
def test_cell_of_any_value_is_a_line(value: object, shown: str) -> None:
    assert texts.cell(value) == shown


def test_long_text_is_cut_and_says_so() -> None:
    assert texts.cut("abcdef", 4) == "abc…"
    assert texts.cut("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ({"error": {"type": "ValueError", "message": "no"}, "reason": "error"}, "ValueError: no"),
        ({"error": {"type": "E", "message": ""}, "reason": "attempts_exhausted"}, "E (attempts_exhausted)"),
        ({"reason": "enough"}, "enough"),
        ({"reason": "not_json", "detail": "at byte 3"}, "not_json at byte 3"),
        ({}, ""),
        ({"error": "text", "reason": 3}, ""),
    ],
)
def test_failure_is_told_in_a_line(data: dict[str, Any], shown: str) -> None:
    assert texts.failure_text(event(events.FAILED, **data)) == shown


@pytest.mark.parametrize(
    ("type_", "data", "shown"),
    [
        (events.LOG, {"level": "info", "message": "hi", "metadata": {"n": 1, "s": "x"}}, "info hi n=1 s=x"),
        (events.LOG, {"metadata": ["odd"]}, "info "),
        (events.PROGRESS, {"progress": 0.5, "message": "half", "node": "scan"}, "50% scan half"),
        (events.PROGRESS, {"progress": "odd"}, "0%"),
        (events.PROGRESS, {"progress": 7}, "100%"),
        (events.STEP_STARTED, {"node": "scan"}, "scan"),
        (events.STARTED, {"input": {"a": 1}}, 'input={"a":1}'),
        (events.COMPLETED, {"output": None}, "output=null"),
        ("cas.of.tomorrow", {"x": 1}, '{"x":1}'),
    ],
)
def test_every_event_has_a_summary(type_: str, data: dict[str, Any], shown: str) -> None:
    assert texts.summary(event(type_, **data)) == shown


def test_unknown_log_level_counts_as_info() -> None:
    assert texts.level_rank("notice") == texts.level_rank("info") < texts.level_rank("warning")


def test_log_line_has_level_message_and_fields() -> None:
    line = log_line(event(events.LOG, level="warning", message="care", metadata={"file": "a\x1bb"})).plain
    assert line.split(" ", 1)[1] == "warning  care file=a\\x1bb"


def test_event_line_keeps_its_columns() -> None:
    line = event_line(event(events.STARTED, input={})).plain
    assert line.startswith("       7  ")
    assert line.endswith("1.2      input={}")


def test_finding_is_shown_by_place_and_kind() -> None:
    fields = {
        "severity": "high",
        "file": "a b.py",
        "line": 3,
        "title": "shell",
        "tool": "ruff",
        "rule": "S602",
    }
    line = Sieve()(event(events.LOG, message="finding", metadata=fields))
    assert line is not None
    assert line.plain.endswith("high     a b.py:3  shell  (ruff S602)")


def test_unreadable_file_is_shown_with_its_problem() -> None:
    fields = {"problem": "syntax", "file": "x.py", "line": 0, "tool": ""}
    line = Sieve()(event(events.LOG, message="not readable", metadata=fields))
    assert line is not None
    assert line.plain.endswith("syntax   x.py  cannot be looked through")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ({"message": "finding", "metadata": {"severity": "high"}}, 10),
        ({"message": "finding", "metadata": {"severity": "low"}}, 4),
        ({"message": "finding", "metadata": None}, 3),
        ({"message": "files listed", "metadata": {"severity": "high"}}, 3),
        ({}, 3),
    ],
)
def test_sieve_shows_the_first_of_each_kind_and_counts_the_rest(data: dict[str, Any], shown: int) -> None:
    sieve = Sieve()
    lines = [sieve(event(events.LOG, **data)) for _ in range(25)]
    assert sum(line is not None for line in lines) == shown
    assert sieve.hidden == 25 - shown


def view_of(*shown: Event, is_terminal: bool) -> str:
    out = io.StringIO()
    target = Console(file=out, force_terminal=is_terminal, width=120, color_system=None, legacy_windows=False)
    with TaskView(target, "echo") as view:
        for one in shown:
            view.show(one)
    return out.getvalue()


STORY = (
    event(events.STARTED, input={}),
    event(events.PROGRESS, progress=0.25, message="a [red]quarter"),
    event(events.LOG, level="info", message="hello", metadata={}),
    event(events.PROGRESS, progress=0.26, message="hardly more"),
    event(events.RETRYING, error={"type": "E", "message": "again"}),
    event(events.PROGRESS, progress=1, message="done", node="scan"),
    event(events.COMPLETED, output=1),
)


def test_view_on_a_terminal_ends_with_a_full_bar_and_keeps_the_log_above() -> None:
    last = view_of(*STORY, is_terminal=True).split("\r")[-1]
    assert "echo" in last
    assert "100%" in last
    assert "completed" in last
    assert "info     hello" in view_of(*STORY, is_terminal=True)
    assert "a [red]quarter" in view_of(*STORY[:2], is_terminal=True)


def test_view_without_a_terminal_is_lines_with_progress_every_tenth() -> None:
    lines = [line.split(" ", 1)[1] for line in view_of(*STORY, is_terminal=False).splitlines()]
    assert lines == [
        "progress 25% a [red]quarter",
        "info     hello",
        "retrying    E: again",
        "progress 100% scan done",
    ]


@pytest.mark.parametrize(
    ("type_", "number"), [("BIGINT", True), ("DECIMAL(18,3)", True), ("VARCHAR", False), ("JSON", False)]
)
def test_numbers_are_aligned_to_the_right(type_: str, number: bool) -> None:
    assert is_number(type_) is number


def test_backoff_grows_to_a_bound_and_forgets_after_a_steady_life() -> None:
    backoff = Backoff()
    waits = [backoff.after(0.1) for _ in range(8)]
    assert waits[:3] == [0.5, 1.0, 2.0]
    assert waits[-1] == 10.0
    assert backoff.after(120.0) == 0.5
