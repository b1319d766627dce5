"""The projector as a real process on a real server: catching up, kill -9 at any moment, restarts, clear errors.

Method: events are published while the process is killed and started again; in the end the tables are compared with
those of a projection made from nothing. Proves promise 7 and the projector's part of issue 2.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.replay import synthetic
from cas_events.errors import ProjectionError, QueryError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.sql_client import query
from cas_events.wire.subjects import Names
from projections.projector import Projector
from projections.queries import query_file
from tests.harness.patience import count, promised
from tests.harness.server import NatsServer
from tests.harness.wait import until, until_async

TABLES = (
    "cas_tasks", "cas_agent_logs", "cas_agent_events", "cas_commands", "cas_agents", "cas_agent_state",
    "cas_dead_letters", "cas_projection",
)  # fmt: skip


class ProjectorProcess:
    """`python -m projections`, with its stderr."""

    def __init__(self, url: str, deployment: str, home: Path, *args: str) -> None:
        self._args = args or ("-m", "projections")
        self._environment = os.environ | {
            "CAS_NATS_URL": url,
            "CAS_DEPLOYMENT": deployment,
            "CAS_HOME": str(home),
        }
        self.process: asyncio.subprocess.Process | None = None
        self.ready: dict[str, Any] = {}

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *self._args, env=self._environment, stderr=asyncio.subprocess.PIPE
        )
        self.ready = await asyncio.wait_for(self._until_ready(), promised(20.0))

    async def _until_ready(self) -> dict[str, Any]:
        assert self.process
        assert self.process.stderr
        seen = []
        while line := await self.process.stderr.readline():
            seen.append(line.decode())
            if line.startswith(b"{") and json.loads(line)["event"] == "projector.ready":
                return dict(json.loads(line))
        raise AssertionError("".join(seen))

    async def kill(self) -> None:
        assert self.process
        self.process.kill()
        await asyncio.wait_for(self.process.communicate(), promised(10.0))

    async def terminate(self) -> tuple[int | None, str]:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        _, stderr = await asyncio.wait_for(self.process.communicate(), promised(20.0))
        return self.process.returncode, stderr.decode()


@asynccontextmanager
async def projecting(url: str, deployment: str, home: Path, *args: str) -> AsyncIterator[ProjectorProcess]:
    process = ProjectorProcess(url, deployment, home, *args)
    try:
        await process.start()
        yield process
    finally:
        if process.process and process.process.returncode is None:
            await process.kill()


async def until_projected(connection: Connection, deployment: str, seq: int) -> None:
    """Wait until the tables are there; one question waits no longer than ten seconds."""

    async def is_projected() -> bool:
        try:
            await query(connection, deployment, "SELECT 1", wait_for=seq)
        except QueryError as error:
            if error.reason != "timeout":
                raise
            return False
        return True

    await until_async(is_projected, timeout_s=20, what=f"{seq} is projected")


async def dump(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {table: (await query_file(path, f"FROM {table} ORDER BY ALL")).rows for table in TABLES}


async def rebuilt(url: str, deployment: str, path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The tables as a projection from nothing has them."""
    names = Names(deployment)
    async with await Connection.open(url, name="rebuild") as connection:
        js = JetStream(connection)
        projector = await Projector.open(connection, names, path)
        running = asyncio.create_task(projector.run())
        await projector.wait_for((await js.stream_info(names.events)).state.last_seq, promised(60.0))
        commands = (await js.stream_info(names.commands)).state.last_seq
        await until(lambda: projector.positions.commands >= commands)
        projector.stop()
        await running
        await projector.close()
    return await dump(path)


async def publish_everything(
    connection: Connection, names: Names, number: int, events: Iterator[tuple[str, bytes]] | None = None
) -> int:
    """Commands and events in between each other; the stream's last sequence."""
    js = JetStream(connection)
    events = events or synthetic(names)
    last_seq = 0
    for n in range(number):
        subject, payload = next(events)
        if b'"cas.task.started"' in payload:
            task = subject.rpartition(".")[2]
            await js.append(names.execute("analyst", task), b'{"input":{"q":1},"metadata":{"by":"test"}}')
        if n % 100 == 0:
            connection.publish(names.event("log", "analyst", "bad"), b"not an event %d" % n)
        if n % 7 == 0 or n == number - 1:  # The last one is acknowledged, and so stored with all before it.
            last_seq = (await js.append(subject, payload)).seq
        else:
            connection.publish(subject, payload)
            if n % 5 == 0:
                connection.publish(subject, payload)  # As a resend after a lost acknowledgement.
    return last_seq


