"""SIGTERM under load (issue 3, item 8; promises 1 and 4): nothing lost, nothing failed, nothing left running.

Method: a runner with work of several kinds gets SIGTERM while another one serves, or right before one comes; the log
says what became of each task, the process's exit how long it took.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cas_events import Client, Task
from cas_events.domain.events import Event
from tests.faults.settled import kinds, settled
from tests.faults.troublemakers import Troublemaker, troubling
from tests.harness.patience import count, promised
from tests.harness.processes import lines, settings, until_served
from tests.harness.wait import until

GRACE_S = 1.0
OPTIONS = {"lease_s": 10.0, "grace_s": GRACE_S}  # A lease that nobody waits for: a hand-over does without.
# Hand-overs and last acks take milliseconds; the end of an interpreter with LangGraph in it up to seconds when the
# machine is busy.
EXIT_SLACK_S = 2.5


@pytest.fixture
async def cas(nats_server, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


async def test_sigterm_under_load_hands_everything_over(
    cas: Client, nats_server, deployment: str, record_property
) -> None:
    agents = "noop,ticker,sleeper,slow-workflow"
    async with troubling(nats_server.url, deployment, agents, **OPTIONS) as first:
        tasks = await start_load(cas, 30)
        submitting = asyncio.create_task(keep_submitting(cas, tasks))
        await asyncio.wait_for(tasks[0].result(), promised(20.0))
        async with troubling(nats_server.url, deployment, f"echo,{agents}", **OPTIONS):
            took_s, code = await terminated(first)
            submitting.cancel()
            await asyncio.wait([submitting])
            await cancel_endless(cas, tasks)
            history = await settled(nats_server.url, deployment, tasks)

    assert code == 0
    record_property("exit after", f"{took_s:.1f} s")
    assert took_s < promised(GRACE_S + EXIT_SLACK_S)
    require_nothing_lost(tasks, history)
    handed_over = [events for events in history.values() if "retrying" in kinds(events)]
    assert len(handed_over) >= 10  # the endless ones, and tickers


async def start_load(cas: Client, each: int) -> list[Task]:
    """Tasks of all lengths: at once, a second or three, and endless."""
    tasks = [await cas.submit_task("noop") for _ in range(each)]
    tasks += [await cas.submit_task("ticker", {"ticks": 10 * n}) for n in range(each // 2)]
    tasks += [await cas.submit_task("sleeper", {"sleep_s": n / 10}) for n in range(each)]
    return tasks + [await cas.submit_task("slow-workflow") for _ in range(each // 3)]


async def keep_submitting(cas: Client, tasks: list[Task]) -> None:
    """One after the other, as four callers do that wait for their answers."""

    async def call() -> None:
        while True:
            for agent_id, input_ in (("noop", {}), ("ticker", {"ticks": 5})):
                task = await cas.submit_task(agent_id, input_, wait_for_runner_s=promised(10.0))
                tasks.append(task)
                await task.result()

    await asyncio.gather(*(call() for _ in range(4)))


async def cancel_endless(cas: Client, tasks: list[Task]) -> None:
    endless = [task for task in tasks if task.agent_id == "slow-workflow"]
    await asyncio.wait_for(
        asyncio.gather(*(task.cancel("enough", wait=True) for task in endless)), promised(20.0)
    )


async def terminated(process: Troublemaker) -> tuple[float, int]:
    """SIGTERM: how long the process took, and its exit code."""
    began_s = time.monotonic()
    code = await asyncio.to_thread(process.terminate, 20.0)
    return time.monotonic() - began_s, code


def require_nothing_lost(tasks: list[Task], history: dict[str, list[Event]]) -> None:
    """Every task has ended as it would have without the shutdown, and no hand-over counted as a try."""
    assert history.keys() >= {task.task_id for task in tasks}
    for task in tasks:
        events = history[task.task_id]
        expected = "cancelled" if task.agent_id == "slow-workflow" else "completed"
        assert events[-1].type == f"cas.task.{expected}", kinds(events)
        assert {event.data["tries"] for event in events} == {1}, kinds(events)
        problems = [event.data["error"]["type"] for event in events if event.type == "cas.task.retrying"]
        assert set(problems) <= {"handover"}


async def test_a_rolling_deployment_costs_no_tries(
    cas: Client, nats_server, deployment: str, record_property
) -> None:
    """Each version takes over from the one before, several times during one task."""
    generations = count(2, 20)
    record_property("cases", f"{generations} generations")
    async with troubling(nats_server.url, deployment, "sleeper,ticker", **OPTIONS) as first:
        current, tasks = first, [await cas.submit_task("sleeper", {"sleep_s": 3.0}) for _ in range(5)]
        started: list[Troublemaker] = []
        try:
            for _ in range(generations):
                tasks.append(await cas.submit_task("ticker", {"ticks": 20}, wait_for_runner_s=promised(20.0)))
                successor = Troublemaker(nats_server.url, deployment, "sleeper,ticker", **OPTIONS)
                started.append(successor)
                took_s, code = await terminated(current)
                assert (code, took_s < promised(GRACE_S + EXIT_SLACK_S)) == (0, True), took_s
                await until_served(cas, "sleeper")
                current = successor
            history = await settled(nats_server.url, deployment, tasks)
        finally:
            for process in started:
                process.end()

    require_nothing_lost(tasks, history)


async def test_code_that_ignores_the_end_is_left_behind_and_its_task_handed_over(
    cas: Client, nats_server, deployment: str, tmp_path: Path, record_property
) -> None:
    file = tmp_path / "marks"
    async with troubling(nats_server.url, deployment, "undead", **OPTIONS) as first:
        task = await cas.submit_task("undead", {"file": str(file), "until": str(tmp_path / "never")})
        await until(lambda: lines(file), what="running")
        took_s, code = await terminated(first)
    async with troubling(nats_server.url, deployment, "undead", **OPTIONS):
        await task.cancel("enough", wait=True)
        history = await settled(nats_server.url, deployment, [task])

    assert code == 0
    # The grace twice: once to finish, once to end on request.
    record_property("exit after", f"{took_s:.1f} s")
    assert took_s < promised(2 * GRACE_S + EXIT_SLACK_S)
    assert kinds(history[task.task_id])[:2] == ["started", "retrying"]
    assert history[task.task_id][-1].type == "cas.task.cancelled"


async def test_threads_that_do_not_return_keep_no_process(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    async with troubling(nats_server.url, deployment, "sync-graph", **OPTIONS) as first:
        task = await cas.submit_task("sync-graph", {"until": str(tmp_path / "never")})
        events = aiter(task.events())
        while (await anext(events)).type != "cas.log":
            pass
        took_s, code = await terminated(first)
    async with troubling(nats_server.url, deployment, "sync-graph", **OPTIONS):
        await task.cancel("enough", wait=True)
        history = await settled(nats_server.url, deployment, [task])

    assert code == 0
    assert took_s < promised(2 * GRACE_S + EXIT_SLACK_S)
    assert kinds(history[task.task_id])[:2] == ["started", "retrying"]
