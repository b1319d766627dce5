"""Three servers on loopback, streams with three replicas: kill -9 of the leader, of a minority, of all; fencing there too.

Writes pause while a leader is elected and then go on; the promises are the same as on one server. What is different is
in PROTOCOL: 10164, reads from followers, at most one conditional write of a subject in flight.
"""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from cas_events import Client
from cas_events.errors import CasEventsError, ServerError, WrongLastSequenceError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.patience import patiently
from cas_events.settings import Settings
from cas_events.wire.subjects import Names
from tests.harness.cluster import Cluster, Node
from tests.harness.faults import Fleet, Load, at_rest, last_for, marks, until_marked
from tests.harness.patience import IS_TORTURE, count, promised
from tests.harness.pids import stopped_within
from tests.harness.wait import until, until_async

LEASE_S = 3.0
# An election takes up to 10 s (knowledge: 5 to 9 s measured for a stream's leader).
PAUSE_S = promised(30.0)
REST_S = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster") / "nodes") as cluster:
        asyncio.run(cluster.until_ready())
        yield cluster


@pytest.fixture(scope="module")
def fleet(cluster: Cluster) -> Iterator[Fleet]:
    """Two runners that serve already, on streams with three replicas."""
    deployment = f"t{uuid.uuid4().hex[:12]}"

    async def create_streams() -> None:
        async with Client(settings=settings(cluster, deployment)):
            pass

    asyncio.run(create_streams())
    with Fleet(cluster.url, deployment, [cluster.url, cluster.url], lease_s=LEASE_S) as fleet:
        asyncio.run(fleet.until_up())
        yield fleet


def settings(cluster: Cluster, deployment: str) -> Settings:
    return Settings(nats_url=cluster.url, deployment=deployment, replicas=3)


@pytest.fixture
async def cas(cluster: Cluster, fleet: Fleet) -> AsyncIterator[Client]:
    async with Client(settings=settings(cluster, fleet.deployment)) as client:
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
    cas: Client, cluster: Cluster, fleet: Fleet, record_property
) -> None:
    names, load, stop, pauses = Names(fleet.deployment), Load(cas), asyncio.Event(), list[float]()
    # The short form leaves the leader to the test below, which loses it under a running task.
    faults = ["leader", "follower", "all"] * 5 if IS_TORTURE else ["all"]
    record_property("cases", f"{len(faults)} kills")
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
            await cluster.until_settled(names.events)
    await until_more(load, 5)
    stop.set()
    await asyncio.wait_for(submitting, PAUSE_S)
    assert await load.complaints(cluster.url, timeout_s=REST_S) == []
    record_property("longest_pause_s", round(max(pauses), 1))


async def until_more(load: Load, more: int) -> None:
    seen = len(load.acknowledged)
    await until(lambda: len(load.acknowledged) >= seen + more, timeout_s=30.0, what="writes go on")


async def test_a_paused_runner_is_fenced_on_the_cluster_too(
    cas: Client, cluster: Cluster, fleet: Fleet, tmp_path: Path
) -> None:
    file, enough, load = tmp_path / "marks", tmp_path / "enough", Load(cas)
    body = {"file": str(file), "enough": str(enough), "ticks": 10_000}
    task = await load.start("talker", body, follow=True)
    first = fleet.runners[fleet.place_of((await until_marked(file, "began", 1)).pid)]
    first.send(signal.SIGSTOP)
    assert stopped_within(first.pid, 5.0)
    stopped_s = time.time()
    second = await until_marked(file, "began", 2)
    assert second.at_s - stopped_s < promised(2 * LEASE_S + 1.5)
    # An election while the zombie wakes: neither it nor its successor may be confused by it.
    leader = await cluster.leader_of(Names(fleet.deployment).events)
    first.send(signal.SIGCONT)
    woken_s = time.time()
    stopped = await until_marked(file, "stopped", 1)
    leader.kill()
    assert (stopped.attempt, stopped.pid) == (1, first.pid)
    assert stopped.at_s - woken_s < promised(1.0)
    enough.touch()
    assert (await asyncio.wait_for(task.result(), PAUSE_S)).status == "completed", "writes go on"
    leader.start()
    history = await at_rest(cluster.url, fleet.deployment, timeout_s=REST_S)
    assert await load.complaints(cluster.url) == []
    assert len(marks(file, "began")) == 2, "the successor kept its task through the election"
    assert [r.event.attempt for r in history.lifecycle_of(task.task_id)] == [1, 2, 2]


async def test_a_deposed_leader_may_answer_with_what_was_and_appends_nothing(
    cas: Client, cluster: Cluster, fleet: Fleet, record_property
) -> None:
    """It slept while another was elected; questions and appends wait in its socket when it wakes.

    What it answers then may be stale for some milliseconds (docs/decisions): no decision rests on it alone, because
    each ends in an append under the lock, and that takes the majority.
    """
    names, stale, asked = cas._session.names, 0, 0
    rounds = count(1, 5)
    for turn in range(rounds):
        subject = names.lifecycle("nobody", f"deposed{turn}")
        old = await cluster.leader_of(names.events)
        async with await Connection.open(old.url, name="at the old leader") as connection:
            js = JetStream(connection)
            old.send(signal.SIGSTOP)
            try:
                seq = await append_when_elected(cluster, old, subject)
                reads = [asyncio.create_task(js.last_message(names.events, subject)) for _ in range(50)]
                append = asyncio.create_task(js.append(subject, b'{"by":"old"}', expected_last_seq=0))
                await last_for(0.1)
            finally:
                old.send(signal.SIGCONT)
            answers = await asyncio.gather(*reads, return_exceptions=True)
            asked += sum(not isinstance(answer, BaseException) for answer in answers)
            stale += sum(answer is None for answer in answers)
            with pytest.raises(CasEventsError):
                await append
        await cluster.until_settled(names.events)
        # It had settled at that moment: an election may follow at once.
        last = await patiently(
            partial(cas._session.js.last_message, names.events, subject),
            errors=(ServerError,),
            give_up_s=promised(20.0),
        )
        assert last is not None
        assert (last.seq, last.data) == (seq, b'{"by":"new"}')
    record_property("cases", f"{rounds} elections")
    record_property("stale answers", f"{stale} of {asked}")


async def append_when_elected(cluster: Cluster, old: Node, subject: str) -> int:
    """The sequence of an append that the other two accept, as soon as one of them leads."""
    url = ",".join(node.url for node in cluster.nodes if node is not old)
    async with await Connection.open(url, name="at the others") as connection:
        js, seq = JetStream(connection), 0

        async def is_stored() -> bool:
            nonlocal seq
            try:
                seq = (await js.append(subject, b'{"by":"new"}', expected_last_seq=0, timeout_s=2)).seq
            except WrongLastSequenceError:  # Its answer was lost.
                last = await js.last_message(subject.split(".", maxsplit=1)[0].upper() + "_EVENTS", subject)
                seq = last.seq if last else 0
            except CasEventsError:
                return False
            return seq > 0

        await until_async(is_stored, timeout_s=PAUSE_S, what="another leader")
        return seq
