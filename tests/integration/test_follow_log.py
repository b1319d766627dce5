"""Following by agent, type, workflow and task (promise 6): live and stored without gap or duplicate.

Events are written raw, as runners would; server and connections are real.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cas_events import Client
from cas_events.domain.events import GAP, Event
from cas_events.errors import NotConnectedError
from tests.harness.own_runner import send_raw
from tests.harness.patience import promised
from tests.harness.processes import settings
from tests.harness.wait import until


async def append(
    cas: Client,
    type_: str,
    key: tuple[str, str, int, int],
    data: dict[str, Any] | None = None,
    **members: Any,
) -> int:
    """Write the event (agent, task, attempt, index) and give its sequence."""
    agent, task, attempt, index = key
    event = {
        "specversion": "1.0",
        "id": f"{task}.{attempt}.{index}",
        "source": "cas/runner/r",
        "type": type_,
        "subject": task,
        "time": "2026-11-22T09:00:00.000000Z",
        "agentid": agent,
        "attempt": attempt,
        "index": index,
        "correlationid": task,
        "dataversion": 1,
        "data": data or {},
        **members,
    }
    names = cas._session.names
    class_ = type_.split(".")[1]
    subject = names.out(agent, task) if class_ == "output" else names.event(class_, agent, task)
    return (await cas._session.js.append(subject, json.dumps(event).encode())).seq


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    async with asyncio.timeout(promised(20.0)):
        return [await anext(events) for _ in range(count)]


async def everything(events: AsyncIterator[Event]) -> list[Event]:
    async with asyncio.timeout(promised(20.0)):
        return [event async for event in events]


def seqs(events: list[Event]) -> list[int]:
    return [event.seq for event in events]


async def test_stored_and_live_join_without_gap_or_duplicate(cas: Client) -> None:
    stored = [await append(cas, "cas.log", ("a", "t", 1, n)) for n in range(30)]
    await append(cas, "cas.log", ("b", "u", 1, 0))
    events = cas.follow(agent="a", from_="start")
    writing = asyncio.create_task(_write(cas, 30, 300))
    assert seqs(await take(events, 300)) == stored + await writing
    late = cas.follow(agent="a", after=stored[9])
    assert seqs(await take(late, 5)) == stored[10:15]


async def _write(cas: Client, first: int, end: int) -> list[int]:
    return [await append(cas, "cas.log", ("a", "t", 1, n)) for n in range(first, end)]


async def test_from_now_and_by_type(cas: Client) -> None:
    await append(cas, "cas.task.started", ("a", "t", 1, 0))
    events = cas.follow(type="task.*")
    first = asyncio.create_task(anext(events))
    await until(lambda: len(cas._session.feeds) == 1, what="it follows")
    await append(cas, "cas.log", ("a", "t", 1, 1))
    seq = await append(cas, "cas.task.completed", ("a", "t", 1, 2))
    assert (await asyncio.wait_for(first, promised(5.0))).seq == seq


async def test_a_hand_over_shows_as_a_new_attempt(cas: Client) -> None:
    await append(cas, "cas.task.started", ("a", "t", 1, 0))
    await append(cas, "cas.task.started", ("a", "t", 2, 0))
    found = await take(cas.follow(agent="a", from_="start"), 2)
    assert [event.attempt for event in found] == [1, 2]


async def test_what_was_sent_twice_comes_once(cas: Client) -> None:
    for index in (0, 1, 1, 0, 2):
        await append(cas, "cas.log", ("a", "t", 1, index))
    assert [event.index for event in await take(cas.follow(agent="a", from_="start"), 3)] == [0, 1, 2]


async def test_the_servers_restart_loses_and_repeats_nothing(cas: Client, nats_server) -> None:
    events = cas.follow(agent="a", from_="start")
    stored = [await append(cas, "cas.log", ("a", "t", 1, n)) for n in range(5)]
    assert seqs(await take(events, 5)) == stored
    nats_server.kill()
    await until(lambda: not cas._session.connection.is_connected, what="down")
    nats_server.start()
    await until(lambda: cas._session.connection.is_connected, what="connected again")
    stored = [await append(cas, "cas.log", ("a", "t", 1, n)) for n in range(5, 10)]
    assert seqs(await take(events, 5)) == stored


async def test_what_live_delivery_loses_is_found(cas: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cas_events.log_feed.SWEEP_S", 0.1)
    events = cas.follow(agent="a", from_="start")
    await append(cas, "cas.log", ("a", "t", 1, 0))
    await take(events, 1)
    [(feed, _)] = cas._session.feeds._feeds.values()
    feed._subscription.unsubscribe()
    seq = await append(cas, "cas.log", ("a", "t", 1, 1))
    assert seqs(await take(events, 1)) == [seq]


async def test_a_slow_follower_goes_back_to_the_log(cas: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cas_events.log_feed.INBOX_EVENTS", 5)
    events = cas.follow(agent="a", from_="start")
    stored = [await append(cas, "cas.log", ("a", "t", 1, 0))]
    await take(events, 1)
    [(feed, _)] = cas._session.feeds._feeds.values()
    reading = asyncio.create_task(anext(events))
    await until(lambda: feed._inboxes, what="it follows live")
    stored += await _write(cas, 1, 50)
    await until(lambda: feed.position == stored[-1], what="the feed is ahead")
    assert seqs([await asyncio.wait_for(reading, promised(5.0)), *await take(events, 48)]) == stored[1:]


async def test_five_hundred_followers_cost_no_consumer(cas: Client) -> None:
    js, names = cas._session.js, cas._session.names
    await send_raw(cas, "a", "t")
    followers = [cas.follow(agent="a") for _ in range(250)] + [cas.follow(task_id="t") for _ in range(250)]
    first = [asyncio.create_task(anext(events)) for events in followers]
    await until(lambda: len(cas._session.hub._followers.get("t", ())) == 250, what="250 follow the task")
    await until(lambda: len(cas._session.feeds) == 1, what="one feed for them")
    [(feed, owners)] = cas._session.feeds._feeds.values()
    await until(lambda: len(feed._inboxes) == len(owners) == 250, what="250 follow the agent")
    for stream in (names.events, names.output):
        listed = json.loads(await js.call(f"CONSUMER.NAMES.{stream}"))
        assert listed["total"] == 0
    seq = await append(cas, "cas.task.started", ("a", "t", 1, 0))
    assert {(await asyncio.wait_for(event, promised(20.0))).seq for event in first} == {seq}
    for events in followers:
        await events.aclose()
    assert len(cas._session.feeds) == 0
    assert cas._session.hub._followers == {}


async def test_a_workflow_is_a_task_and_all_its_descendants(cas: Client) -> None:
    await send_raw(cas, "w", "root")
    await append(cas, "cas.log", ("x", "other", 1, 0))
    await append(cas, "cas.task.started", ("w", "root", 1, 0))
    child = {"child": {"agent": "c", "task_id": "child"}}
    await append(cas, "cas.step.started", ("w", "root", 1, 1), child)
    await append(cas, "cas.step.started", ("w", "root", 1, 2), {"child": {"agent": "c", "task_id": "never"}})
    await send_raw(cas, "c", "child")
    family = {"correlationid": "root", "parentid": "root"}
    await append(cas, "cas.task.started", ("c", "child", 1, 0), **family)
    grand = {"correlationid": "root", "parentid": "child"}
    await append(cas, "cas.task.started", ("g", "grand", 1, 0), **grand)
    late = cas.follow(workflow="root")
    assert [event.task_id for event in await take(late, 5)] == ["root", "root", "root", "child", "grand"]
    last = await append(cas, "cas.task.completed", ("w", "root", 1, 3))
    await append(cas, "cas.log", ("x", "other", 1, 1))
    below = cas.follow(workflow="child", type="task.*")
    await append(cas, "cas.task.completed", ("g", "grand", 1, 1), **grand)
    await append(cas, "cas.task.completed", ("c", "child", 1, 1), **family)
    rest = await everything(late)
    assert [(event.task_id, event.status) for event in rest] == [
        ("root", "completed"),
        ("grand", "completed"),
        ("child", "completed"),
    ]
    assert [event.task_id for event in await everything(below)] == ["child", "grand", "grand", "child"]
    after = await everything(cas.follow(workflow="root", after=last))
    assert seqs(after) == seqs(rest[1:])


async def test_a_late_follower_of_a_finished_task_gets_everything_then_the_end(cas: Client) -> None:
    await send_raw(cas, "a", "t")
    for n, type_ in enumerate(("cas.task.started", "cas.log", "cas.output", "cas.task.completed")):
        last = await append(cas, type_, ("a", "t", 1, n))
    assert [event.index for event in await everything(cas.follow(task_id="t"))] == [0, 1, 2, 3]
    assert await everything(cas.follow(task_id="t", after=last)) == []
    assert await everything(cas.follow(task_id="t", from_="now")) == []


async def test_what_retention_took_is_an_item(cas: Client) -> None:
    await send_raw(cas, "a", "t")
    await append(cas, "cas.task.started", ("a", "t", 1, 0))
    for n in range(1, 5):
        await append(cas, "cas.output", ("a", "t", 1, n))
    await append(cas, "cas.task.completed", ("a", "t", 1, 5))
    names = cas._session.names
    await cas._session.js.call(f"STREAM.PURGE.{names.output}", {"seq": 4})
    of_task = [(e.type, e.index, e.data) async for e in cas.follow(task_id="t")]
    assert of_task[1] == (GAP, 1, {"from_index": 1, "to_index": 3})
    gap, kept = await take(cas.follow(type="output", from_="start"), 2)
    assert (gap.type, gap.data) == (GAP, {"stream": names.output, "from_seq": 1, "to_seq": 3})
    assert (kept.seq, kept.index) == (4, 4)


async def test_a_late_follower_holds_no_more_than_a_page(
    cas: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the task, and although its first output is gone."""
    monkeypatch.setattr("cas_events.follow.READ_AHEAD_EVENTS", 100)
    monkeypatch.setattr(
        "cas_events.follow.HOLE_FINAL_S", 0.0
    )  # As if each event was stored long after the one before.
    await send_raw(cas, "a", "t")
    await append(cas, "cas.task.started", ("a", "t", 1, 0))
    for n in range(2, 2_000):
        await append(cas, "cas.output" if n % 3 == 0 else "cas.log", ("a", "t", 1, n))
    await append(cas, "cas.task.completed", ("a", "t", 1, 2_000))
    events = (await cas.task("t")).events()
    most, seen = 0, []
    async for event in events:
        most = max(most, len(events._ready) + len(events._sequencer._held))
        seen.append(event.index)
    assert seen == list(range(2_001))  # Index 1 is the gap's.
    assert most < 1_000


