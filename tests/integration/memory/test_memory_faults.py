"""Long-term memory among foreign bytes, lost answers and crashes, and through a runner.

Goal: the promises of docs/memory.md. Method: a real server; where a case is one of LangGraph's, the same operations
are also given to its in-memory store.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest
from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from typing_extensions import TypedDict

from cas_events import Client, JetStreamSaver, JetStreamStore
from cas_events.errors import (
    ConnectionLostError,
    MemoryUnreadableError,
)
from cas_events.jetstream.api import JetStream, PubAck
from cas_events.jetstream.connection import Connection
from cas_events.wire.memory import MemorySubjects
from cas_events.wire.pieces import pack
from cas_events.wire.subjects import Names
from tests.harness.memory import NS, keys
from tests.harness.own_runner import running
from tests.harness.processes import settings
from tests.harness.server import NatsServer

# --- what is trusted


async def test_foreign_bytes_construct_nothing_and_stop_no_search(
    store: JetStreamStore, js: JetStream, subjects: MemorySubjects, caplog: pytest.LogCaptureFixture
) -> None:
    await store.aput(NS, "good", {"n": 1})
    await store.aput(NS, "moved", {"n": 2})
    good = await js.last_message(
        Names(subjects.prefix.partition(".")[0]).checkpoints, subjects.item(NS, "good")
    )
    assert good is not None
    constructor = msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"\x93\xa2os\xa6system\x91\xa4true"))
    for number, payload in enumerate([b"", b"\x07x", b"\x80\x04.", pack(constructor), good.data]):
        await js.append(subjects.item(NS, f"bad{number}"), payload)
        with pytest.raises(MemoryUnreadableError, match="cannot be read"):
            await store.aget(NS, f"bad{number}")
    await js.append(f"{subjects.prefix}.i.=A.x", b"no token")
    with caplog.at_level(logging.WARNING):
        assert sorted(keys(await store.asearch(()))) == ["good", "moved"]
        assert await store.alist_namespaces() == [NS]
    assert "left out" in caplog.text
    await store.aput(NS, "bad0", {"n": 3})
    await store.adelete(NS, "bad1")
    assert len(await store.asearch(NS)) == 3


async def test_a_lost_piece_is_named(
    store: JetStreamStore, js: JetStream, subjects: MemorySubjects, deployment: str
) -> None:
    await store.aput(NS, "a", {"data": "x" * 600_000})
    stream = Names(deployment).checkpoints
    await js.call(f"STREAM.PURGE.{stream}", {"filter": subjects.all_pieces})
    with pytest.raises(MemoryUnreadableError, match="missing"):
        await store.aget(NS, "a")
    assert await store.asearch(NS) == []


async def test_checkpoints_and_memory_do_not_see_each_other(
    store: JetStreamStore, nats_url: str, deployment: str
) -> None:
    await store.aput(("c", "x"), "y", {"n": 1})
    async with JetStreamSaver(settings=settings(nats_url, deployment)) as saver:
        for thread_id in ("~store", "_store", "store"):
            await saver.adelete_thread(thread_id)
        assert [each async for each in saver.alist(None)] == []
        await saver.adelete_for_runs(["r"])
    assert await store.aget(("c", "x"), "y") is not None


# --- servers


async def test_memory_outlives_a_crash_of_the_server(nats_server: NatsServer, store: JetStreamStore) -> None:
    await store.aput(NS, "a", {"data": "x" * 600_000})
    restart = asyncio.create_task(asyncio.to_thread(nats_server.restart))
    puts = [asyncio.create_task(store.aput(NS, f"k{number}", {"n": number})) for number in range(20)]
    await restart
    await asyncio.gather(*puts)
    item = await store.aget(NS, "a")
    assert item is not None
    assert len(item.value["data"]) == 600_000
    assert len(await store.asearch(NS, limit=100)) == 21


class Lossy(JetStream):
    """The answer to an append is lost after the server has stored it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.lost: list[str] = []

    async def append(self, subject: str, payload: bytes, **options: Any) -> PubAck:
        ack = await super().append(subject, payload, **options)
        self.lost.append(subject)
        raise ConnectionLostError(f"the answer was lost: {ack}")


async def test_a_put_whose_answer_was_lost_is_stored_once(
    connection: Connection, deployment: str, store
) -> None:
    lossy = Lossy(connection)
    other = JetStreamStore.on(lossy, Names(deployment))
    seqs = []
    for number in (1, 2):
        await other.aput(NS, "a", {"n": number})
        last = await lossy.last_message(Names(deployment).checkpoints, lossy.lost[-1])
        assert last is not None
        seqs.append(last.seq)
        item = await store.aget(NS, "a")
        assert item is not None
        assert item.value == {"n": number}
    assert seqs == [1, 2]


# --- through a runner


class Question(TypedDict, total=False):
    user: str
    note: str
    known: list[str]


async def remember(state: Question, runtime: Runtime) -> Question:
    assert runtime.store is not None
    await runtime.store.aput(("notes", state["user"]), state["note"], {"note": state["note"]})
    return {}


def recall(state: Question) -> Question:
    found = get_store().search(("notes", state["user"]))
    return {"known": sorted(item.value["note"] for item in found)}


def notebook() -> StateGraph:
    graph = StateGraph(Question)
    graph.add_node("remember", remember)
    graph.add_node("recall", recall)
    graph.add_edge(START, "remember")
    graph.add_edge("remember", "recall")
    graph.add_edge("recall", END)
    return graph


def outer() -> StateGraph:
    graph = StateGraph(Question)
    graph.add_node("inner", notebook().compile())
    graph.add_edge(START, "inner")
    graph.add_edge("inner", END)
    return graph


async def test_graphs_of_a_runner_remember_across_threads(
    cas: Client, make_runner, store: JetStreamStore
) -> None:
    runner = make_runner()
    own = InMemoryStore()
    runner.register("notebook", notebook().compile())
    runner.register("outer", outer())
    runner.register("own", notebook().compile(store=own))
    runner.register("factory", lambda runtime: notebook().compile(store=runtime.store))
    async with running(cas, runner):
        for agent, note in (("notebook", "one"), ("outer", "two"), ("factory", "three"), ("own", "mine")):
            result = await cas.execute_task(agent, {"user": "u1", "note": note})
            assert note in result.output["known"]
        assert result.output["known"] == ["mine"]
    assert keys(await own.asearch(("notes", "u1"))) == ["mine"]
    assert keys(await store.asearch(("notes", "u1"))) == ["three", "two", "one"]
