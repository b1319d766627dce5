"""What happens to a task when its runner dies, stops, blocks or is told to go (promises 1 to 5 and 8, in short form).

Method: real runner processes and real signals; the history is read back from the log and checked.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from cas_events import Client, Task
from cas_events.domain.events import LIFECYCLE_TYPES, Event
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


async def test_a_killed_runners_task_goes_on_elsewhere(cas: Client, nats_server, deployment: str) -> None:
    options = {"lease_s": LEASE_S, "grace_s": 1}
    async with serving(nats_server.url, deployment, "sleeper", **options) as first:
        file = Path(nats_server.store_dir) / f"{deployment}.marks"
        task = await cas.submit_task("sleeper", {"file": str(file), "sleep_s": 1})
        await until(lambda: len(lines(file)) == 1, what="running")
        second = RunnerProcess(nats_server.url, deployment, agents="sleeper", **options)
        first.kill()
        killed_s = time.monotonic()
        try:
            result = await asyncio.wait_for(task.result(), 20)
        finally:
            second.end()

    assert result.output == {"slept": True, "attempt": 2}
    assert time.monotonic() - killed_s < 10
    assert await lifecycle(cas, task.task_id) == ["started", "started", "completed"]
    assert [event.data["tries"] for event in await history(cas, task.task_id)] == [1, 2, 2]


async def test_crashes_count_as_tries_and_are_bounded(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    file = tmp_path / "marks"
    task_id = "crashes"
    await cas._session.js.append(
        cas._session.names.execute("crasher", task_id),
        b'{"input":{"crashes":9,"file":"%b"},"max_attempts":2}' % str(file).encode(),
    )
    processes = []
    for _ in range(3):
        process = RunnerProcess(nats_server.url, deployment, agents="crasher", lease_s=LEASE_S)
        processes.append(process)
        tried = len(lines(file))
        if len(processes) < 3:
            await until(process.is_dead, timeout_s=20, what=f"crash after {tried}")
    task = await cas.task(task_id)
    result = await asyncio.wait_for(task.result(), 20)
    processes[-1].end()

    assert (result.status, result.reason) == ("failed", "attempts_exhausted")
    assert lines(file) == ["began 1", "began 2"]


async def test_an_agent_may_say_that_a_crash_is_final(cas: Client, nats_server, deployment: str) -> None:
    await cas._session.js.append(cas._session.names.execute("fragile", "once"), b"{}")
    first = RunnerProcess(nats_server.url, deployment, agents="fragile", lease_s=LEASE_S)
    await until(first.is_dead, timeout_s=20, what="the crash")
    async with serving(nats_server.url, deployment, "fragile", lease_s=LEASE_S):
        result = await asyncio.wait_for((await cas.task("once")).result(), 20)

    assert (result.status, result.reason) == ("failed", "error")
    assert result.error
    assert result.error["type"] == "RunnerLostError"


async def test_sigterm_lets_short_tasks_finish_and_hands_over_long_ones(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    options = {"lease_s": 10, "grace_s": 1}
    async with serving(nats_server.url, deployment, "sleeper", **options) as first:
        marks = [tmp_path / "short", tmp_path / "long"]
        short = await cas.submit_task("sleeper", {"file": str(marks[0]), "sleep_s": 0.7})
        long = await cas.submit_task("sleeper", {"file": str(marks[1]), "sleep_s": 3})
        await until(lambda: all(lines(mark) for mark in marks), what="both run")
        began_s = time.monotonic()
        assert first.terminate() == 0
        took_s = time.monotonic() - began_s
        async with serving(nats_server.url, deployment, "sleeper", **options):
            results = [await asyncio.wait_for(task.result(), 20) for task in (short, long)]

    assert took_s < 4
    assert [result.status for result in results] == ["completed", "completed"]
    assert await lifecycle(cas, short.task_id) == ["started", "completed"]
    assert await lifecycle(cas, long.task_id) == ["started", "retrying", "started", "completed"]
    handover = (await history(cas, long.task_id))[1]
    assert handover.data["error"]["type"] == "handover"
    assert [event.data["tries"] for event in await history(cas, long.task_id)] == [1, 1, 1, 1]


async def test_a_blocked_event_loop_is_not_a_dead_runner(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    file = tmp_path / "marks"
    options = {"lease_s": LEASE_S, "grace_s": 1}
    async with (
        serving(nats_server.url, deployment, "blocker,echo", **options),
        serving(nats_server.url, deployment, "blocker,echo", **options),
    ):
        task = await cas.submit_task("blocker", {"file": str(file), "block_s": 3 * LEASE_S})
        await until(lambda: lines(file), what="blocking")
        others = [await asyncio.wait_for(cas.execute_task("echo"), 3) for _ in range(10)]
        result = await asyncio.wait_for(task.result(), 20)

    assert {other.status for other in others} == {"completed"}
    assert result.output == {"attempt": 1}
    assert lines(file) == ["began 1"]


async def test_a_paused_runner_is_fenced_out(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    file = tmp_path / "marks"
    options = {"lease_s": LEASE_S, "grace_s": 1}
    async with serving(nats_server.url, deployment, "sleeper,echo", **options) as first:
        task = await cas.submit_task("sleeper", {"file": str(file), "sleep_s": 8})
        await until(lambda: lines(file), what="running")
        first.send(signal.SIGSTOP)
        async with serving(nats_server.url, deployment, "sleeper,echo", **options):
            await until(lambda: len(lines(file)) == 2, timeout_s=3 * LEASE_S + 2, what="taken over")
            first.send(signal.SIGCONT)
            result = await asyncio.wait_for(task.result(), 20)
            await until(lambda: "cancelled 1 True" in lines(file), what="the first one stops its code")

    assert result.output == {"slept": True, "attempt": 2}
    assert await lifecycle(cas, task.task_id) == ["started", "started", "completed"]


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
            result = await asyncio.wait_for(task.result(), 20)

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
        result = await asyncio.wait_for(cas.execute_task("echo", not_before=at), 10)
        started = (await history(cas, result.task_id))[0]

    assert result.status == "completed"
    assert started.time.timestamp() >= due_s - 0.01


async def test_the_servers_restart_costs_nothing(cas: Client, nats_server, deployment: str) -> None:
    async with serving(nats_server.url, deployment, "ticker", lease_s=LEASE_S, grace_s=1):
        tasks = [await cas.submit_task("ticker", {"ticks": 100}) for _ in range(5)]
        streams: list[list[Event]] = [[] for _ in tasks]
        following = [
            asyncio.create_task(follow(task, into)) for task, into in zip(tasks, streams, strict=True)
        ]
        for seen in (40, 100):
            await until(lambda seen=seen: len(streams[0]) > seen, what=f"{seen} events")
            await asyncio.to_thread(nats_server.restart)
        await asyncio.wait_for(asyncio.gather(*following), 40)

    for task, stream in zip(tasks, streams, strict=True):
        assert stream[-1].type == "cas.task.completed"
        assert await lifecycle(cas, task.task_id) == ["started", "completed"]
        logs = [event.data["metadata"]["n"] for event in stream if event.type == "cas.log"]
        assert logs == list(range(100))
        keys = [(event.attempt, event.index) for event in stream]
        assert keys == sorted(set(keys))


async def follow(task: Task, into: list[Event]) -> None:
    async for event in task.events():
        into.append(event)
