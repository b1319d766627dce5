"""What goes right behind a thread's fence in one round trip, and what becomes of it when another writer comes between.

Goal: linked messages are stored as a chain from the first one on, never one without those before it; a run is complete
wherever its chain breaks, and one whose fence was refused has stored nothing. Method: a real server; a connection that
sends a foreign message to the same stream at a chosen place between ours, since a server takes one connection's
messages in their order.
"""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.conformance.test_utils import (
    generate_checkpoint,
    generate_config,
    generate_metadata,
)
from langgraph.graph import END, START, StateGraph

from cas_events import CheckpointFencedError, JetStreamSaver
from cas_events.errors import WrongLastSequenceError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.batches import Outgoing, append_linked
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.wire.subjects import Names

NEW = (("Nats-Expected-Last-Subject-Sequence", "0"),)


class Crowded:
    """A connection on which somebody else writes to the stream before every message whose number is chosen."""

    def __init__(self, connection: Connection, stranger: str, before: set[int]) -> None:
        self._connection = connection
        self._stranger = stranger
        self._before = before
        self._sent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def request(self, subject: str, *args: Any, **options: Any) -> asyncio.Future[Any]:
        if not subject.startswith("$JS"):
            if self._sent in self._before:
                self._connection.publish(self._stranger, b"")
            self._sent += 1
        return self._connection.request(subject, *args, **options)


class State(TypedDict):
    log: Annotated[list[str], operator.add]


def graph(saver: JetStreamSaver) -> Any:
    async def say(state: State) -> State:
        return {"log": [f"after {len(state['log'])}"]}

    built = StateGraph(State)
    built.add_node("say", say)
    built.add_edge(START, "say")
    built.add_edge("say", END)
    return built.compile(checkpointer=saver)


def thread(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id}}


@pytest.fixture
async def names(js: JetStream, deployment: str) -> Names:
    names = Names(deployment)
    await ensure_streams(js, deployment, 1, only=names.checkpoints)
    return names


def saver_with_strangers(connection: Connection, names: Names, before: set[int]) -> JetStreamSaver:
    crowded: Any = Crowded(connection, f"{names.deployment}.ckpt.stranger.x", before)
    return JetStreamSaver.on(JetStream(crowded), names)


@pytest.mark.parametrize(("before", "stored"), [(set(), 4), ({1}, 1), ({2}, 2), ({3}, 3), ({1, 3}, 1)])
async def test_a_chain_is_stored_up_to_where_another_writer_comes_between(
    connection: Connection, js: JetStream, names: Names, before: set[int], stored: int
) -> None:
    crowded: Any = Crowded(connection, f"{names.deployment}.ckpt.stranger.x", before)
    subjects = [f"{names.deployment}.ckpt.t.{number}" for number in range(4)]
    messages = [Outgoing(subject, b"", NEW if subject == subjects[0] else ()) for subject in subjects]
    first, count = await append_linked(JetStream(crowded), messages, "link")
    found = await js.direct_last(names.checkpoints, [f"{names.deployment}.ckpt.t.*"])
    assert count == stored
    assert [message.subject for message in found] == subjects[:stored]
    assert first.seq == found[0].seq
    assert [message.seq for message in found] == list(range(first.seq, first.seq + stored))


async def test_nothing_of_a_chain_is_stored_whose_first_condition_fails(js: JetStream, names: Names) -> None:
    fence = Outgoing(f"{names.deployment}.ckpt.t.f", b"", NEW)
    record = Outgoing(f"{names.deployment}.ckpt.t.c", b"")
    await append_linked(js, [fence], "one")
    with pytest.raises(WrongLastSequenceError):
        await append_linked(js, [fence, record], "other")
    assert await js.last_message(names.checkpoints, record.subject) is None


@pytest.mark.parametrize("before", [{1}, {2}, {1, 2, 3}])
async def test_a_run_is_whole_wherever_its_chain_breaks(
    connection: Connection, js: JetStream, names: Names, before: set[int]
) -> None:
    crowded = graph(saver_with_strangers(connection, names, before))
    assert await crowded.ainvoke({"log": ["in"]}, thread("t")) == {"log": ["in", "after 1"]}
    read = graph(JetStreamSaver.on(js, names))
    history = [state async for state in read.aget_state_history(thread("t"))]
    assert [state.values["log"] for state in history] == [["in", "after 1"], ["in"], []]
    assert [state.next for state in history] == [(), ("say",), ("__start__",)]


async def test_of_writers_that_begin_a_thread_together_one_stores_and_the_others_nothing(
    connection: Connection, js: JetStream, names: Names
) -> None:
    """Each has read that the thread is new before the first one writes."""
    savers = [saver_with_strangers(connection, names, {number}) for number in range(4)]
    barrier = asyncio.Barrier(len(savers))

    async def write(saver: JetStreamSaver, number: int) -> Any:
        assert await saver.aget_tuple(thread("t")) is None
        await barrier.wait()
        checkpoint = generate_checkpoint(channel_values={"by": number}, channel_versions={"by": 1})
        await saver.aput(generate_config("t"), checkpoint, generate_metadata(), {"by": 1})
        return number

    ended = await asyncio.gather(*map(write, savers, range(4)), return_exceptions=True)
    stored = [found async for found in JetStreamSaver.on(js, names).alist(thread("t"))]
    assert [found.checkpoint["channel_values"]["by"] for found in stored] == [
        each for each in ended if not isinstance(each, CheckpointFencedError)
    ]
    assert len(stored) == 1
