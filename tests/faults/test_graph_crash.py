"""Graphs whose runner dies, hangs or is told to go (issue 4, item 3; promises 3 and 4; PROTOCOL sections 8 and 9).

Method: real runner processes. The nodes mark their runs in a file and wait for files, so each fault comes where it is
meant to; the judge is the log, the marks, and the thread as a saver of its own reads it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cas_events import Client, JetStreamSaver, Task
from tests.faults.settled import settled
from tests.harness.own_runner import lifecycle, names_of
from tests.harness.patience import count, promised
from tests.harness.processes import Process, lines, settings, until_served
from tests.harness.wait import until, until_async

LEASE_S = 1.0

pytestmark = pytest.mark.timeout(count(120, 600))


@pytest.fixture
async def cas(nats_server, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


@pytest.fixture
def start(nats_server, deployment: str) -> Iterator[Any]:
    """Starts a runner process of the graphs."""
    started: list[Process] = []

    def make() -> Process:
        environment = {
            "CAS_NATS_URL": nats_server.url,
            "CAS_DEPLOYMENT": deployment,
            "LEASE_S": str(LEASE_S),
            "GRACE_S": "2",
        }
        started.append(Process(["-m", "tests.harness.graph_agents"], **environment))
        return started[-1]

    yield make
    for process in started:
        process.end()


class Scene:
    """One task's files: the marks of its nodes, and what lets them go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.file = folder / "marks"

    @property
    def input(self) -> dict[str, Any]:
        return {"file": str(self.file), "folder": str(self.folder), "said": ["input"]}

    def let(self, *names: str) -> None:
        for name in names:
            (self.folder / name).touch()

    @property
    def ran(self) -> list[str]:
        """The nodes that ran, in order, with the attempt."""
        return [" ".join(line.split()[:2]) for line in lines(self.file)]

    async def until_ran(self, mark: str) -> None:
        await until(lambda: mark in self.ran, timeout_s=20, what=mark)


@contextmanager
def stopped(process: Process) -> Iterator[None]:
    """The process hangs for the length of the block."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


async def result(task: Task) -> Any:
    return await asyncio.wait_for(task.result(), promised(20.0))


async def test_kill_9_in_a_parallel_step_does_not_run_the_finished_sibling_again(
    cas: Client, start: Any, nats_server, deployment: str, tmp_path: Path
) -> None:
    scene, calm = Scene(tmp_path / "killed"), Scene(tmp_path / "calm")
    calm.let("begin", "quick", "slow", "join")
    first = start()
    await until_served(cas, "fork")
    undisturbed = await result(await cas.submit_task("fork", calm.input))
    task = await cas.submit_task("fork", scene.input)
    scene.let("begin", "quick")
    await scene.until_ran("slow 1")
    async with JetStreamSaver(settings=settings(nats_server.url, deployment)) as saver:
        await until_async(
            lambda: has_stored(saver, task.task_id, "quick"), what="what the sibling wrote is stored"
        )
    await until_async(lambda: has_completed(cas, task, "quick"), what="the sibling's end is told")
    first.kill()
    start()
    await scene.until_ran("slow 2")
    scene.let("slow", "join")
    ended = await result(task)

    assert ended.status == "completed"
    assert ended.output["said"] == undisturbed.output["said"] == ["input", "begin", "quick", "slow", "join"]
    assert sorted(scene.ran) == ["begin 1", "join 2", "quick 1", "slow 1", "slow 2"]
    told = await lifecycle(cas, "fork", task.task_id)
    assert names_of(told) == ["started", "started", "completed"]
    assert [event.data["tries"] for event in told] == [1, 2, 2]
    assert sorted(await completed(cas, task)) == ["begin", "join", "quick", "slow"]
    await settled(nats_server.url, deployment, [task])


async def completed(cas: Client, task: Task) -> list[str]:
    """The nodes whose ends the log tells."""
    events = cas.replay(task_id=task.task_id, agent="fork", type="cas.step.completed")
    return [event.data["node"] async for event in events]


async def has_completed(cas: Client, task: Task, node: str) -> bool:
    return node in await completed(cas, task)


async def has_stored(saver: JetStreamSaver, thread_id: str, word: str) -> bool:
    """Whether a node's word is among the pending writes."""
    found = await saver.aget_tuple({"configurable": {"thread_id": thread_id}})
    writes = found.pending_writes if found is not None else None
    return any(value == [word] for _, channel, value in writes or () if channel == "said")


