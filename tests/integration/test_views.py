"""The views for common questions, against values that were worked out by hand from a small log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.subjects import Names
from projections.fold import Fold
from projections.queries import query_file

NAMES = Names("cas")
NINE = datetime(2026, 11, 22, 9, tzinfo=UTC)
_NS = 1_000_000_000


class Log:
    """A log that is written by hand: seconds after nine, agent, task, attempt, index, type, data."""

    def __init__(self) -> None:
        self.commands: list[StoredMessage] = []
        self.events: list[StoredMessage] = []

    def execute(self, at_s: float, agent: str, task: str, **body: Any) -> None:
        self._store(self.commands, NAMES.commands, NAMES.execute(agent, task), at_s, body)

    def event(self, at_s: float, key: tuple[str, str, int, int], type_: str, **data: Any) -> None:
        agent, task, attempt, index = key
        event = {
            "specversion": "1.0", "id": f"{task}.{attempt}.{index}", "source": "cas/runner/r", "type": f"cas.{type_}",
            "subject": task, "time": (NINE + timedelta(seconds=at_s)).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "agentid": agent, "attempt": attempt, "index": index, "correlationid": task, "dataversion": 1, "data": data,
        }  # fmt: skip
        self._store(
            self.events, NAMES.events, NAMES.event(type_.split(".", maxsplit=1)[0], agent, task), at_s, event
        )

    def _store(
        self, messages: list[StoredMessage], stream: str, subject: str, at_s: float, body: dict[str, Any]
    ) -> None:
        time_ns = int((NINE + timedelta(seconds=at_s)).timestamp()) * _NS + int(at_s % 1 * _NS)
        seq = len(messages) + 1
        messages.append(StoredMessage(stream, seq, subject, time_ns, json.dumps(body).encode()))


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Path]:
    log = Log()
    # Four runs of `a` that end within the hour: 1, 2, 3 and 10 s; one of them fails. One after ten is `a`'s, too.
    for n, took_s in enumerate((1, 2, 3)):
        log.execute(0, "a", f"t{n}")
        log.event(1, ("a", f"t{n}", 1, 0), "task.started", tries=1)
        log.event(1 + took_s, ("a", f"t{n}", 1, 1), "task.completed", tries=1, output={})
    log.execute(60, "a", "bad", parent_id="t0")
    bad = [
        (60, 1, 0, "task.started", {"tries": 1}),
        (61, 1, 1, "task.retrying", {"tries": 2, "error": {"type": "ValueError", "message": "no"}, "delay_s": 1}),
        (62, 2, 0, "task.started", {"tries": 2}),
        (63, 2, 1, "task.retrying", {"tries": 2, "error": {"type": "handover", "message": ""}, "delay_s": 0}),
        (64, 3, 0, "task.started", {"tries": 2}),
        (65, 4, 0, "task.started", {"tries": 3}),  # a crash
        (66, 4, 1, "step.started", {"node": "qa"}),
        (70, 4, 2, "task.failed", {"tries": 3, "error": {"type": "ValueError", "message": "no"}, "reason": "error"}),
    ]  # fmt: skip
    for at_s, attempt, index, type_, data in bad:
        log.event(at_s, ("a", "bad", attempt, index), type_, **data)
    log.execute(3600, "a", "late")
    log.execute(0, "b", "refused")
    log.event(1, ("b", "refused", 1, 0), "task.rejected", reason="bad_body", detail="x", raw="")
    log.execute(70, "b", "leaf", parent_id="bad")
    lines = [
        ("debug", "looking", {"file": "a.py"}),
        ("info", "Found it", {"file": "b.py", "line": 7}),
        ("error", "broke", {"node": "qa"}),
    ]
    for n, (level, message, metadata) in enumerate(lines):
        log.event(80 + n, ("a", "late", 1, n), "log", level=level, message=message, metadata=metadata)
    path = tmp_path / "cas.duckdb"
    fold = Fold(path, "cas")
    fold.apply(log.commands, log.events)
    fold.close()
    return path


async def test_agent_metrics(tables: Path) -> None:
    result = await query_file(tables, "FROM cas_agent_metrics ORDER BY agent_id, hour")
    first, later, other = result.dicts()
    assert first == {
        "agent_id": "a", "hour": "2026-11-22T09:00:00Z", "tasks": 4, "runs": 4, "completed": 3, "failed": 1,
        "cancelled": 0, "rejected": 0, "success_rate": 0.75, "p50_s": 2.5, "p95_s": pytest.approx(3 + 0.85 * 7),
        "p99_s": pytest.approx(3 + 0.97 * 7), "retries": 2,
    }  # fmt: skip
    assert (later["hour"], later["tasks"], later["runs"], later["success_rate"]) == (
        "2026-11-22T10:00:00Z",
        1,
        0,
        None,
    )
    assert (other["runs"], other["rejected"], other["success_rate"]) == (0, 1, None)


async def test_task_timeline(tables: Path) -> None:
    sql = "SELECT type, what, since_last_s, since_start_s FROM cas_task_timeline WHERE task_id = 'bad' ORDER BY seq"
    assert (await query_file(tables, sql)).rows == [
        ("cas.task.started", "attempt 1", None, 0),
        ("cas.task.retrying", "no", 1, 1),
        ("cas.task.started", "attempt 2", 1, 2),
        ("cas.task.retrying", "", 1, 3),
        ("cas.task.started", "attempt 3", 1, 4),
        ("cas.task.started", "attempt 4", 1, 5),
        ("cas.step.started", "qa", 1, 6),
        ("cas.task.failed", "no", 4, 10),
    ]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("", ["looking", "Found it", "broke"]),
        ("'found'", ["Found it"]),
        ("'A.PY'", ["looking"]),
        ("min_level := 'info'", ["Found it", "broke"]),
        ('fields := \'{"node": "qa"}\'', ["broke"]),
        ('fields := \'{"line": 7, "file": "b.py"}\'', ["Found it"]),
        ("agent := 'b'", []),
        ("task := 'late', min_level := 'error'", ["broke"]),
    ],
)
async def test_log_search(tables: Path, arguments: str, found: list[str]) -> None:
    rows = (await query_file(tables, f"SELECT message FROM cas_log_search({arguments})")).rows
    assert [message for (message,) in rows] == found


async def test_workflow_tree_as_a_view_and_of_one_family(tables: Path) -> None:
    view = "SELECT root_id, depth, task_id FROM cas_workflow_tree WHERE root_id = 't0' ORDER BY path"
    assert (await query_file(tables, view)).rows == [("t0", 0, "t0"), ("t0", 1, "bad"), ("t0", 2, "leaf")]
    family = "SELECT depth, task_id, status FROM cas_workflow_tree(?)"
    assert (await query_file(tables, family, ["leaf"])).rows == [
        (0, "t0", "completed"),
        (1, "bad", "failed"),
        (2, "leaf", "queued"),
    ]


async def test_views_of_the_past(tables: Path) -> None:
    """As of the third event: one task has run, the next one has started."""
    sql = "SELECT tasks, runs, completed FROM cas_agent_metrics WHERE agent_id = 'a'"
    assert (await query_file(tables, sql, as_of=3)).rows == [(3, 2, 1)]
    timeline = "SELECT count(*) FROM cas_task_timeline"
    assert (await query_file(tables, timeline, as_of=3)).rows == [(3,)]


async def test_a_name_of_the_question_does_not_reach_into_a_view(tables: Path) -> None:
    sql = "WITH cas_tasks AS (SELECT 1) SELECT count(*) FROM cas_agent_metrics"
    assert (await query_file(tables, sql)).rows == [(3,)]
