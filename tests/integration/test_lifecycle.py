"""Tasks that begin late, or whose runner is gone for good (promises 1, 2, 4 and 5).

Method: real runner processes; the history is read back from the log and checked. Faults in the middle of a task, from
kill -9 to a server that is away, are in `tests/faults`.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from cas_events import Client
from cas_events.domain.events import LIFECYCLE_TYPES, Event
from tests.harness.patience import promised
from tests.harness.processes import RunnerProcess, lines, serving
from tests.harness.wait import until, until_async

LEASE_S = 2.0


async def lifecycle(cas: Client, task_id: str) -> list[str]:
    return [event.type.rpartition(".")[2] for event in await history(cas, task_id)]


async def history(cas: Client, task_id: str) -> list[Event]:
    """The task's lifecycle as stored; checked against promise 2 on the way."""
    stored = [event async for event in cas.replay(task_id=task_id) if event.type in LIFECYCLE_TYPES]
    keys = [(event.attempt, event.index) for event in stored]
    assert keys == sorted(set(keys)), keys
    assert [event.is_terminal for event in stored] == [False] * (len(stored) - 1) + [True]
    return stored


async def test_an_agent_may_say_that_a_crash_is_final(cas: Client, nats_server, deployment: str) -> None:
    await cas._session.js.append(cas._session.names.execute("fragile", "once"), b"{}")
    first = RunnerProcess(nats_server.url, deployment, agents="fragile", lease_s=LEASE_S)
    await until(first.is_dead, timeout_s=20, what="the crash")
    async with serving(nats_server.url, deployment, "fragile", lease_s=LEASE_S):
        result = await asyncio.wait_for((await cas.task("once")).result(), promised(20.0))

    assert (result.status, result.reason) == ("failed", "error")
    assert result.error
    assert result.error["type"] == "RunnerLostError"


async def test_a_cancel_is_final_when_the_owner_is_gone(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    file = tmp_path / "marks"
    options = {"lease_s": LEASE_S, "grace_s": 1}
    async with serving(nats_server.url, deployment, "sleeper", **options) as first:
        task = await cas.submit_task("sleeper", {"file": str(file)})
        await until(lambda: lines(file), what="running")
        first.kill()
        assert await task.cancel("nobody home") == "requested"
        async with serving(nats_server.url, deployment, "echo", **options):
            result = await asyncio.wait_for(task.result(), promised(20.0))

    assert (result.status, result.reason) == ("cancelled", "nobody home")
    assert await lifecycle(cas, task.task_id) == ["started", "cancelled"]


async def test_a_long_wait_for_a_retry_holds_no_place_and_survives_its_runner(
    cas: Client, nats_server, deployment: str
) -> None:
    names, js = cas._session.names, cas._session.js
    async with serving(nats_server.url, deployment, "slow-retry", lease_s=LEASE_S):
        task = await cas.submit_task("slow-retry", {"failures": 9})

        async def is_scheduled() -> bool:
            info = await js.consumer_info(names.commands, "agent-slow-retry")
            stored = await js.last_message(names.timers, names.timer("slow-retry", task.task_id))
            return stored is not None and info.num_ack_pending == 0

        await until_async(is_scheduled, what="the schedule is stored and the command acknowledged")
        assert await task.cancel("no patience", wait=True) == "requested"

    assert await lifecycle(cas, task.task_id) == ["started", "retrying", "cancelled"]


async def test_a_task_does_not_start_before_its_time(cas: Client, nats_server, deployment: str) -> None:
    async with serving(nats_server.url, deployment, "echo"):
        due_s = time.time() + 1.5
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(due_s)) + f".{int(due_s % 1 * 1000):03d}Z"
        result = await asyncio.wait_for(cas.execute_task("echo", not_before=at), promised(10.0))
        started = (await history(cas, result.task_id))[0]

    assert result.status == "completed"
    assert started.time.timestamp() >= due_s - 0.01
