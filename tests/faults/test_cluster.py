"""Three servers on loopback, streams with three replicas: kill -9 of the leader, of a minority, of all; fencing there too.

Writes pause while a leader is elected and then go on; the promises are the same as on one server. What is different is
in PROTOCOL: 10164, reads from followers, at most one conditional write of a subject in flight.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cas_events import Client
from cas_events.errors import CasEventsError
from cas_events.settings import Settings
from cas_events.wire.subjects import Names
from tests.harness.cluster import Cluster
from tests.harness.faults import Fleet, Load, at_rest, count, last_for, marks, until_marked
from tests.harness.pids import stopped_within
from tests.harness.wait import until

LEASE_S = 3.0
# An election takes up to 10 s (knowledge: 5 to 9 s measured for a stream's leader).
PAUSE_S = 30.0
REST_S = 60.0


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    with Cluster(tmp_path / "cluster") as cluster:
        await cluster.until_ready()
        yield cluster


@pytest.fixture
async def cas(cluster: Cluster, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=Settings(nats_url=cluster.url, deployment=deployment, replicas=3)) as client:
        yield client


async def keep_submitting(load: Load, stop: asyncio.Event, pauses: list[float]) -> None:
    """Start and follow tasks until told to stop; notes how long writes paused."""
    last_s = time.monotonic()
    while not stop.is_set():
        try:
            task = await load.start("talker", {"ticks": 20}, follow=True)
            if len(load.tasks) % 5 == 0:
                await task.cancel("every fifth")
            pauses.append(time.monotonic() - last_s)
            last_s = time.monotonic()
        except CasEventsError:
            await last_for(0.1)
        await last_for(0.05)


async def test_kills_of_the_leader_a_minority_and_all_lose_nothing(
    cas: Client, cluster: Cluster, deployment: str, record_property
) -> None:
    names, load, stop, pauses = Names(deployment), Load(cas), asyncio.Event(), list[float]()
    faults = ["leader", "all"] if count(1, 5) == 1 else ["leader", "follower", "all"] * 5
    with Fleet(cluster.url, deployment, [cluster.url, cluster.url], lease_s=LEASE_S) as fleet:
        await fleet.until_up()
        submitting = asyncio.create_task(keep_submitting(load, stop, pauses))
        for fault in faults:
            await until_more(load, 5)
            leader = await cluster.leader_of(names.events)
            if fault == "all":
                cluster.kill_all()
                await last_for(1.0)
                cluster.start()
            else:
                victim = leader if fault == "leader" else next(n for n in cluster.nodes if n is not leader)
                victim.kill()
                await until_more(load, 5)  # The majority goes on without it.
                victim.start()
        await until_more(load, 5)
        stop.set()
        await asyncio.wait_for(submitting, PAUSE_S)
        assert await load.complaints(cluster.url, timeout_s=REST_S) == []
    record_property("longest_pause_s", round(max(pauses), 1))


async def until_more(load: Load, more: int) -> None:
    seen = len(load.acknowledged)
    await until(lambda: len(load.acknowledged) >= seen + more, timeout_s=PAUSE_S, what="writes go on")


async def test_a_paused_runner_is_fenced_on_the_cluster_too(
    cas: Client, cluster: Cluster, deployment: str, tmp_path: Path
) -> None:
    file, enough, load = tmp_path / "marks", tmp_path / "enough", Load(cas)
    with Fleet(cluster.url, deployment, [cluster.url, cluster.url], lease_s=LEASE_S) as fleet:
        await fleet.until_up()
        body = {"file": str(file), "enough": str(enough), "ticks": 10_000}
        await load.start("talker", body, follow=True)
        began = await until_marked(file, "began", 1)
        first = fleet.runners[fleet.place_of(began.pid)]
        first.send(signal.SIGSTOP)
        assert stopped_within(first.pid, 5.0)
        stopped_s = time.time()
        second = await until_marked(file, "began", 2)
        assert second.at_s - stopped_s < 2 * LEASE_S + 1.5
        # An election while the zombie wakes: neither it nor its successor may be confused by it.
        leader = await cluster.leader_of(Names(deployment).events)
        first.send(signal.SIGCONT)
        woken_s = time.time()
        stopped = await until_marked(file, "stopped", 1)
        leader.kill()
        assert (stopped.attempt, stopped.pid) == (1, first.pid)
        assert stopped.at_s - woken_s < 1.0
        await last_for(LEASE_S)
        leader.start()
        enough.touch()
        history = await at_rest(cluster.url, deployment, timeout_s=REST_S)
        assert await load.complaints(cluster.url) == []
    assert len(marks(file, "began")) == 2, "the successor kept its task through the election"
    assert [r.event.attempt for r in history.lifecycle_of(load.tasks[0].task_id)] == [1, 2, 2]
