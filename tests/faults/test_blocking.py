"""Agent code that blocks, and code that does not end when asked to (issue 3, item 3; promises 2, 3 and 8).

Method: real runner processes; what the rest of the fleet can do meanwhile is measured, what the blocked one did is
read from the log.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cas_events import Client
from tests.faults.settled import kinds, settled
from tests.faults.troublemakers import troubling
from tests.harness.patience import IS_TORTURE, count, promised
from tests.harness.processes import lines, settings
from tests.harness.wait import until

LEASE_S, GRACE_S = 1.0, 1.0
OPTIONS = {"lease_s": LEASE_S, "grace_s": GRACE_S}

END_S = promised(20.0)


@pytest.fixture
async def cas(nats_server, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


async def test_blocking_for_five_leases_is_no_crash_and_stops_nobody_else(
    cas: Client, nats_server, deployment: str, tmp_path: Path, record_property
) -> None:
    """One of two runners blocks; agents that both serve go on in the other, and so does the blocking one."""
    file, enough, agents = tmp_path / "marks", tmp_path / "enough", "blocker,echo,noop"
    async with (
        troubling(nats_server.url, deployment, agents, **OPTIONS),
        troubling(nats_server.url, deployment, f"mirror,{agents}", **OPTIONS),
    ):
        long = await cas.submit_task("blocker", {"file": str(file), "until": str(enough)})
        await until(lambda: lines(file), what="blocking")
        blocked_s, took_s, others = time.monotonic(), [], [long]
        while len(others) < 10 or time.monotonic() - blocked_s < 5 * LEASE_S:
            for agent_id, input_ in (("echo", {}), ("noop", {}), ("blocker", {"block_s": 0.01})):
                asked_s = time.monotonic()
                others.append(await cas.submit_task(agent_id, input_))
                assert (await asyncio.wait_for(others[-1].result(), END_S)).status == "completed"
                took_s.append(time.monotonic() - asked_s)
        enough.touch()
        result = await asyncio.wait_for(long.result(), END_S)
        history = await settled(nats_server.url, deployment, others)

    assert result.output == {"attempt": 1}
    assert lines(file) == ["began 1"]
    assert {tuple(kinds(events)) for events in history.values()} == {("started", "completed")}
    # At worst a command that the blocked runner had just been given waits for the keeper to give it back.
    record_property("others at most", f"{max(took_s):.1f} s")
    assert max(took_s) < promised(LEASE_S + 0.5)
    if IS_TORTURE:
        assert statistics.median(took_s) < 0.2


async def test_sync_nodes_run_side_by_side_and_do_not_starve_the_loop(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    """More sync nodes than a default thread pool has threads (cores + 4), in the same runner as what they must not hold up."""
    nodes, file, enough, took_s = 32, tmp_path / "marks", tmp_path / "enough", list[float]()
    async with troubling(nats_server.url, deployment, "sync-graph,noop", **OPTIONS):
        body = {"file": str(file), "until": str(enough)}
        tasks = [await cas.submit_task("sync-graph", body) for _ in range(nodes)]
        await until(lambda: len(lines(file)) == nodes, what="every node blocks a thread, all at once")
        for _ in range(count(10, 100)):
            asked_s = time.monotonic()
            result = await asyncio.wait_for(cas.execute_task("noop"), END_S)
            assert result.status == "completed"
            took_s.append(time.monotonic() - asked_s)
        enough.touch()
        results = await asyncio.wait_for(asyncio.gather(*(task.result() for task in tasks)), END_S)
        await settled(nats_server.url, deployment, tasks)

    assert len({result.output["notes"][0] for result in results}) == nodes
    if IS_TORTURE:
        assert statistics.median(took_s) < 0.1


async def test_code_that_swallows_cancellation_gets_the_grace_and_commits_nothing_afterwards(
    cas: Client, nats_server, deployment: str, tmp_path: Path, record_property
) -> None:
    file, enough = tmp_path / "marks", tmp_path / "enough"
    async with troubling(nats_server.url, deployment, "undead,noop", **OPTIONS):
        task = await cas.submit_task("undead", {"file": str(file), "until": str(enough)})
        await until(lambda: lines(file), what="running")
        asked_s = time.monotonic()
        assert await asyncio.wait_for(task.cancel("now", wait=True), END_S) == "requested"
        took_s = time.monotonic() - asked_s
        assert "returned" not in lines(file)
        last_seq = await cas.last_seq()
        # The same runner serves on, while the code goes on and in the end returns as if nothing had been.
        assert (await cas.execute_task("noop")).status == "completed"
        enough.touch()
        await until(lambda: "returned" in lines(file), what="the code returns")
        assert (await cas.execute_task("noop")).status == "completed"
        history = await settled(nats_server.url, deployment, [task])
        late = [event async for event in cas.replay(agent="undead", from_seq=last_seq + 1)]

    assert "swallowed" in lines(file)
    assert kinds(history[task.task_id]) == ["started", "cancelled"]
    record_property("ended after", f"{took_s:.1f} s")
    assert GRACE_S <= took_s < promised(GRACE_S + 1.0)
    assert late == []
