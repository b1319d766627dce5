"""What each kind of event and command makes of the tables, one small log at a time, in a real DuckDB file."""

from __future__ import annotations

import base64
import json
import multiprocessing
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cas_events.errors import ProjectionError
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.envelope import encode_agent_event
from projections.fold import Fold
from tests.property.projection_model import Command, Fact, command_message, event_message

START_NS = 1_795_338_000_000_000_000


class Log:
    """A projection that is given one event after the other."""

    def __init__(self, path: Path) -> None:
        self.fold = Fold(path, "cas")
        self._seq = 0
        self._command_seq = 0

    def task(
        self, type_: str, attempt: int, index: int, *, agent: str = "analyst", task: str = "t1", **data: Any
    ) -> int:
        return self._put(event_message(self._seq + 1, Fact(type_, agent, task, attempt, index, data)))

    def agent(self, type_: str, *, on: str = "cas.evt.agent.analyst", **data: Any) -> int:
        payload = encode_agent_event(
            type_,
            event_id=f"id-{self._seq + 1}",
            source="cas/runner/r1",
            agent_id="analyst",
            time_ns=START_NS + self._seq * 1000,
            data=json.dumps(data).encode(),
        )
        return self._put(StoredMessage("CAS_EVENTS", self._seq + 1, on, START_NS, payload))

    def command(self, command: Command) -> None:
        self._command_seq += 1
        self.fold.apply([command_message(self._command_seq, command)], [])

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        reader = self.fold.reader()
        try:
            return reader.execute(sql)
        finally:
            reader.close()

    def _put(self, message: StoredMessage) -> int:
        self._seq += 1
        self.fold.apply([], [message])
        return self._seq


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "cas.duckdb")
    yield log
    log.fold.close()


COLUMNS = {
    "cas_tasks": "task_id, agent_id, status, attempt, progress, message, input, output, error, metadata, parent_id,"
    " correlation_id, created_at, started_at, finished_at, cancel_reason, last_seq",
    "cas_agent_logs": "seq, task_id, agent_id, attempt, level, message, metadata, time",
    "cas_agent_events": "seq, id, type, task_id, agent_id, attempt, index, time, data",
    "cas_commands": "seq, kind, agent_id, task_id, time, data",
    "cas_agents": "agent_id, status, version, schema, registered_at, breaker, paused, last_seq",
    "cas_agent_state": "agent_id, key, revision, state, time, seq",
    "cas_dead_letters": "seq, stream, subject, task_id, agent_id, reason, detail, raw, time",
    "cas_projection": "stream, last_seq, version",
}


@pytest.mark.parametrize("table", COLUMNS)
def test_tables_have_the_columns_of_the_design(log: Log, table: str) -> None:
    names = [row[0] for row in log.rows(f"DESCRIBE {table}")]
    assert ", ".join(names) == COLUMNS[table]
    kind = log.rows(f"SELECT table_type FROM information_schema.tables WHERE table_name = '{table}'")
    assert kind == [("BASE TABLE",)]


def test_zombie_progress_of_an_old_attempt_is_not_shown(log: Log) -> None:
    log.task("cas.task.started", 1, 0)
    log.task("cas.progress", 1, 1, progress=0.5, message="old")
    assert log.rows("SELECT attempt, progress, message FROM cas_tasks") == [(1, 0.5, "old")]
    started = log.task("cas.task.started", 2, 0)
    assert log.rows("SELECT attempt, progress, message FROM cas_tasks") == [(2, None, None)]
    log.task("cas.progress", 1, 2, progress=0.9, message="zombie")
    assert log.rows("SELECT attempt, progress, message, last_seq FROM cas_tasks") == [
        (2, None, None, started)
    ]
    shown = log.task("cas.progress", 2, 1, progress=0.1, message="new")
    assert log.rows("SELECT attempt, progress, message, last_seq FROM cas_tasks") == [(2, 0.1, "new", shown)]


def test_nothing_changes_a_task_after_its_end(log: Log) -> None:
    log.task("cas.task.started", 1, 0, input={"q": 1})
    log.task("cas.task.completed", 1, 3, output={"a": 1})
    before = log.rows("FROM cas_tasks")
    log.task("cas.progress", 1, 2, progress=0.9, message="late")
    log.task("cas.task.started", 2, 0)
    log.task("cas.task.failed", 2, 1, reason="error", error={"type": "E", "message": "m"})
    assert log.rows("FROM cas_tasks") == before
    assert log.rows("SELECT count(*) FROM cas_agent_events") == [(5,)]


