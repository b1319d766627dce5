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

from cas_events import CheckpointFencedError, JetStreamSaver
from cas_events.settings import Settings
from cas_events.wire.checkpoints import Fence
from tests.harness.cluster import Cluster
from tests.harness.server import NatsServer


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


async def test_a_run_outlives_the_leader(cluster: Cluster, clustered: JetStreamSaver) -> None:
    async def kill() -> None:
        leader = await cluster.leader_of(clustered.stream.names.checkpoints)
        leader.kill()

    try:
        out = await fan(clustered, 3, kill).ainvoke({"log": ["in"]}, thread("t"))
        assert (await fan(clustered, 3).aget_state(thread("t"))).values == out
    finally:
        cluster.start()
