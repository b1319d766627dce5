"""kill -9 of runners (issue 3, item 2; promises 1, 2 and 4).

Method: real runner processes with work of several kinds are killed; another one serves the same agents. The times
are the log's own: from the kill to the stored `started` of the next attempt.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cas_events import Client, Task
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.wire.subjects import Names
from projections.projector import Projector
from projections.queries import query_file
from tests.faults.settled import kinds, settled
from tests.faults.troublemakers import Troublemaker, troubling
from tests.harness.patience import IS_TORTURE, count, promised
from tests.harness.processes import lines, settings
from tests.harness.wait import until, until_async

# The lease, and how soon after its owner's death a task goes on. At the default lease that is ten seconds of waiting.
LEASES = [(2.0, 3.0), (10.0, 12.0)] if IS_TORTURE else [(2.0, 3.0)]


@pytest.fixture
async def cas(nats_server, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


@pytest.mark.parametrize(("lease_s", "within_s"), LEASES)
async def test_a_killed_runners_tasks_go_on_in_time(
    cas: Client, nats_server, deployment: str, lease_s: float, within_s: float, record_property
) -> None:
    agents, options = "sleeper,slow-workflow", {"lease_s": lease_s, "grace_s": 1.0}
    async with troubling(nats_server.url, deployment, agents, **options) as first:
        tasks = [await cas.submit_task("sleeper") for _ in range(20)]
        tasks += [await cas.submit_task("slow-workflow") for _ in range(5)]
        await until_async(lambda: all_in_attempt(cas, tasks, 1), what="all run")
        # What only the second one serves says that it is up.
        async with troubling(nats_server.url, deployment, f"echo,{agents}", **options):
            killed_s = time.time()
            first.kill()
            await until_async(lambda: all_in_attempt(cas, tasks, 2), timeout_s=within_s + 10, what="go on")
            answers = await asyncio.gather(*(task.cancel("seen", wait=True) for task in tasks))

    assert set(answers) == {"requested"}
    history = await settled(nats_server.url, deployment, tasks)
    assert {tuple(kinds(events)) for events in history.values()} == {("started", "started", "cancelled")}
    assert all([event.data["tries"] for event in events] == [1, 2, 2] for events in history.values())
    late_s = max(events[1].time.timestamp() for events in history.values()) - killed_s
    record_property("gone on within", f"{late_s:.1f} s")
    assert late_s <= promised(within_s)


async def all_in_attempt(cas: Client, tasks: list[Task], attempt: int) -> bool:
    """Whether the last event of each task is the `started` of an attempt."""
    names, js = cas._session.names, cas._session.js
    for task in tasks:
        last = await js.last_message(names.events, names.lifecycle(task.agent_id, task.task_id))
        if last is None or f'"id":"{task.task_id}.{attempt}.0"'.encode() not in last.data:
            return False
    return True


async def test_attempts_are_bounded_and_the_last_failure_is_a_dead_letter(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    file = tmp_path / "marks"
    names, js = cas._session.names, cas._session.js
    body = b'{"input":{"crashes":9,"file":"%b"},"max_attempts":2}' % str(file).encode()
    await js.append(names.execute("crasher", "hopeless"), body)
    for crash in range(1, 3):
        process = Troublemaker(nats_server.url, deployment, "crasher", lease_s=1.0)
        await until(process.is_dead, timeout_s=20, what=f"crash {crash}")
    async with troubling(nats_server.url, deployment, "crasher", lease_s=1.0):
        result = await asyncio.wait_for((await cas.task("hopeless")).result(), promised(20.0))

    assert (result.status, result.reason) == ("failed", "attempts_exhausted")
    assert lines(file) == ["began 1", "began 2"]
    assert await dead_letters(nats_server.url, deployment, tmp_path) == [("hopeless", "attempts_exhausted")]


async def dead_letters(url: str, deployment: str, folder: Path) -> list[tuple[str, str]]:
    """(task, reason) of the dead letters in a projection of the log."""
    async with await Connection.open(url, name="projection") as connection:
        path = folder / "dead.duckdb"
        projector = await Projector.open(connection, Names(deployment), path)
        running = asyncio.create_task(projector.run())
        log = await JetStream(connection).stream_info(Names(deployment).events)
        await projector.wait_for(log.state.last_seq, promised(30.0))
        projector.stop()
        await running
        await projector.close()
    return (await query_file(path, "SELECT task_id, reason FROM cas_dead_letters")).rows


async def test_a_fleet_under_kill_9_loses_nothing_and_runs_nothing_twice(
    cas: Client, nats_server, deployment: str, record_property
) -> None:
    """Runners die at random moments of their work; each is replaced, as a supervisor would."""
    kills, draw = count(4, 60), random.Random(20261122)
    record_property("cases", f"{kills} kills")
    options = {"lease_s": 1.0, "grace_s": 1.0}
    fleet = [Troublemaker(nats_server.url, deployment, "ticker,noop", **options) for _ in range(3)]
    try:
        await until_async(lambda: cas.is_served("ticker"), timeout_s=20, what="a runner")
        tasks: list[Task] = []
        for _ in range(kills):
            for _ in range(20):
                ticks = {"ticks": draw.randrange(1, 30)}
                tasks.append(
                    await cas.submit_task("ticker", ticks, max_attempts=99, wait_for_runner_s=promised(20.0))
                )
                tasks.append(await cas.submit_task("noop", max_attempts=99, wait_for_runner_s=promised(20.0)))
            # A moment of the run that no state names: after so many of its results.
            await asyncio.wait_for(draw.choice(tasks).result(), promised(60.0))
            victim = draw.randrange(len(fleet))
            fleet[victim].kill()
            fleet[victim] = Troublemaker(nats_server.url, deployment, "ticker,noop", **options)
        results = await asyncio.wait_for(asyncio.gather(*(task.result() for task in tasks)), promised(90.0))
    finally:
        for process in fleet:
            process.end()

    assert {result.status for result in results} == {"completed"}
    history = await settled(nats_server.url, deployment, tasks)
    assert history.keys() == {task.task_id for task in tasks}
    for events in history.values():
        assert set(kinds(events[:-1])) == {"started"}
        assert [event.data["tries"] for event in events[:-1]] == list(range(1, len(events)))
