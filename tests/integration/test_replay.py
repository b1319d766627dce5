"""Replay by task, agent, type, sequence and time, at a pace; with a projector and without one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cas_events import Client
from cas_events.replay import Pace
from tests.harness.cas import Cas
from tests.integration.test_follow_log import append
from tests.integration.test_projection_process import projecting

NINE = datetime(2026, 11, 22, 9, tzinfo=UTC)


async def story(cas: Client) -> list[int]:
    """Two tasks of two agents; the sequences."""
    types = ("cas.task.started", "cas.log", "cas.task.completed")
    return [
        await append(cas, type_, (agent, agent, 1, index))
        for index, type_ in enumerate(types)
        for agent in ("a", "b")
    ]


async def seqs(cas: Client, **choice: object) -> list[int]:
    return [event.seq async for event in cas.replay(**choice)]


async def stored_at(cas: Client, seq: int) -> datetime:
    message = await cas._session.js.message(cas._session.names.events, seq)
    assert message is not None
    return datetime.fromtimestamp(message.time_ns // 1000 / 1e6, UTC)


async def test_by_agent_type_and_sequences(cas: Client) -> None:
    story_seqs = await story(cas)
    assert story_seqs == [1, 2, 3, 4, 5, 6]
    assert await seqs(cas, agent="a") == [1, 3, 5]
    assert await seqs(cas, type="log") == [3, 4]
    assert await seqs(cas, type="cas.task.*", agent="b") == [2, 6]
    assert await seqs(cas, from_seq=2, to_seq=4) == [2, 3, 4]
    assert await seqs(cas, type="cas.log", from_seq=4) == [4]
    assert await seqs(cas, to_seq=0) == []
    assert await seqs(cas, task_id="a", agent="a", type="task.completed") == [5]


async def test_by_time_through_the_projection_and_without_it(
    cas: Client, nats_url: str, deployment: str, tmp_path: Path
) -> None:
    await story(cas)
    second, fourth = await stored_at(cas, 2), await stored_at(cas, 4)
    told: list[str] = []

    async def check() -> None:
        assert await seqs(cas, since=second, until=fourth, on_fallback=told.append) == [2, 3, 4]
        assert await seqs(cas, since=second.isoformat(), agent="a", on_fallback=told.append) == [3, 5]
        assert await seqs(cas, until="2020-01-01", on_fallback=told.append) == []
        later = datetime.now(UTC) + timedelta(hours=1)
        assert await seqs(cas, since=later, on_fallback=told.append) == []
        assert await seqs(cas, until=later, from_seq=6, on_fallback=told.append) == [6]

    await check()
    assert len(told) == 5
    assert f"no projector of {deployment} is running" in told[0]
    told.clear()
    async with projecting(nats_url, deployment, tmp_path):
        await check()
    assert told == []


def test_on_the_command_line(nats_url: str, deployment: str, tmp_path: Path) -> None:
    cas = Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})
    with cas.process("worker", "cas_events.agents.samples:runner"):
        assert cas("run", "echo", "{}", "--wait-for-runner", "60", "--task-id", "t1").code == 0
    everything = cas("replay", "--task", "t1", "--json").lines
    paced = cas("replay", "--task", "t1", "--json", "--speed", "10x", "--max-pause", "0.01").lines
    assert paced == everything
    first, last = everything[0]["seq"], everything[-1]["seq"]
    assert [
        e["seq"] for e in cas("replay", "--from-seq", str(last), "--to-seq", str(last), "--json").lines
    ] == [last]
    assert [e["type"] for e in cas("replay", "--type", "task.*", "--task", "t1", "--json").lines] == [
        "cas.task.started",
        "cas.task.completed",
    ]
    since = cas("replay", "--task", "t1", "--since", "2026-01-01", "--json")
    assert [event["seq"] for event in since.lines] == [event["seq"] for event in everything]
    assert "looked up in the stream" in since.err
    tailed = cas("tail", "--task", "t1", "--from", "start", "--json").lines
    assert (tailed[0]["seq"], tailed[-1]["seq"]) == (first, last)
    assert [
        e["seq"]
        for e in cas("tail", "--workflow", "t1", "--from", "start", "--type", "task.*", "--json").lines
    ] == [
        first,
        last,
    ]
    assert cas("tail", "--task", "t1", "--after", str(last), "--json").lines == []
    for wrong in (("--speed", "0x"), ("--speed", "fast"), ("--since", "yesterday"), ("--from-seq", "0")):
        assert cas("replay", *wrong).code == 2
    for wrong in (("--from", "x"), ("--task", "t", "--agent", "a"), ("--after", "1", "--from", "now")):
        assert cas("tail", *wrong).code == 2


@pytest.mark.parametrize(
    ("speed", "pause_max_s", "due"),
    [(1.0, None, [0, 2, 2, 62]), (10.0, None, [0, 0.2, 0.2, 6.2]), (1.0, 5.0, [0, 2, 2, 7])],
)
def test_the_pace(speed: float, pause_max_s: float | None, due: list[float]) -> None:
    """The third event was made before the second one: it is due at once, and the clock never goes back."""
    pace = Pace(speed, pause_max_s)
    times = [NINE + timedelta(seconds=s) for s in (0, 2, 1, 62)]
    assert [pace.due_s(time) for time in times] == pytest.approx(due)