async def test_a_runner_that_dies_before_the_first_checkpoint_starts_again(
    cas: Client, start: Any, tmp_path: Path
) -> None:
    """Claimed, and dead before the graph ran: `started` is written by hand."""
    scene = Scene(tmp_path / "early")
    scene.let("one", "two", "three")
    names, js = cas._session.names, cas._session.js
    seq = (await js.stream_info(names.commands)).state.last_seq + 1
    body = (
        b'{"specversion":"1.0","id":"early.1.0","source":"cas/runner/r0","type":"cas.task.started","subject":"early",'
        b'"time":"2026-11-22T09:00:00.000000Z","agentid":"line","attempt":1,"index":0,"correlationid":"early",'
        b'"dataversion":1,"data":{"tries":1,"command_seq":%d,"runner":"r0","input":{},"resumed":false}}' % seq
    )
    await js.append(names.lifecycle("line", "early"), body)
    start()
    await until_served(cas, "line")
    task = await cas.submit_task("line", scene.input, task_id="early")
    ended = await result(task)

    assert task.seq == seq
    assert ended.output["said"] == ["input", "one", "two", "three"]
    assert scene.ran == ["one 2", "two 2", "three 2"]


async def test_a_drained_graph_goes_on_elsewhere_without_repeating_a_node(
    cas: Client, start: Any, nats_server, deployment: str, tmp_path: Path
) -> None:
    scene = Scene(tmp_path / "drained")
    first = start()
    await until_served(cas, "line")
    task = await cas.submit_task("line", scene.input)
    await scene.until_ran("one 1")
    first.send(signal.SIGTERM)
    await until((scene.folder / "drain").exists, what="the node is told")
    scene.let("one")
    await until_async(lambda: is_handed_over(cas, task), timeout_s=20, what="the task is handed over")
    await until(first.is_dead, timeout_s=20, what="the first runner ends")
    start()
    await scene.until_ran("two 2")
    scene.let("two", "three")
    ended = await result(task)

    assert ended.output["said"] == ["input", "one", "two", "three"]
    assert scene.ran == ["one 1", "two 2", "three 2"]
    told = await lifecycle(cas, "line", task.task_id)
    assert names_of(told) == ["started", "retrying", "started", "completed"]
    assert told[1].data["error"]["type"] == "handover"
    assert [event.data["tries"] for event in told] == [1, 1, 1, 1]
    await settled(nats_server.url, deployment, [task])


async def is_handed_over(cas: Client, task: Task) -> bool:
    return "retrying" in names_of(await lifecycle(cas, task.agent_id, task.task_id))


async def test_a_runner_that_was_overtaken_stores_nothing_more(
    cas: Client, start: Any, nats_server, deployment: str, tmp_path: Path
) -> None:
    scene = Scene(tmp_path / "overtaken")
    zombie = start()
    await until_served(cas, "line")
    task = await cas.submit_task("line", scene.input)
    await scene.until_ran("one 1")
    async with JetStreamSaver(settings=settings(nats_server.url, deployment)) as saver:
        with stopped(zombie):
            start()
            await scene.until_ran("one 2")
            scene.let("one", "two", "three")
            ended = await result(task)
            before = await checkpoints(saver, task.task_id)
        # Its node goes on now, and would write. What tells that it has heard: it takes another task.
        other = Scene(tmp_path / "other")
        others = [await cas.submit_task("line", other.input) for _ in range(2)]
        other.let("one", "two", "three")
        await asyncio.gather(*map(result, others))
        zombie.terminate(20)
        assert await checkpoints(saver, task.task_id) == before

    assert ended.output["said"] == ["input", "one", "two", "three"]
    told = await lifecycle(cas, "line", task.task_id)
    assert names_of(told) == ["started", "started", "completed"]


async def checkpoints(saver: JetStreamSaver, thread_id: str) -> list[Any]:
    """The ids of a thread's checkpoints, the newest first, with what was written on each."""
    config: Any = {"configurable": {"thread_id": thread_id}}
    return [(found.checkpoint["id"], found.pending_writes) async for found in saver.alist(config)]


async def test_an_answer_outlives_its_runner(
    cas: Client, start: Any, nats_server, deployment: str, tmp_path: Path
) -> None:
    """kill -9 while the task waits, and again while the answer is acted on."""
    scene = Scene(tmp_path / "asked")
    scene.let("one")
    first = start()
    await until_served(cas, "approval")
    task = await cas.submit_task("approval", scene.input)
    await until_async(task.interrupts, timeout_s=20, what="the question")
    first.kill()
    [question] = await task.interrupts()
    assert await task.resume(question.id, "yes") == "accepted"
    second = start()
    await scene.until_ran("two 2")
    second.kill()
    start()
    await scene.until_ran("two 3")
    scene.let("two")
    ended = await result(task)

    assert ended.output["said"] == ["input", "one", "yes", "two"]
    assert scene.ran == ["one 1", "ask 1", "ask 2", "two 2", "two 3"]
    told = await lifecycle(cas, "approval", task.task_id)
    assert names_of(told) == ["started", "interrupted", "resumed", "started", "started", "completed"]
    await settled(nats_server.url, deployment, [task])
