"""Parents that die, and ends that must go down (issue 6, item 7; issue 3, item 7).

Method: parents and children in runner processes of their own; kill -9 of the parent's while the child runs, after it
has ended, and between a parent's end and its children's. The log says afterwards what ran how often.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cas_events import Client
from tests.faults.mortal import mortals
from tests.faults.settled import kinds, settled
from tests.harness import families
from tests.harness.faults import at_rest
from tests.harness.history import History
from tests.harness.patience import promised
from tests.harness.processes import lines, settings
from tests.harness.wait import until, until_async

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def cas(nats_server, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    return {name: str(tmp_path / name) for name in ("file", "until", "go")}


async def end_of(url: str, deployment: str) -> History:
    history = await at_rest(url, deployment)
    complaints = families.check(history)
    assert not complaints, "\n".join(complaints)
    return history


@pytest.mark.parametrize("moment", ["while the child runs", "after the child has ended"])
async def test_a_parents_crash_runs_no_child_twice(
    cas: Client, nats_server, deployment: str, body: dict, moment: str
) -> None:
    url, file = nats_server.url, Path(body["file"])
    async with mortals(url, deployment, "worker", "boss") as (_, parents):
        task = await cas.submit_task("boss", body)
        await until(lambda: "worker 1" in lines(file), timeout_s=20, what="the child runs")
        if moment == "after the child has ended":
            Path(body["until"]).touch()
            await until(lambda: any("got 1" in line for line in lines(file)), timeout_s=20, what="its output")
        parents.kill()
        async with mortals(url, deployment, "boss"):
            await until(lambda: "boss 2" in lines(file), timeout_s=30, what="the parent's second attempt")
            Path(body["until"]).touch()
            Path(body["go"]).touch()
            result = await asyncio.wait_for(task.result(), promised(30.0))
        history = await settled(url, deployment, [task])

    assert result.status == "completed"
    assert result.output["attempt"] == 2
    assert result.output["worker"]["attempt"] == 1
    assert lines(file).count("worker 1") == 1
    assert {tuple(kinds(events)) for events in history.values()} == {
        ("started", "started", "completed"),
        ("started", "completed"),
    }
    await end_of(url, deployment)


async def test_a_death_between_a_parents_end_and_its_childrens(
    cas: Client, nats_server, deployment: str, body: dict
) -> None:
    """Three levels; every runner that could pass the cancel on dies of it, then others come."""
    url, file = nats_server.url, Path(body["file"])
    async with mortals(url, deployment, "grand,boss,worker", dies=True) as (doomed,):
        task = await cas.submit_task("grand", body)
        await until(lambda: "worker 1" in lines(file), timeout_s=20, what="the grandchild runs")
        await task.cancel("over")
        await until(doomed.is_dead, timeout_s=20, what="it dies of the children")
    names, js = cas._session.names, cas._session.js
    ended = await js.last_message(names.events, names.lifecycle("grand", task.task_id))
    assert ended
    assert b"cas.task.cancelled" in ended.data
    async with mortals(url, deployment, "grand", "boss,worker"):
        history = await end_of(url, deployment)

    ends = {events[-1].event.agent_id: events[-1].event for events in history.lifecycles.values()}
    assert {agent: event.type for agent, event in ends.items()} == dict.fromkeys(
        ("grand", "boss", "worker"), "cas.task.cancelled"
    )
    assert ends["boss"].data["reason"] == f"the parent task {task.task_id} was cancelled"
    assert {event.correlation_id for event in ends.values()} == {task.task_id}


async def test_a_death_while_nobody_holds_the_parent(
    cas: Client, nats_server, deployment: str, body: dict
) -> None:
    """The parent waits for its next try, so its own command is acknowledged: only its cancel remembers the children."""
    url, names, js = nats_server.url, cas._session.names, cas._session.js
    async with mortals(url, deployment, "patient,worker", dies=True) as (doomed,):
        task = await cas.submit_task("patient", body)
        subject = names.lifecycle("patient", task.task_id)

        async def waits() -> bool:
            last = await js.last_message(names.events, subject)
            consumer = await js.consumer_info(names.commands, "agent-patient")
            return last is not None and b"retrying" in last.data and consumer.num_ack_pending == 0

        await until_async(waits, timeout_s=20, what="the parent waits")
        await until(lambda: "worker 1" in lines(Path(body["file"])), timeout_s=20, what="the child runs")
        await task.cancel("over")
        await until(doomed.is_dead, timeout_s=20, what="it dies of the child")
    async with mortals(url, deployment, "patient,worker"):
        history = await end_of(url, deployment)
    ends = {events[-1].event.agent_id: events[-1].event.type for events in history.lifecycles.values()}
    assert ends == dict.fromkeys(("patient", "worker"), "cas.task.cancelled")


async def test_a_cancel_goes_down_with_nobody_home(
    cas: Client, nats_server, deployment: str, body: dict
) -> None:
    """The whole family's runner is gone when the cancel comes; the next one ends all of it."""
    url, file = nats_server.url, Path(body["file"])
    async with mortals(url, deployment, "grand,boss,worker") as (first,):
        task = await cas.submit_task("grand", body)
        await until(lambda: "worker 1" in lines(file), timeout_s=20, what="the grandchild runs")
        first.kill()
    assert await task.cancel("nobody home") == "requested"
    async with mortals(url, deployment, "grand,boss,worker"):
        history = await end_of(url, deployment)
    assert {r[-1].event.type for r in history.lifecycles.values()} == {"cas.task.cancelled"}
    assert len(history.lifecycles) == 3
