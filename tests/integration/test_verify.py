"""`cas verify` from the outside: good tables pass, beside a projector and without one; every damage is named.

Method: a real log, then tables that are changed by hand and a lifecycle that no runner would write. Proves the verify
part of issue 5 and that promise 7 can be checked by anybody.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.replay import synthetic
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.wire.envelope import encode_agent_event
from cas_events.wire.subjects import Names
from projections.fold import Fold
from projections.queries import Limits, query_file, reading
from projections.rebuild import rebuild_here
from projections.verify import check
from projections.verify.check import Check
from tests.harness.cas import Answer, Cas
from tests.integration.test_projection_process import projecting, publish_everything


class Place:
    """A deployment with tables."""

    def __init__(self, url: str, deployment: str, connection: Connection, home: Path) -> None:
        self.names = Names(deployment)
        self.connection = connection
        self.path = home / f"{deployment}.duckdb"
        self.events = synthetic(self.names)
        self._cas = Cas({"CAS_NATS_URL": url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(home)})

    async def fill(self) -> None:
        js = JetStream(self.connection)
        await ensure_streams(js, self.names.deployment)
        await publish_everything(self.connection, self.names, 560, self.events)
        for n, (type_, subject, data) in enumerate(
            (
                (
                    "cas.agent.registered",
                    self.names.agent_event("analyst"),
                    b'{"version":"1","schema":{"a":1}}',
                ),
                (
                    "cas.state.updated",
                    f"{self.names.deployment}.evt.state.analyst.k",
                    b'{"state":{"a":1},"revision":1}',
                ),
            )
        ):
            payload = encode_agent_event(
                type_, event_id=f"a{n}", source="cas/runner/r", agent_id="analyst", time_ns=10**18, data=data
            )
            await js.append(subject, payload)

    async def verify(self, *options: str) -> Answer:
        return await asyncio.to_thread(self._cas, "verify", *options)

    def damage(self, *statements: str) -> None:
        tables = Fold(self.path, self.names.deployment)
        for statement in statements:
            tables._connection.execute(statement)
        tables.close()


@pytest.fixture
async def place(nats_url: str, deployment: str, connection: Connection, tmp_path: Path) -> Place:
    place = Place(nats_url, deployment, connection, tmp_path)
    await place.fill()
    return place


async def test_good_tables_pass_without_a_projector_and_beside_one_that_works(
    place: Place, nats_url: str, deployment: str, tmp_path: Path
) -> None:
    await rebuild_here(place.connection, place.names, place.path)
    answer = await place.verify("--json")
    assert answer.code == 0, answer
    report = answer.json
    assert (report["difference_count"], report["complaint_count"], report["unverified"]) == (0, 0, 0)
    assert report["rows"]["cas_agent_events"] == 562
    assert (
        min(
            report["rows"][name]
            for name in ("cas_tasks", "cas_agents", "cas_agent_state", "cas_dead_letters")
        )
        > 0
    )
    async with projecting(nats_url, deployment, tmp_path):
        publishing = asyncio.create_task(
            publish_everything(place.connection, place.names, 1_500, place.events)
        )
        for _ in range(2):
            answer = await place.verify()
            assert answer.code == 0, answer
            assert ": 0 differences; 0 lifecycles out of order" in answer.out
        await publishing


FIRST_TASK = "(SELECT min(task_id) FROM cas_tasks WHERE status = 'running')"
DAMAGES: tuple[dict[str, set[tuple[str, str]]], ...] = (
    {
        f"UPDATE cas_tasks SET status = 'completed', output = '5' WHERE task_id = {FIRST_TASK}":
            {("cas_tasks", "status"), ("cas_tasks", "output")},
        "DELETE FROM cas_tasks WHERE task_id = (SELECT max(task_id) FROM cas_tasks)": {("cas_tasks", "(row)")},
        "UPDATE cas_agent_events SET data = '{}' WHERE seq = (SELECT max(seq) FROM cas_agent_events)":
            {("cas_agent_events", "data")},
        "UPDATE cas_agent_logs SET message = 'x', time = time + INTERVAL 1 MICROSECOND WHERE seq = (SELECT min(seq) FROM cas_agent_logs)":
            {("cas_agent_logs", "message"), ("cas_agent_logs", "time")},
        "UPDATE cas_commands SET kind = 'cancel' WHERE seq = 3": {("cas_commands", "kind")},
        "UPDATE cas_dead_letters SET raw = 'x'::BLOB WHERE seq = (SELECT min(seq) FROM cas_dead_letters)":
            {("cas_dead_letters", "raw")},
        "UPDATE cas_agents SET paused = true": {("cas_agents", "paused")},
        "UPDATE cas_agent_state SET revision = 9": {("cas_agent_state", "revision")},
    },
    {
        "INSERT INTO cas_tasks (task_id, agent_id, status, created_at, last_seq) VALUES ('x', 'a', 'queued', TIMESTAMP '2026-01-01', 0)":
            {("cas_tasks", "(row)")},
        f"UPDATE cas_tasks SET last_seq = 1000000 WHERE task_id = {FIRST_TASK}": {("cas_tasks", "last_seq")},
        "INSERT INTO cas_agent_events SELECT * FROM cas_agent_events WHERE seq = 7": {("cas_agent_events", "(row)")},
    },
    {"DELETE FROM cas_agent_events WHERE seq = 7": {("cas_agent_events", "(row)")}},
    {"UPDATE cas_agent_events SET seq = seq + 100000 WHERE seq = 7": {("cas_agent_events", "(row)")}},
)  # fmt: skip


async def test_every_damage_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_PAGE", 17)
    monkeypatch.setattr(check, "_RANGE", 100)
    await rebuild_here(place.connection, place.names, place.path)
    good = place.path.read_bytes()
    for statements in DAMAGES:
        place.path.write_bytes(good)
        place.damage(*statements)
        answer = await place.verify("--json")
        assert answer.code == 1, statements
        report = answer.json
        wanted = set().union(*statements.values())
        assert {(d["table"], d["column"]) for d in report["differences"]} == wanted, report
        assert report["difference_count"] == len(report["differences"]) <= len(wanted) + 1
        assert "`cas rebuild` makes them anew" in answer.err
    place.path.write_bytes(good)
    place.damage("UPDATE cas_agent_state SET revision = 9")
    answer = await place.verify()
    assert "cas_agent_state  analyst/k  revision  1         9" in answer.out


async def test_lifecycle_that_no_runner_writes_is_named(place: Place) -> None:
    started = await JetStream(place.connection).next_message(
        place.names.events, place.names.lifecycle("analyst", "*")
    )
    assert started is not None
    task = started.subject.rpartition(".")[2]
    resumed = started.data.replace(b"cas.task.started", b"cas.task.resumed").replace(
        b'"index":0', b'"index":99'
    )
    ack = await JetStream(place.connection).append(started.subject, resumed)
    await rebuild_here(place.connection, place.names, place.path)
    answer = await place.verify("--json")
    assert answer.code == 1
    assert answer.json["difference_count"] == 0
    assert (
        answer.json["complaints"]
        == [
            f"event {ack.seq}: task {task} of analyst: cas.task.resumed (1, 99) follows cas.task.completed (1, 9)"
        ]
        or "follows" in answer.json["complaints"][0]
    )
    assert answer.err.strip() == "error: 1 lifecycle events are out of order in the log itself"


async def test_tables_that_are_fetched_in_smaller_parts(place: Place, tmp_path: Path) -> None:
    """A range whose rows are too many for one answer is halved until it fits."""
    await rebuild_here(place.connection, place.names, place.path)

    async with reading(place.path, Limits(rows=40)) as queries:

        async def ask(sql: str, params: Any) -> Any:
            return (await queries.run(sql, params)).decoded()

        report = await Check(place.connection, place.names, ask).run()
    assert report.is_good
    assert report.rows["cas_agent_events"] == 562
    assert (await query_file(place.path, "SELECT count(*) FROM cas_agent_events")).rows == [(562,)]


async def test_of_a_log_that_retention_has_cut_what_is_whole_is_checked(
    place: Place, deployment: str, connection: Connection
) -> None:
    """Half of the events are gone: tasks that began before are unverified where they differ, the others are held to the log."""
    await rebuild_here(connection, place.names, place.path)
    js = JetStream(connection)
    config = json.loads(await js.call(f"STREAM.INFO.{place.names.events}"))["config"]
    await js.call(f"STREAM.UPDATE.{place.names.events}", config | {"max_msgs": 300, "discard": "old"})
    begins = (await js.stream_info(place.names.events)).state.first_seq
    answer = await place.verify("--json")
    assert answer.code == 0, answer
    assert answer.json["log_begins"] == begins > 200
    before = answer.json["unverified"]
    assert before > 0
    began = f"SELECT min(task_id) FROM cas_agent_events WHERE type = 'cas.task.started' AND seq >= {begins}"
    older = (
        f"SELECT min(task_id) FROM cas_agent_events WHERE type = 'cas.task.started' AND seq < {begins - 100}"
    )
    place.damage(
        f"UPDATE cas_tasks SET message = 'x' WHERE task_id = ({began})",
        f"UPDATE cas_tasks SET message = 'x' WHERE task_id = ({older})",
        "UPDATE cas_agent_state SET revision = 7 WHERE key = 'k'",
    )
    report = (await place.verify("--json")).json
    assert {(found["table"], found["column"]) for found in report["differences"]} == {
        ("cas_tasks", "message"),
        ("cas_agent_state", "revision"),
    }
    assert report["difference_count"] == 2
    assert report["unverified"] == before
