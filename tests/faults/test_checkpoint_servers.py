"""Checkpoints while the server goes away, and on three servers, where the log of the stream is agreed upon.

Goal: a run outlives a restart and an election; a fence holds where writes are replicated and one may be in flight.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from cas_events import CheckpointFencedError, JetStreamSaver, JetStreamStore
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.settings import Settings
from cas_events.wire.checkpoints import Fence
from cas_events.wire.memory import MemorySubjects
from cas_events.wire.subjects import Names
from tests.harness.cluster import Cluster
from tests.harness.server import NatsServer
from tests.harness.wait import until_async


class State(TypedDict):
    log: Annotated[list[str], operator.add]


def fan(saver: Any, width: int, hook: Any = None) -> Any:
    """A graph whose ``width`` nodes run at once, and one after them."""
    graph = StateGraph(State)

    async def last(state: State) -> Any:
        if hook is not None:
            await hook()
        return {"log": ["last"]}

    graph.add_node("last", last)
    graph.add_edge("last", END)
    for number in range(width):
        graph.add_node(f"n{number}", lambda state, number=number: {"log": [f"{number}" + "x" * 300]})
        graph.add_edge(START, f"n{number}")
        graph.add_edge(f"n{number}", "last")
    return graph.compile(checkpointer=saver)


def thread(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id}}


async def test_a_run_outlives_a_crash_of_the_server(nats_server: NatsServer, deployment: str) -> None:
    async with JetStreamSaver(settings=Settings(nats_url=nats_server.url, deployment=deployment)) as saver:

        async def restart() -> None:
            await asyncio.to_thread(nats_server.restart)

        out = await fan(saver, 3, restart).ainvoke({"log": ["in"]}, thread("t"))
        assert len(out["log"]) == 5
        assert (await fan(saver, 3).aget_state(thread("t"))).values == out


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        asyncio.run(cluster.until_ready())
        yield cluster


@pytest.fixture
async def clustered(cluster: Cluster, deployment: str) -> AsyncIterator[JetStreamSaver]:
    async with JetStreamSaver(
        settings=Settings(nats_url=cluster.url, deployment=deployment, replicas=3)
    ) as saver:
        yield saver


async def test_parallel_writes_under_one_fence_on_three_servers(clustered: JetStreamSaver) -> None:
    out = await fan(clustered, 20).ainvoke({"log": ["in"]}, thread("t"))
    found = await clustered.aget_tuple(thread("t"))
    assert found is not None
    assert found.checkpoint["channel_values"]["log"] == out["log"]
    assert len([each async for each in clustered.alist(thread("t"))]) == 4


async def test_racing_runs_never_fork_a_thread_on_three_servers(cluster: Cluster, deployment: str) -> None:
    options = Settings(nats_url=cluster.url, deployment=deployment, replicas=3)
    async with JetStreamSaver(settings=options) as one, JetStreamSaver(settings=options) as other:
        for race in range(15):
            runs = (
                fan(saver, 2).ainvoke({"log": [name]}, thread(f"t{race}"))
                for saver, name in ((one, "a"), (other, "b"))
            )
            outs = await asyncio.gather(*runs, return_exceptions=True)
            won = [out["log"] for out in outs if isinstance(out, dict)]
            assert all(isinstance(out, dict | CheckpointFencedError) for out in outs)
            # Whoever came through has all that was stored: the other one was refused, or came before or after.
            stored = (await fan(one, 2).aget_state(thread(f"t{race}"))).values["log"]
            assert won
            assert stored == max(won, key=len)
            assert len(won) == 1 or len(stored) == 8


async def test_a_thread_is_acquired_and_lost_on_three_servers(clustered: JetStreamSaver) -> None:
    old = await clustered.acquire("t", Fence(agent="a", task="1", started_seq=1))
    await fan(old, 2).ainvoke({"log": []}, thread("t"))
    await clustered.acquire("t", Fence(agent="a", task="1", started_seq=2))
    with pytest.raises(CheckpointFencedError):
        await fan(old, 2).ainvoke({"log": []}, thread("t"))
    await clustered.adelete_thread("t")


async def test_memory_sees_what_was_stored_and_deleted_before_on_three_servers(
    cluster: Cluster, deployment: str
) -> None:
    options = Settings(nats_url=cluster.url, deployment=deployment, replicas=3)
    async with JetStreamStore(settings=options) as one, JetStreamStore(settings=options) as other:
        for number in range(40):
            await one.aput(("n",), f"k{number % 7}", {"n": number}, ttl=1000.0)
            found = await other.asearch(("n",), filter={"n": number}, refresh_ttl=False)
            assert [item.key for item in found] == [f"k{number % 7}"]
            if number % 5 == 0:
                await other.adelete(("n",), f"k{number % 7}")
                assert await one.asearch(("n",), filter={"n": number}) == []
        await asyncio.gather(
            *(which.aput(("n",), "same", {"n": number}) for number in range(10) for which in (one, other))
        )
        assert await one.aget(("n",), "same") == await other.aget(("n",), "same")
        large = {"data": "x" * 2_000_000}
        await one.aput(("n",), "large", large)
        (item,) = await other.asearch(("n",), filter=large)
        assert item.value == large


class Behind(JetStream):
    """Direct gets are answered by a copy that has stopped where it was when `stop` was called."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.then: list[StoredMessage] | None = None

    async def stop(self, stream: str, subject_filter: str) -> None:
        self.then, _ = await super().direct_batch(stream, subject_filter)

    async def direct_batch(self, stream: str, subject_filter: str, **options: Any) -> Any:
        if self.then is None:
            return await super().direct_batch(stream, subject_filter, **options)
        return [each for each in self.then if each.seq >= options["from_seq"]], False


async def test_a_search_makes_up_for_a_copy_that_is_behind(cluster: Cluster, deployment: str) -> None:
    names = Names(deployment)
    async with (
        JetStreamStore(settings=Settings(nats_url=cluster.url, deployment=deployment, replicas=3)) as writer,
        await Connection.open(cluster.url, name="test") as connection,
    ):
        behind = Behind(connection)
        store = JetStreamStore.on(behind, names)
        for key in ("kept", "updated", "deleted"):
            await writer.aput(("n",), key, {"at": "first"})

        async def has_all() -> bool:
            await behind.stop(names.checkpoints, MemorySubjects.of(names).within(()))
            return len(behind.then or ()) == 3

        await until_async(has_all, what="a copy has all three")
        await writer.aput(("n",), "updated", {"at": "second"})
        await writer.adelete(("n",), "deleted")
        await writer.aput(("n",), "new", {"at": "second"})
        found = {item.key: item.value["at"] for item in await store.asearch(("n",))}
        assert found == {"kept": "first", "updated": "second", "new": "second"}
        assert [each.key for each in await store.asearch((), filter={"at": "first"})] == ["kept"]


async def test_a_run_outlives_the_leader(cluster: Cluster, clustered: JetStreamSaver) -> None:
    async def kill() -> None:
        leader = await cluster.leader_of(clustered.stream.names.checkpoints)
        leader.kill()

    try:
        out = await fan(clustered, 3, kill).ainvoke({"log": ["in"]}, thread("t"))
        assert (await fan(clustered, 3).aget_state(thread("t"))).values == out
    finally:
        cluster.start()
