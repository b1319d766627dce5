"""Followers under a reviewer's eye: two agents with one id, a server that is away, a client that is closed (promise 6).

Goal: whoever waits gets the end of its own task, and nobody waits for ever. Method: a real server; commands and events
are written raw where a race has to be forced.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cas_events import Client
from cas_events.domain.events import Event
from cas_events.errors import NotConnectedError
from tests.harness.own_runner import make_runner, noop, running, send_raw
from tests.harness.patience import promised
from tests.harness.processes import settings
from tests.harness.wait import never, until


async def append(
    cas: Client, type_: str, index: int, data: dict[str, Any], *, agent: str = "a", attempt: int = 1
) -> int:
    """Write an event of task ``t`` as a runner would."""
    event = {
        "specversion": "1.0",
        "id": f"t.{attempt}.{index}",
        "source": "cas/runner/r",
        "type": type_,
        "subject": "t",
        "time": "2026-11-22T09:00:00.000000Z",
        "agentid": agent,
        "attempt": attempt,
        "index": index,
        "correlationid": "t",
        "dataversion": 1,
        "data": data,
    }
    names = cas._session.names
    class_ = {"cas.progress": "progress", "cas.log": "log"}.get(type_, "task")
    return (await cas._session.js.append(names.event(class_, agent, "t"), json.dumps(event).encode())).seq


async def reject_duplicate(cas: Client, agent: str) -> None:
    await append(cas, "cas.task.rejected", 17, {"reason": "duplicate_task"}, agent=agent, attempt=0)


async def test_another_agents_use_of_the_id_ends_nobodys_wait(cas: Client) -> None:
    await send_raw(cas, "a", "t")
    waiting = asyncio.create_task((await cas.task("t")).result())
    with cas._session.waiter("b", "other"):  # So that this client hears of the second agent at all.
        await reject_duplicate(cas, "b")
        await append(cas, "cas.task.completed", 0, {"output": 1, "tries": 1, "command_seq": 1})
        result = await asyncio.wait_for(waiting, promised(5.0))
    assert result.status == "completed"


async def test_who_follows_a_rejected_duplicate_is_told(cas: Client) -> None:
    await send_raw(cas, "a", "t")
    task = await cas.task("t")
    task.agent_id = "b"  # As for the loser of two clients that start the same id at the same time.

    async def follow() -> list[Event]:
        return [event async for event in task.events()]

    following = asyncio.create_task(follow())
    await append(cas, "cas.task.started", 0, {"tries": 1, "command_seq": 1}, agent="b")
    await reject_duplicate(cas, "b")
    events = await asyncio.wait_for(following, promised(5.0))
    assert [event.type for event in events] == ["cas.task.started", "cas.task.rejected"]


async def test_a_closed_client_leaves_nobody_waiting(nats_server, deployment: str) -> None:
    async with Client(settings=settings(nats_server.url, deployment)) as cas:
        await send_raw(cas, "a", "t")
        task = await cas.task("t")
        waiting = asyncio.create_task(task.result())
        following = asyncio.create_task(anext(task.events()))
        await until(lambda: len(cas._session.hub._followers.get("t", ())) == 2, what="both follow")
    for waiter in (waiting, following):
        with pytest.raises(NotConnectedError):
            await asyncio.wait_for(waiter, promised(5.0))


async def test_the_sweep_survives_a_server_that_is_away(
    cas: Client, nats_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cas_events.live.SWEEP_S", 0.05)
    await send_raw(cas, "a", "t")
    waiting = asyncio.create_task((await cas.task("t")).result())
    await until(lambda: cas._session.hub._sweeper is not None, what="sweeping")
    nats_server.kill()
    try:
        await until(lambda: not cas._session.connection.is_connected, what="down")
        await never(cas._session.hub._sweeper.done, for_s=0.5, what="the sweeper ends")
    finally:
        nats_server.start()
        await until(lambda: cas._session.connection.is_connected, what="up")
    # What live delivery loses is found by the sweep.
    for subscription in cas._session.hub._lifecycle["a"]:
        subscription.unsubscribe()
    await append(cas, "cas.task.completed", 0, {"output": 1, "tries": 1, "command_seq": 1})
    assert (await asyncio.wait_for(waiting, promised(5.0))).status == "completed"


async def test_a_cursor_of_another_tasks_event(cas: Client) -> None:
    """`after` is a place in the log: what stands at it may belong to anybody."""
    await send_raw(cas, "a", "t")
    first = await append(cas, "cas.task.started", 0, {"tries": 1, "command_seq": 1})
    names, js = cas._session.names, cas._session.js
    foreign = {"specversion": "1.0", "id": "u.9.9", "source": "x", "type": "cas.task.started", "subject": "u"}
    foreign |= {"time": "2026-11-22T09:00:00Z", "agentid": "a", "attempt": 9, "index": 9, "data": {}}
    after = (await js.append(names.lifecycle("a", "u"), json.dumps(foreign).encode())).seq
    await append(cas, "cas.task.completed", 1, {"output": 1, "tries": 1, "command_seq": 1})
    assert after > first

    task = await cas.task("t")

    async def follow() -> list[str]:
        return [event.type async for event in task.events(after=after)]

    assert await asyncio.wait_for(follow(), promised(5.0)) == ["cas.task.completed"]


async def test_a_thousand_starts_ask_once_whether_anybody_serves(
    cas: Client, nats_server, deployment: str
) -> None:
    asked = 0
    runner = make_runner(nats_server.url, deployment)
    runner.register("noop", noop)
    async with running(cas, runner):

        def count(_message: object) -> None:
            nonlocal asked
            asked += 1

        heard = await cas._session.connection.subscribe(cas._session.names.agent_service("noop"), count)
        await cas._session.connection.flush()
        cas._session._runner_seen_s.clear()
        results = await asyncio.gather(*(cas.execute_task("noop") for _ in range(200)))
        heard.unsubscribe()
    assert {result.status for result in results} == {"completed"}
    assert asked == 1


async def test_what_retention_took_is_told(cas: Client) -> None:
    names, js = cas._session.names, cas._session.js
    await send_raw(cas, "a", "t")
    await append(cas, "cas.task.started", 0, {"tries": 1, "command_seq": 1})
    await append(cas, "cas.log", 3, {"level": "info", "message": "after two outputs", "metadata": {}})
    await append(cas, "cas.task.completed", 5, {"output": 1, "tries": 1, "command_seq": 1})
    assert await js.last_message(names.output, names.out("a", "t")) is None

    stream = (await cas.task("t")).events()
    seen = [(event.index, event.data.get("to_index")) async for event in stream]

    assert seen == [(0, None), (1, 2), (3, None), (4, 4), (5, None)]
    assert [tuple(gap) for gap in stream.gaps] == [(1, 1, 2), (1, 4, 4)]
