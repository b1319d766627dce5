"""A runner that lost its task adds nothing to it, and a healthy one is never robbed (promises 2, 3 and 4; PROTOCOL 4).

Method: real runner processes; a pause is SIGSTOP, a lost network is a proxy; what happened is read from the streams.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cas_events import Client
from cas_events.jetstream.api import JetStream
from tests.harness import history as promises
from tests.harness.faults import FaultRunner, Load, at_rest, count, fleet, last_for, marks, until_marked
from tests.harness.history import STARTED, History
from tests.harness.pids import stopped_within
from tests.harness.processes import Process, settings
from tests.harness.proxy import Proxy
from tests.harness.server import NatsServer
from tests.harness.wait import until_async

LEASE_S = 2.0
# Beyond the leases: a machine that is busy with other tests, the question to the owner, the start of the code.
SLACK_S = 1.5
NOTICE_S = 1.0


@pytest.fixture
async def cas(nats_server: NatsServer, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


def owner_of(runners: list[FaultRunner], pid: int) -> FaultRunner:
    return next(each for each in runners if each.pid == pid)


def pause(runner: FaultRunner) -> None:
    runner.send(signal.SIGSTOP)
    assert stopped_within(runner.pid, 5.0)


def late_words(history: History) -> list[promises.Recorded]:
    """Telemetry of an attempt, stored after a newer one was opened."""
    opened = {r.event.attempt: r.time_ns for r in history.events if r.event.type == STARTED}
    return [
        r
        for r in history.events
        if r.class_ != "task" and any(a > r.event.attempt and t < r.time_ns for a, t in opened.items())
    ]


def attempts(history: History, task: str) -> list[int]:
    return [r.event.attempt for r in history.lifecycle_of(task) if r.event.type == STARTED]


async def test_a_paused_runner_is_fenced_and_leaves_its_successor_alone(
    cas: Client, nats_server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    url, load = nats_server.url, Load(cas)
    projector = Process(
        ["-m", "projections"], CAS_NATS_URL=url, CAS_DEPLOYMENT=deployment, CAS_HOME=str(tmp_path)
    )
    try:
        async with fleet(url, deployment, url, url, agents="echo") as runners:
            for turn in range(count(1, 10)):
                file, enough = tmp_path / f"marks{turn}", tmp_path / f"enough{turn}"
                body = {"file": str(file), "enough": str(enough), "ticks": 10_000}
                task = await load.start("talker", body, follow=True)
                first = owner_of(runners, (await until_marked(file, "began", 1)).pid)
                await until_reported(cas, task.task_id, 1)
                pause(first)
                stopped_s = time.time()
                second = await until_marked(file, "began", 2)
                assert second.at_s - stopped_s < 2 * LEASE_S + SLACK_S, "hand-over takes two leases at most"

                first.send(signal.SIGCONT)
                woken_s = time.time()
                stopped = await until_marked(file, "stopped", 1)
                assert (stopped.attempt, stopped.pid) == (1, first.pid)
                assert stopped.at_s - woken_s < NOTICE_S, "it notices within a second of waking"
                await last_for(1.5 * LEASE_S)
                assert len(marks(file, "began")) == 2, "the successor keeps its task"
                rows = await cas.sql(
                    "SELECT attempt, message FROM cas_tasks WHERE task_id = ?", [task.task_id]
                )
                assert rows == [{"attempt": 2, "message": "attempt 2"}], "no late word is shown as current"

                owner_of(runners, second.pid).kill()
                killed_s = time.time()
                third = await until_marked(file, "began", 3)
                assert third.pid == first.pid, "the woken runner goes on with other work"
                assert third.at_s - killed_s < LEASE_S + SLACK_S, (
                    "its renewals did not keep the dead one's lease"
                )
                enough.touch()
                runners[runners.index(owner_of(runners, second.pid))] = FaultRunner(url, deployment)
                history = await at_rest(url, deployment)
                assert attempts(history, task.task_id) == [1, 2, 3]
            assert await load.complaints(url) == []
            assert late_words(history), "the paused runner spoke after its successor had begun"
    finally:
        projector.end()


async def until_reported(cas: Client, task_id: str, attempt: int) -> None:
    """Wait until progress of an attempt is stored."""
    session = cas._session
    subject = session.names.event("progress", "talker", task_id)

    async def is_stored() -> bool:
        last = await session.js.last_message(session.names.events, subject)
        return last is not None and json.loads(last.data)["attempt"] == attempt

    await until_async(is_stored, what=f"progress of attempt {attempt}")


async def test_a_runner_that_wakes_without_its_connections_notices_too(
    cas: Client, nats_server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    file, load = tmp_path / "marks", Load(cas)
    port = int(nats_server.url.rpartition(":")[2])
    with Proxy(port) as near, Proxy(port) as far:
        proxies = [near, far]
        async with fleet(nats_server.url, deployment, near.url, far.url) as runners:
            enough = tmp_path / "enough"
            body = {"file": str(file), "enough": str(enough), "ticks": 10_000}
            await load.start("talker", body, follow=True)
            first = owner_of(runners, (await until_marked(file, "began", 1)).pid)
            pause(first)
            proxies[runners.index(first)].cut()
            await until_marked(file, "began", 2)
            first.send(signal.SIGCONT)
            woken_s = time.time()
            stopped = await until_marked(file, "stopped", 1)
            assert stopped.at_s - woken_s < NOTICE_S + 0.5, "reconnecting takes up to 0.4 s"
            enough.touch()
            assert await load.complaints(nats_server.url) == []
    assert len(marks(file, "began")) == 2


async def test_a_healthy_owner_survives_a_server_that_is_away_for_longer_than_its_lease(
    cas: Client, nats_server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    load = Load(cas)
    files, enough = [tmp_path / f"marks{n}" for n in range(4)], tmp_path / "enough"
    async with fleet(nats_server.url, deployment, nats_server.url, nats_server.url):
        for file in files:
            body = {"file": str(file), "enough": str(enough), "ticks": 10_000}
            await load.start("talker", body, follow=True)
            await until_marked(file, "began", 1)
        for _ in range(count(1, 5)):
            await asyncio.to_thread(nats_server.kill)
            await last_for(1.5 * LEASE_S)
            await asyncio.to_thread(nats_server.start)
            await last_for(0.5 * LEASE_S)
        enough.touch()
        assert await load.complaints(nats_server.url) == []
    assert [len(marks(file, "began")) for file in files] == [1] * len(files)


async def test_an_owner_is_not_robbed_by_a_bogus_resume(
    cas: Client, nats_server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    file, load = tmp_path / "marks", Load(cas)
    names, js = cas._session.names, cas._session.js
    async with fleet(nats_server.url, deployment, nats_server.url, nats_server.url):
        task = await load.start("talker", {"file": str(file), "ticks": 100})
        await until_marked(file, "began", 1)
        for interrupt in ("never-1", "asked-1"):
            await js.append(names.resume("talker", task.task_id, interrupt), b'{"value":true}')
        await js.append(names.resume("talker", "nobody", "i-1"), b"not json")
        await until_async(
            lambda: is_drained(js, names.commands), timeout_s=20, what="the resumes are acknowledged"
        )
        assert await load.complaints(nats_server.url) == []
    assert len(marks(file, "began")) == 1


async def is_drained(js: JetStream, stream: str) -> bool:
    """Whether only the running task's own command is still open."""
    info = await js.consumer_info(stream, "agent-talker")
    return info.num_pending == 0 and info.num_ack_pending <= 1