def test_command_completes_what_events_began(log: Log) -> None:
    log.task("cas.task.started", 1, 0, input={"q": 1})
    log.task("cas.task.completed", 1, 1, output={"a": 1})
    log.command(
        Command("execute", "analyst", "t1", {"input": {"q": 2}, "metadata": {"by": "me"}, "parent_id": "p1"})
    )
    [row] = log.rows(
        "SELECT status, input, output, metadata, parent_id, created_at < started_at FROM cas_tasks"
    )
    assert row == ("completed", '{"q":2}', '{"a":1}', '{"by":"me"}', "p1", False)


def test_duplicate_task_touches_events_commands_and_dead_letters_only(log: Log) -> None:
    log.command(Command("execute", "analyst", "t1", {"input": {"q": 1}}))
    log.task("cas.task.started", 1, 0)
    before = log.rows("FROM cas_tasks"), log.rows("FROM cas_task_fold_internal")
    log.command(Command("execute", "tester", "t1", {"input": {"q": 2}}))
    seq = log.task(
        "cas.task.rejected",
        0,
        2,
        agent="tester",
        reason="duplicate_task",
        detail="taken",
        raw=base64.b64encode(b"{}").decode(),
    )
    log.task("cas.task.rejected", 0, 2, agent="tester", reason="duplicate_task", detail="resent")
    assert log.rows("FROM cas_tasks") == before[0]
    assert log.rows("SELECT kind, agent_id FROM cas_commands") == [
        ("execute", "analyst"),
        ("execute", "tester"),
    ]
    assert log.rows(
        "SELECT seq, stream, subject, task_id, agent_id, reason, detail, raw FROM cas_dead_letters"
    ) == [(seq, "CAS_EVENTS", "cas.evt.task.tester.t1", "t1", "tester", "duplicate_task", "taken", b"{}")]


def test_dead_letters_come_from_the_log(log: Log) -> None:
    log.task("cas.task.rejected", 1, 0, reason="bad_body", detail="not JSON", raw="eA==", task="t1")
    log.task(
        "cas.task.failed",
        1,
        1,
        task="t2",
        reason="attempts_exhausted",
        error={"type": "E", "message": "boom"},
    )
    log.task("cas.task.failed", 1, 1, task="t3", reason="error", error={"type": "E", "message": "boom"})
    log.agent(
        "cas.agent.command_ignored",
        command_seq=4,
        subject="cas.cmd.resume.analyst.t4.i-1",
        reason="unreadable",
        raw="/w==",
    )
    log.task("cas.task.rejected", 1, 0, reason="bad_body", detail="no base64", raw="!!!", task="t5")
    assert log.rows(
        "SELECT seq, task_id, agent_id, reason, detail, raw FROM cas_dead_letters ORDER BY seq"
    ) == [
        (1, "t1", "analyst", "bad_body", "not JSON", b"x"),
        (2, "t2", "analyst", "attempts_exhausted", "boom", None),
        (4, "t4", "analyst", "unreadable", "cas.cmd.resume.analyst.t4.i-1", b"\xff"),
        (5, "t5", "analyst", "bad_body", "no base64", None),
    ]
    assert log.rows("SELECT status, error FROM cas_tasks WHERE task_id = 't1'") == [
        ("rejected", '{"type":"bad_body","message":"not JSON"}')
    ]


def test_agents_show_the_latest_facts(log: Log) -> None:
    log.agent("cas.agent.breaker_opened")
    assert log.rows("SELECT agent_id, status, breaker, paused FROM cas_agents") == [
        ("analyst", None, "open", False)
    ]
    log.agent("cas.agent.registered", version="1.2", schema={"type": "object"})
    log.agent("cas.agent.paused")
    log.agent("cas.agent.breaker_half_opened")
    last = log.agent("cas.agent.breaker_closed")
    log.agent("cas.agent.command_ignored", subject="x")
    log.agent("cas.agent.unheard_of")
    assert log.rows("SELECT status, version, schema, breaker, paused, last_seq FROM cas_agents") == [
        ("registered", "1.2", '{"type":"object"}', "closed", True, last)
    ]
    log.agent("cas.agent.unpaused")
    log.agent("cas.agent.deregistered")
    assert log.rows("SELECT status, version, paused FROM cas_agents") == [("deregistered", "1.2", False)]
    log.agent("cas.agent.registered")
    assert log.rows("SELECT status, version, schema FROM cas_agents") == [("registered", None, None)]
    assert log.rows("SELECT DISTINCT task_id, attempt, index FROM cas_agent_events") == [(None, None, None)]


