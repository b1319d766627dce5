"""A runner that lost its task adds nothing to it, and a healthy one is never robbed (promises 2, 3 and 4; PROTOCOL 4).

Method: real runner processes; a pause is SIGSTOP, a lost network is a proxy; what happened is read from the streams.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas_events import Client
from cas_events.errors import ProjectionError
from cas_events.jetstream.api import JetStream
from tests.harness import history as promises
from tests.harness.faults import FaultRunner, Fleet, Load, at_rest, last_for, marks, until_marked
from tests.harness.history import STARTED, History
from tests.harness.patience import count, promised
from tests.harness.pids import stopped_within
from tests.harness.processes import Process
from tests.harness.proxy import Proxy
from tests.harness.server import NatsServer
from tests.harness.wait import until_async

LEASE_S = 2.0
# Beyond the leases: a machine that is busy with other tests, the question to the owner, the start of the code.
SLACK_S = 1.5
NOTICE_S = 1.0


def pause(runner: FaultRunner) -> None:
    runner.send(signal.SIGSTOP)
    assert stopped_within(runner.pid, 5.0)


def long_talk(folder: Path, name: str) -> tuple[dict[str, object], Path, Path]:
    """Input for an agent that talks until told to stop, where it leaves marks, and the file that says enough."""
    file, enough = folder / f"{name}.marks", folder / f"{name}.enough"
    return {"file": str(file), "enough": str(enough), "ticks": 100_000}, file, enough


@pytest.fixture(autouse=True)
def talks_end(tmp_path: Path, fleet: Fleet) -> Iterator[None]:
    """A test that fails leaves no talk to the next ones, and no runner that stands still."""
    yield
    for marked in tmp_path.glob("*.marks"):
        marked.with_suffix(".enough").touch()
    for runner in fleet.runners:
        if runner.is_alive:
            runner.send(signal.SIGCONT)


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
    fleet: Fleet, fleet_client: Client, tmp_path: Path, record_property
) -> None:
    cas, load = fleet_client, Load(fleet_client)
    projector = Process(
        ["-m", "projections"], CAS_NATS_URL=fleet.url, CAS_DEPLOYMENT=fleet.deployment, CAS_HOME=str(tmp_path)
    )
    try:
        pauses = count(1, 10)
        handed_over_s, noticed_s = list[float](), list[float]()
        record_property("cases", f"{pauses} pauses and kills")
        for turn in range(pauses):
            body, file, enough = long_talk(tmp_path, f"turn{turn}")
            task = await load.start("talker", body, follow=True)
            first = fleet.runners[fleet.place_of((await until_marked(file, "began", 1)).pid)]
            await until_reported(cas, task.task_id, 1)
            pause(first)
            stopped_s = time.time()
            second = await until_marked(file, "began", 2)
            handed_over_s.append(second.at_s - stopped_s)
            assert handed_over_s[-1] < promised(2 * LEASE_S + SLACK_S), "hand-over takes two leases at most"
            await until_reported(cas, task.task_id, 2)

            first.send(signal.SIGCONT)
            woken_s = time.time()
            stopped = await until_marked(file, "stopped", 1)
            assert (stopped.attempt, stopped.pid) == (1, first.pid)
            noticed_s.append(stopped.at_s - woken_s)
            assert noticed_s[-1] < promised(NOTICE_S), "it notices within a second of waking"
            await last_for(1.5 * LEASE_S)
            assert len(marks(file, "began")) == 2, "the successor keeps its task"
            sql = "SELECT attempt, message FROM cas_tasks WHERE task_id = ?"
            rows = await cas.sql(sql, [task.task_id], wait_for=await cas.last_seq())
            assert rows == [{"attempt": 2, "message": "attempt 2"}], "no late word is shown as current"

            place = fleet.place_of(second.pid)
            fleet.runners[place].kill()
            killed_s = time.time()
            third = await until_marked(file, "began", 3)
            assert third.pid == first.pid, "the woken runner goes on with other work"
            assert third.at_s - killed_s < promised(LEASE_S + SLACK_S), (
                "its renewals did not keep the dead one's lease"
            )
            enough.touch()
            fleet.replace(place)
            await fleet.until_up()  # or there is nobody to take over in the next turn
            history = await at_rest(fleet.url, fleet.deployment)
            assert attempts(history, task.task_id) == [1, 2, 3]
            assert late_words(history), "the paused runner spoke after its successor had begun"
        record_property("hand-over within", f"{max(handed_over_s):.1f} s")
        record_property("noticed within", f"{max(noticed_s):.2f} s")
        assert await load.complaints(fleet.url) == []
    finally:
        projector.end()
    await fleet.until_up()


async def answers_sql(cas: Client) -> bool:
    try:
        return bool(await cas.sql("SELECT 1"))
    except ProjectionError:
        return False


async def until_reported(cas: Client, task_id: str, attempt: int) -> None:
    """Wait until progress of an attempt is stored."""
    session = cas._session
    subject = session.names.event("progress", "talker", task_id)

    async def is_stored() -> bool:
        last = await session.js.last_message(session.names.events, subject)
        return last is not None and json.loads(last.data)["attempt"] == attempt

    await until_async(is_stored, what=f"progress of attempt {attempt}")


async def test_a_runner_that_wakes_without_its_connections_notices_too(
    fleet: Fleet, fleet_client: Client, proxies: list[Proxy], tmp_path: Path, record_property
) -> None:
    load = Load(fleet_client)
    pauses = count(1, 10)
    record_property("cases", f"{pauses} pauses")
    for turn in range(pauses):
        body, file, enough = long_talk(tmp_path, f"turn{turn}")
        await load.start("talker", body, follow=True)
        place = fleet.place_of((await until_marked(file, "began", 1)).pid)
        pause(fleet.runners[place])
        proxies[1 + place].cut()
        await until_marked(file, "began", 2)
        fleet.runners[place].send(signal.SIGCONT)
        woken_s = time.time()
        stopped = await until_marked(file, "stopped", 1)
        assert stopped.at_s - woken_s < promised(NOTICE_S + 0.5), "reconnecting takes up to 0.4 s"
        enough.touch()
        assert await load.complaints(fleet.url) == []
        assert len(marks(file, "began")) == 2


async def test_a_healthy_owner_survives_a_server_that_is_away_for_longer_than_its_lease(
    fleet: Fleet, fleet_client: Client, nats_server: NatsServer, tmp_path: Path, record_property
) -> None:
    load = Load(fleet_client)
    talks = [long_talk(tmp_path, f"task{n}") for n in range(4)]
    for body, file, _ in talks:
        await load.start("talker", body, follow=True)
        await until_marked(file, "began", 1)
    absences = count(1, 5)
    record_property("cases", f"{absences} absences")
    for _ in range(absences):
        await asyncio.to_thread(nats_server.kill)
        await last_for(1.5 * LEASE_S)
        await asyncio.to_thread(nats_server.start)
        await last_for(LEASE_S)
    for _, _, enough in talks:
        enough.touch()
    assert await load.complaints(fleet.url) == []
    assert [len(marks(file, "began")) for _, file, _ in talks] == [1] * len(talks)


async def test_an_owner_is_not_robbed_by_a_bogus_resume(
    fleet: Fleet, fleet_client: Client, tmp_path: Path
) -> None:
    load = Load(fleet_client)
    names, js = fleet_client._session.names, fleet_client._session.js
    body, file, enough = long_talk(tmp_path, "task")
    task = await load.start("talker", body)
    await until_marked(file, "began", 1)
    for interrupt in ("never-1", "asked-1"):
        await js.append(names.resume("talker", task.task_id, interrupt), b'{"value":true}')
    await js.append(names.resume("talker", "nobody", "i-1"), b"not json")
    await until_async(
        lambda: is_drained(js, names.commands), timeout_s=20, what="the resumes are acknowledged"
    )
    enough.touch()
    assert await load.complaints(fleet.url) == []
    assert len(marks(file, "began")) == 1


async def is_drained(js: JetStream, stream: str) -> bool:
    """Whether only the running task's own command is still open."""
    info = await js.consumer_info(stream, "agent-talker")
    return info.num_pending == 0 and info.num_ack_pending <= 1