async def test_a_closed_client_ends_every_follower(nats_server, deployment: str) -> None:
    async with Client(settings=settings(nats_server.url, deployment)) as cas:
        waiting = asyncio.create_task(anext(cas.follow(agent="a")))
        await until(lambda: len(cas._session.feeds) == 1, what="it follows")
        [(feed, _)] = cas._session.feeds._feeds.values()
        await until(lambda: feed._inboxes, what="it waits")
    with pytest.raises(NotConnectedError):
        await asyncio.wait_for(waiting, promised(5.0))


async def test_a_feed_that_fails_ends_every_follower(cas: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours must not leave anybody waiting in silence; who comes later is told, too."""

    async def follow() -> None:
        async for _ in cas.follow(agent="a"):  # A read that was on its way may still hand the event over.
            pass

    waiting = asyncio.create_task(follow())
    await until(lambda: len(cas._session.feeds) == 1, what="it follows")
    [(feed, _)] = cas._session.feeds._feeds.values()
    await until(lambda: feed._inboxes, what="it waits")

    async def fail(_position: int, **_: object) -> None:
        raise LookupError

    monkeypatch.setattr(feed._pages, "read", fail)
    await append(cas, "cas.log", ("a", "t", 1, 0))
    with pytest.raises(LookupError):
        await asyncio.wait_for(waiting, promised(10.0))


async def test_what_cannot_be_followed_is_said(cas: Client) -> None:
    for choice in (
        {"task_id": "t", "agent": "a"},
        {"after": 1, "from_": "now"},
        {"workflow": "t", "type": "output"},
    ):
        with pytest.raises(ValueError, match=r"."):
            cas.follow(**choice)