async def test_two_answers_at_once_start_the_task_once(
    cas: Client, nats_server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    """The interrupted attempt is written by hand, as a runner would have, while none is up."""
    file, load = tmp_path / "marks", Load(cas)
    names, js = cas._session.names, cas._session.js
    task_ids = [f"asked{n}" for n in range(count(3, 50))]
    for task_id in task_ids:
        body = {"input": {"file": str(file), "ticks": 50}}
        ack = await js.append(names.execute("talker", task_id), json.dumps(body).encode())
        load.acknowledged.append((names.execute("talker", task_id), ack.seq))
        lock = 0
        for index, (type_, more) in enumerate(
            [
                ("started", {"runner": "r0", "input": {}, "resumed": False}),
                ("interrupted", {"interrupts": [{"id": "a-1", "value": 1}, {"id": "b-1", "value": 2}]}),
            ]
        ):
            event = lifecycle_event(task_id, type_, index, {"tries": 1, "command_seq": ack.seq, **more})
            lock = (await js.append(names.lifecycle("talker", task_id), event, expected_last_seq=lock)).seq
    async with fleet(nats_server.url, deployment, nats_server.url, nats_server.url):
        answers = [
            js.append(names.resume("talker", task_id, interrupt), b'{"value":1}')
            for task_id in task_ids
            for interrupt in ("a-1", "b-1")
        ]
        await asyncio.gather(*answers)
        history = await at_rest(nats_server.url, deployment)
        assert await load.complaints(nats_server.url) == []
    for task_id in task_ids:
        types = [r.event.type.rpartition(".")[2] for r in history.lifecycle_of(task_id)]
        assert types == ["started", "interrupted", "resumed", "started", "completed"]


def lifecycle_event(task_id: str, type_: str, index: int, data: dict[str, object]) -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": f"{task_id}.1.{index}",
            "source": "cas/runner/r0",
            "type": f"cas.task.{type_}",
            "subject": task_id,
            "time": "2026-11-22T09:00:00.000000Z",
            "agentid": "talker",
            "attempt": 1,
            "index": index,
            "correlationid": task_id,
            "dataversion": 1,
            "data": data,
        }
    ).encode()
