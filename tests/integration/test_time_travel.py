"""`as_of` from the outside: over NATS, from the file and from the command line, by sequence and by time."""

from __future__ import annotations

from pathlib import Path

import pytest

from cas_events import Client
from cas_events.errors import QueryError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.wire.envelope import EventEncoder, format_time
from cas_events.wire.subjects import Names
from projections.queries import query_file
from tests.harness.cas import UNSIGNED_PROJECTOR, Cas
from tests.harness.processes import settings
from tests.integration.test_projection_process import projecting

STATUS = "SELECT status FROM cas_tasks WHERE task_id = 't1'"


async def told(connection: Connection, names: Names) -> list[int]:
    """A task that starts and completes; the two sequences."""
    encoder = EventEncoder(
        source="cas/runner/r", task_id="t1", agent_id="analyst", attempt=1, correlation_id="t1"
    )
    js, found = JetStream(connection), []
    for index, type_ in enumerate(("cas.task.started", "cas.task.completed")):
        payload = encoder.encode(
            type_, index, 1_795_338_000_000_000_000 + index, b'{"tries":1,"command_seq":1}'
        )
        found.append((await js.append(names.event("task", "analyst", "t1"), payload)).seq)
    return found


async def test_the_past_over_nats_from_the_file_and_on_the_command_line(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    names = Names(deployment)
    js = JetStream(connection)
    await ensure_streams(js, deployment)
    started, completed = await told(connection, names)
    first = await js.message(names.events, started)
    assert first is not None
    async with (
        projecting(nats_url, deployment, tmp_path) as projector,
        Client(settings=settings(nats_url, deployment)) as cas,
    ):
        assert await cas.sql(STATUS, wait_for=completed) == [{"status": "completed"}]
        assert await cas.sql(STATUS, as_of=started) == [{"status": "running"}]
        assert await cas.sql(STATUS, as_of=format_time(first.time_ns)) == [{"status": "running"}]
        assert await cas.sql(STATUS, as_of=0) == []
        assert await cas.sql(f"FROM ({STATUS.replace('cas_tasks', 'main.cas_tasks')})", as_of=started) == [
            {"status": "completed"}
        ]
        assert await cas.sql(STATUS) == [{"status": "completed"}]
        assert await cas.sql(f"SELECT status FROM cas_tasks_as_of({started})") == [{"status": "running"}]
        with pytest.raises(QueryError, match=rf"cannot be shown as of 99: they are at {completed}") as caught:
            await cas.sql(STATUS, as_of=99)
        assert caught.value.reason == "ahead"
        with pytest.raises(QueryError, match="neither a sequence nor a time"):
            await cas.sql(STATUS, as_of="yesterday")
        await projector.terminate()
    path = tmp_path / f"{deployment}.duckdb"
    assert (await query_file(path, STATUS, as_of=started)).rows == [("running",)]
    assert (await query_file(path, STATUS)).rows == [("completed",)]


def test_command_line(tmp_path: Path, nats_url: str, deployment: str) -> None:
    cas = Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})
    count = "SELECT count(*) AS n FROM cas_agents"
    with (
        cas.process(*UNSIGNED_PROJECTOR) as projector,
        cas.process("worker", "cas_events.agents.samples:runner"),
    ):
        projector.line_with("projector.ready")
        assert cas("run", "echo", "{}", "--wait-for-runner", "60", "--task-id", "t1").code == 0
        [now] = cas("sql", "SELECT max(seq) AS seq FROM cas_agent_events", "--json", "--wait-for", "2").json
        [seen] = cas("sql", count, "--as-of", str(now["seq"]), "--json").json
        assert seen["n"] > 0
        assert cas("sql", count, "--as-of", "2026-01-01", "--json").json == [{"n": 0}]
        [all_of_them] = cas("sql", count, "--as-of", "2100-01-01T00:00:00+01:00", "--json").json
        assert all_of_them["n"] >= seen["n"]  # the worker may still be announcing its agents
        assert "neither a sequence nor a time" in cas("sql", count, "--as-of", "x").error