async def test_two_answers_at_once_start_the_task_once(
    fleet: Fleet, fleet_client: Client, record_property
) -> None:
    """The interrupted attempt is written by hand, as a runner would have, before its command is stored."""
    load = Load(fleet_client)
    names, js = fleet_client._session.names, fleet_client._session.js
    task_ids = [f"asked{n}" for n in range(count(3, 50))]
    record_property("cases", f"{len(task_ids)} tasks")
    for task_id in task_ids:
        seq = (await js.stream_info(names.commands)).state.last_seq + 1
        started = {"runner": "r0", "input": {}, "resumed": False}
        asked = {"interrupts": [{"id": "a-1", "value": 1}, {"id": "b-1", "value": 2}]}
        for index, (type_, data) in enumerate((("started", started), ("interrupted", asked))):
            event = lifecycle_event(task_id, type_, index, {"tries": 1, "command_seq": seq, **data})
            await js.append(names.lifecycle("talker", task_id), event)
        ack = await js.append(names.execute("talker", task_id), b'{"input":{"ticks":30}}')
        assert ack.seq == seq
        load.acknowledged.append((names.execute("talker", task_id), seq))
    answers = [
        js.append(names.resume("talker", task_id, interrupt), b'{"value":1}')
        for task_id in task_ids
        for interrupt in ("a-1", "b-1")
    ]
    await asyncio.gather(*answers)
    history = await at_rest(fleet.url, fleet.deployment)
    assert await load.complaints(fleet.url) == []
    for task_id in task_ids:
        types = [r.event.type.rpartition(".")[2] for r in history.lifecycle_of(task_id)]
        assert types == ["started", "interrupted", "resumed", "started", "completed"]


async def test_a_repeated_id_is_refused_even_if_its_first_runner_died_before_it_looked(
    fleet: Fleet, fleet_client: Client
) -> None:
    """`started` is written by hand, as by a runner that was killed right after it."""
    names, js = fleet_client._session.names, fleet_client._session.js
    result = await fleet_client.execute_task("echo", task_id="used")
    seq = (await js.stream_info(names.commands)).state.last_seq + 1
    data = {"tries": 1, "command_seq": seq, "runner": "r0", "input": {}, "resumed": False}
    await js.append(names.lifecycle("talker", "used"), lifecycle_event("used", "started", 0, data))
    assert (await js.append(names.execute("talker", "used"), b'{"input":{"ticks":5}}')).seq == seq

    async def is_refused() -> bool:
        last = await js.last_message(names.events, names.lifecycle("talker", "used"))
        return last is not None and json.loads(last.data)["data"].get("reason") == "duplicate_task"

    await until_async(is_refused, timeout_s=20, what="the second use of the id is rejected")
    assert result.status == "completed"
    assert promises.check(await at_rest(fleet.url, fleet.deployment)) == []


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