def test_state_is_the_highest_revision(log: Log) -> None:
    log.agent("cas.state.updated", on="cas.evt.state.analyst", state={"a": 1}, revision=1)
    log.agent("cas.state.updated", on="cas.evt.state.analyst.k", state={"b": 1}, revision=1)
    log.agent("cas.state.updated", on="cas.evt.state.analyst", state={"a": 3}, revision=3)
    log.agent("cas.state.updated", on="cas.evt.state.analyst", state={"a": 2}, revision=2)
    log.agent("cas.state.updated", on="cas.evt.state.analyst", state={"a": 4}, revision=3)
    log.agent("cas.state.updated", on="cas.evt.state.analyst", state={"a": 5}, revision="x")
    assert log.rows("SELECT agent_id, key, revision, state, seq FROM cas_agent_state ORDER BY key") == [
        ("analyst", "", 3, '{"a":3}', 3),
        ("analyst", "k", 1, '{"b":1}', 2),
    ]
    log.agent("cas.state.reset", on="cas.evt.state.analyst", state={}, revision=4)
    assert log.rows("SELECT revision, state FROM cas_agent_state WHERE key = ''") == [(4, "{}")]


def test_audit_and_unknown_events_are_kept(log: Log) -> None:
    log.agent("com.example.thing", on="cas.evt.agent.analyst")
    payload = json.dumps({
        "specversion": "1.0", "id": "h1", "source": "cas/projector/p", "type": "cas.audit.head",
        "time": "2026-11-22T09:00:00Z", "data": {"hash": "x"},
    }).encode()  # fmt: skip
    log.fold.apply([], [StoredMessage("CAS_EVENTS", 2, "cas.evt.audit.head", START_NS, payload)])
    assert log.rows("SELECT type, agent_id, task_id FROM cas_agent_events ORDER BY seq") == [
        ("com.example.thing", "analyst", None),
        ("cas.audit.head", None, None),
    ]


def test_file_of_another_deployment_or_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cas.duckdb"
    fold = Fold(path, "cas")
    with pytest.raises(ProjectionError, match="holds CAS_COMMANDS, CAS_EVENTS, not DOG_COMMANDS, DOG_EVENTS"):
        Fold(path, "dog")
    fold._connection.execute("UPDATE cas_projection SET version = 99")
    fold.close()
    with pytest.raises(ProjectionError, match="is of projection version 99"):
        Fold(path, "cas")


def _fill_until_it_fails(path: Path, limit_bytes: int, outcome: Any) -> None:
    """In a process of its own, whose files cannot grow beyond the limit."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    fold = Fold(path, "cas")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        for batch in range(1000):
            fold.apply([], [_log_line(batch * 100 + n) for n in range(1, 101)])
    except ProjectionError as error:
        outcome.put((str(error), fold.positions.events))


def _log_line(seq: int) -> StoredMessage:
    return event_message(
        seq, Fact("cas.log", "analyst", f"t{seq // 7}", 1, seq % 7, {"message": f"{seq * 7919}" * 100})
    )


def test_full_disk_stops_and_leaves_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "cas.duckdb"
    context = multiprocessing.get_context("spawn")
    outcome: Any = context.Queue()
    child = context.Process(target=_fill_until_it_fails, args=(path, 3_000_000, outcome))
    child.start()
    message, reached = outcome.get(timeout=60)
    child.join(30)
    assert message.startswith("the projection cannot be written")
    assert "\n" not in message
    log = Log(path)
    assert log.fold.positions.events == reached > 0
    assert log.rows("SELECT count(*), max(seq) FROM cas_agent_events") == [(reached, reached)]
    log.fold.apply([], [_log_line(seq) for seq in range(1, 2_001)])
    assert log.rows("SELECT count(*), max(seq) FROM cas_agent_events") == [(max(reached, 2_000),) * 2]
    log.fold.close()