async def test_killed_at_random_moments_equals_rebuild(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    names = Names(deployment)
    await ensure_streams(JetStream(connection), deployment)
    path = tmp_path / f"{deployment}.duckdb"
    choose = random.Random(7)
    events = synthetic(names)
    last_seq = 0
    rounds = count(3, 7)
    for _ in range(rounds):
        async with projecting(nats_url, deployment, tmp_path) as projector:
            publishing = asyncio.create_task(publish_everything(connection, names, 1_000, events))
            await asyncio.wait([publishing], timeout=choose.uniform(0.0, 0.5))
            await projector.kill()
            last_seq = await publishing
    async with projecting(nats_url, deployment, tmp_path) as projector:
        await until_projected(connection, deployment, last_seq)
        code, _ = await projector.terminate()
        assert code == 0
    tables = await dump(path)
    assert tables == await rebuilt(nats_url, deployment, tmp_path / "rebuilt.duckdb")
    assert len(tables["cas_agent_events"]) == rounds * 1_000
    assert len(tables["cas_dead_letters"]) == rounds * 10


async def test_restart_goes_on_where_it_stopped(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    names = Names(deployment)
    await ensure_streams(JetStream(connection), deployment)
    last_seq = await publish_everything(connection, names, 500)
    async with projecting(nats_url, deployment, tmp_path) as projector:
        await until_projected(connection, deployment, last_seq)
        code, stderr = await projector.terminate()
    assert code == 0
    assert f'"events_seq": {last_seq}' in stderr
    async with projecting(nats_url, deployment, tmp_path) as projector:
        assert projector.ready["events_seq"] == last_seq
        assert projector.ready["database"] == str(tmp_path / f"{deployment}.duckdb")


async def test_server_crash_projector_goes_on(
    nats_server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    names = Names(deployment)
    async with await Connection.open(nats_server.url, name="test") as connection:
        await ensure_streams(JetStream(connection), deployment)
        first = await publish_everything(connection, names, 200)
    async with projecting(nats_server.url, deployment, tmp_path):
        async with await Connection.open(nats_server.url, name="test") as connection:
            await until_projected(connection, deployment, first)
        nats_server.restart()
        async with await Connection.open(nats_server.url, name="test") as connection:
            events = synthetic(names)
            ack = await JetStream(connection).append(*next(events))

            async def answers() -> bool:
                """The service is there again when the projector has reconnected."""
                try:
                    result = await query(connection, deployment, "SELECT 1", wait_for=ack.seq, timeout_s=5)
                except ProjectionError:
                    return False
                return result.as_of >= ack.seq

            await until_async(answers)


async def test_stream_cut_behind_the_position_is_one_clear_error(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    names = Names(deployment)
    js = JetStream(connection)
    await js.create_stream({"name": names.events, "subjects": [names.all_events], "max_msgs": 5})
    await js.create_stream({"name": names.commands, "subjects": [f"{deployment}.cmd.>"]})
    events = synthetic(names)
    for _ in range(9):
        await js.append(*next(events))
    projector = await Projector.open(connection, names, tmp_path / "cas.duckdb")
    with pytest.raises(ProjectionError, match="has lost 1 to 4 to retention"):
        await asyncio.wait_for(projector.run(), promised(10.0))
    assert projector.positions == (0, 0)
    await projector.close()


async def test_wait_for_beyond_the_end_is_an_error_in_time(
    deployment: str, connection: Connection, tmp_path: Path
) -> None:
    await ensure_streams(JetStream(connection), deployment)
    projector = await Projector.open(connection, Names(deployment), tmp_path / "cas.duckdb")
    running = asyncio.create_task(projector.run())
    with pytest.raises(QueryError, match="not projected after") as caught:
        await projector.wait_for(5, 0.1)
    assert caught.value.reason == "timeout"
    projector.stop()
    await running
    await projector.close()


async def test_second_projector_on_the_file_is_one_clear_error(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    await ensure_streams(JetStream(connection), deployment)
    async with projecting(nats_url, deployment, tmp_path) as projector:
        assert projector.process
        second = ProjectorProcess(nats_url, deployment, tmp_path)
        with pytest.raises(AssertionError, match=f"error: .* is in use by process {projector.process.pid}"):
            await second.start()
        with pytest.raises(ProjectionError, match=f"in use by process {projector.process.pid}"):
            await query_file(tmp_path / f"{deployment}.duckdb", "SELECT 1")


async def test_no_server_is_one_clear_error(deployment: str, tmp_path: Path) -> None:
    process = ProjectorProcess("nats://127.0.0.1:1", deployment, tmp_path)
    with pytest.raises(AssertionError, match=r"^error: no NATS server answers at nats://127.0.0.1:1"):
        await process.start()
    assert process.process
    assert await asyncio.wait_for(process.process.wait(), promised(5.0)) == 1
