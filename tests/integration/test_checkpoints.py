"""The saver from the outside: what a graph stores, in how many bytes, and who may write and read it.

Goal: the promises of docs/checkpoints.md. Method: real graphs and a real server; what is stored is looked at in the
stream itself.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import ormsgpack
import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.conformance.test_utils import (
    generate_checkpoint,
    generate_config,
    generate_metadata,
)
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from cas_events import CheckpointFencedError, JetStreamSaver
from cas_events.errors import CheckpointUnreadableError, SyncOnLoopError, ThreadBusyError
from cas_events.jetstream.api import JetStream
from cas_events.wire.checkpoints import Fence, Record, encode_body
from cas_events.wire.pieces import Inline, pack
from cas_events.wire.subjects import Names
from cas_events.wire.threads import ThreadSubjects
from tests.harness.processes import settings

MB = 1024 * 1024


class State(TypedDict):
    log: Annotated[list[str], operator.add]


def chain(saver: JetStreamSaver, *nodes: Any) -> Any:
    """A graph of nodes, one after another."""
    graph = StateGraph(State)
    names = [f"n{number}" for number in range(len(nodes))]
    for name, node in zip(names, nodes, strict=True):
        graph.add_node(name, node)
    for one, other in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(one, other)
    return graph.compile(checkpointer=saver)


async def say(state: State) -> State:
    return {"log": [f"after {len(state['log'])}"]}


def thread(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id}}


@pytest.fixture
def open_saver(nats_url: str, deployment: str):
    return lambda **options: JetStreamSaver(settings=settings(nats_url, deployment), **options)


@pytest.fixture
async def saver(open_saver) -> AsyncIterator[JetStreamSaver]:
    async with open_saver() as saver:
        yield saver


async def stored_bytes(js: JetStream, deployment: str) -> int:
    return (await js.stream_info(Names(deployment).checkpoints)).state.bytes


async def put(saver: JetStreamSaver, thread_id: str, values: dict[str, Any], **metadata: Any) -> Any:
    checkpoint = generate_checkpoint(channel_values=values, channel_versions=dict.fromkeys(values, 1))
    config = generate_config(thread_id)
    return await saver.aput(config, checkpoint, generate_metadata(**metadata), dict.fromkeys(values, 1))


# --- any thread, any size


@pytest.mark.parametrize("thread_id", ["weird.id *> /ü", "", "=", "a" * 3000, "ü" * 3000, "\n", "x.y"])
async def test_a_thread_may_have_any_id(saver: JetStreamSaver, open_saver, thread_id: str) -> None:
    graph = chain(saver, say)
    await graph.ainvoke({"log": ["in"]}, thread(thread_id))
    async with open_saver() as other:
        found = [each async for each in other.alist(None)]
        assert {each.config["configurable"]["thread_id"] for each in found} == {thread_id}
        assert (await chain(other, say).aget_state(thread(thread_id))).values == {"log": ["in", "after 1"]}


@pytest.mark.parametrize("ns", ["a|b:c", "a.b *", "x" * 2000])
async def test_a_namespace_may_be_any_text(saver: JetStreamSaver, ns: str) -> None:
    config = generate_config("t", checkpoint_ns=ns)
    stored = await saver.aput(config, generate_checkpoint(), generate_metadata(), {})
    await saver.aput_writes(stored, [("c", 1)], "task * 1", "~pull")
    found = await saver.aget_tuple(config)
    assert found is not None
    assert found.config["configurable"]["checkpoint_ns"] == ns
    assert found.pending_writes == [("task * 1", "c", 1)]
    assert await saver.aget_tuple(generate_config("t")) is None


async def test_ten_megabytes_in_a_channel_and_in_a_write(saver: JetStreamSaver, open_saver) -> None:
    data = bytes(number * number % 253 for number in range(100_003)) * 100
    stored = await put(saver, "t", {"c": data, "d": {"x": "y" * 600_000}})
    await saver.aput_writes(stored, [("c", data), ("e", [data[: 600 * 1024], "z"])], "task")
    async with open_saver() as other:
        found = await other.aget_tuple(generate_config("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"c": data, "d": {"x": "y" * 600_000}}
    assert found.pending_writes == [("task", "c", data), ("task", "e", [data[: 600 * 1024], "z"])]


async def test_a_record_too_large_for_a_message(saver: JetStreamSaver) -> None:
    values = {f"channel {number}": "x" * 900 for number in range(2000)}
    await put(saver, "t", values, note="y" * 200_000)
    found = await saver.aget_tuple(generate_config("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == values
    assert found.metadata["note"] == "y" * 200_000  # type: ignore[typeddict-item]
    await saver.aprune(["t"])
    assert await saver.aget_tuple(generate_config("t")) == found


async def test_lists_of_every_shape_come_back_equal(saver: JetStreamSaver, open_saver) -> None:
    values: dict[str, Any] = {
        "numbers": list(range(5000)),
        "small": ["a"] * 1000,
        "mixed": [None, b"bytes", "x" * 2000, {"k": ["v"] * 300}, 7],
        "ended by a number": ["x" * 300, 1],
        "long": [f"{number}:" + "x" * 400 for number in range(700)],
        "empty": [],
        "one": [{"a": 1}],
        "messages": [HumanMessage("hi " * 300, id=str(number)) for number in range(40)],
    }
    await put(saver, "t", values)
    async with open_saver() as other:
        found = await other.aget_tuple(generate_config("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == values


# --- bytes


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


async def chat_turns(saver: JetStreamSaver, turns: int) -> None:
    """Turns of a chat: a question, a call, a tool's 2 kB of text, an answer."""
    text = Path(asyncio.__file__).with_name("base_events.py").read_text()

    async def model(state: Chat) -> Any:
        if isinstance(state["messages"][-1], ToolMessage):
            return {"messages": [AIMessage("It says so in the file.")]}
        return {"messages": [AIMessage("", tool_calls=[{"name": "read", "args": {}, "id": "c"}])]}

    async def tool(state: Chat) -> Any:
        at = len(state["messages"]) * 311 % (len(text) - 2048)
        return {"messages": [ToolMessage(text[at : at + 2048], tool_call_id="c")]}

    graph = StateGraph(Chat)
    graph.add_node("model", model)
    graph.add_node("tool", tool)
    graph.add_edge(START, "model")
    graph.add_conditional_edges(
        "model", lambda state: "tool" if state["messages"][-1].tool_calls else END, ["tool", END]
    )
    graph.add_edge("tool", "model")
    compiled = graph.compile(checkpointer=saver)
    for number in range(turns):
        out = await compiled.ainvoke({"messages": [("user", f"Question {number}?")]}, thread("chat"))
    assert len(out["messages"]) == 4 * turns


async def test_a_hundred_turns_of_chat_cost_two_megabytes_at_most(
    open_saver, js: JetStream, deployment: str
) -> None:
    async with open_saver() as saver:
        await chat_turns(saver, 100)
    assert await stored_bytes(js, deployment) <= 2_000_000


async def test_an_unchanged_channel_is_stored_once(
    saver: JetStreamSaver, js: JetStream, deployment: str
) -> None:
    config = generate_config("t")
    for number in range(20):
        checkpoint = generate_checkpoint(
            channel_values={"big": {"x": "y" * 3000, "n": 0}, "n": number},
            channel_versions={"big": 1, "n": number},
        )
        config = await saver.aput(
            config, checkpoint, generate_metadata(), {"n": number} | ({} if number else {"big": 1})
        )
    pieces = await js.direct_last(Names(deployment).checkpoints, [saver.stream.thread("t").all_pieces])
    assert len(pieces) == 1


async def test_pruning_leaves_the_newest_and_what_it_needs(
    saver: JetStreamSaver, js: JetStream, deployment: str
) -> None:
    graph = chain(saver, say, say)
    for number in range(5):
        await graph.ainvoke({"log": [f"{number}" + "x" * 400]}, thread("t"))
    before = await graph.aget_state(thread("t"))
    await put(saver, "other", {"c": "z" * 5000})
    for number in range(5):
        await put(saver, "changing", {"c": f"{number}" * 5000})
    await saver.aprune(["t", "changing"])
    assert (await graph.aget_state(thread("t"))).values == before.values
    names = Names(deployment).checkpoints
    for thread_id, pieces in (("t", 5), ("changing", 1), ("other", 1)):
        subjects = saver.stream.thread(thread_id)
        assert len(await js.direct_last(names, [subjects.all_records])) == 1
        assert await js.direct_last(names, [subjects.all_writes]) == []
        assert len(await js.direct_last(names, [subjects.all_pieces])) == pieces
    await graph.ainvoke({"log": ["on"]}, thread("t"))
    await saver.aprune(["t"], strategy="delete")
    left = await js.direct_last(names, [saver.stream.thread("t").everything])
    assert [message.subject for message in left] == [saver.stream.thread("t").fence]
    with pytest.raises(ValueError, match="neither"):
        await saver.aprune(["t"], strategy="all of it")


# --- who may write


async def test_two_processes_on_a_thread_do_not_fork_it(open_saver) -> None:
    async with open_saver() as one, open_saver() as other:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def wait(state: State) -> State:
            entered.set()
            await leave.wait()
            return {"log": ["slow"]}

        # In sync, so that nothing of it is on its way when the other one reads.
        slow = asyncio.create_task(
            chain(one, wait, say).ainvoke({"log": ["one"]}, thread("t"), durability="sync")
        )
        await entered.wait()
        await chain(other, say).ainvoke({"log": ["other"]}, thread("t"))
        leave.set()
        with pytest.raises(CheckpointFencedError, match="taken over"):
            await slow
        state = await chain(other, say).aget_state(thread("t"))
        assert "slow" not in state.values["log"]


async def test_a_run_that_read_in_the_middle_of_another_is_refused_after_it(open_saver) -> None:
    """The other one has ended, and the fence is where it was when both were under way."""
    async with open_saver() as one, open_saver() as other:
        entered, leave, has_read, go_on = (asyncio.Event() for _ in range(4))

        async def wait(state: State) -> State:
            entered.set()
            await leave.wait()
            return {"log": ["first"]}

        read = other.aget_tuple

        async def read_and_wait(config: Any) -> Any:
            found = await read(config)
            has_read.set()
            await go_on.wait()
            return found

        first = asyncio.create_task(chain(one, wait, say).ainvoke({"log": ["one"]}, thread("t")))
        await entered.wait()
        other.aget_tuple = read_and_wait  # type: ignore[method-assign]
        graph = chain(other, say)
        late = asyncio.create_task(graph.ainvoke({"log": ["other"]}, thread("t")))
        await has_read.wait()
        leave.set()
        out = await first
        go_on.set()
        with pytest.raises(CheckpointFencedError):
            await late
        assert (await chain(one, say).aget_state(thread("t"))).values == out


async def test_the_line_of_tasks_is_no_writer(open_saver) -> None:
    """A task that takes its place in the thread's line changes nothing that a run has read."""
    async with open_saver() as one, open_saver() as other:
        await chain(one, say).ainvoke({"log": ["in"]}, thread("t"))
        read, stream = other.aget_tuple, other.stream

        async def read_and_queue_up(config: Any) -> Any:
            found = await read(config)
            await stream.js.append(stream.thread("t").line, b"{}")
            return found

        other.aget_tuple = read_and_queue_up  # type: ignore[method-assign]
        out = await chain(other, say).ainvoke({"log": ["other"]}, thread("t"))
        assert len(out["log"]) == 4


async def test_two_runs_of_one_process_do_not_fork_a_thread(saver: JetStreamSaver) -> None:
    graph = chain(saver, say)
    await graph.ainvoke({"log": ["first"]}, thread("t"))
    both = await asyncio.gather(
        *(graph.ainvoke({"log": [name]}, thread("t"), durability="exit") for name in ("a", "b")),
        return_exceptions=True,
    )
    refused = [each for each in both if isinstance(each, CheckpointFencedError)]
    log = (await graph.aget_state(thread("t"))).values["log"]
    assert len(log) == 2 + 2 * (2 - len(refused))


async def test_processes_take_turns_on_a_thread(open_saver) -> None:
    async with open_saver() as one, open_saver() as other:
        for turn in range(3):
            await chain(one, say).ainvoke({"log": [f"one {turn}"]}, thread("t"))
            out = await chain(other, say).ainvoke({"log": [f"other {turn}"]}, thread("t"))
    assert len(out["log"]) == 12


async def test_reading_beside_a_run_disturbs_nobody(saver: JetStreamSaver) -> None:
    graph = chain(saver, say, say, say)
    async for _ in graph.astream({"log": ["in"]}, thread("t"), durability="async"):
        await graph.aget_state(thread("t"))
        await asyncio.gather(graph.aget_state(thread("t")))
    assert len((await graph.aget_state(thread("t"))).values["log"]) == 4


async def test_subgraphs_write_as_their_run_in_every_durability(saver: JetStreamSaver) -> None:
    inner = chain(True, say, say)  # type: ignore[arg-type]
    graph = chain(saver, say, inner)
    for durability in ("sync", "async", "exit"):
        out = await graph.ainvoke({"log": ["in"]}, thread(durability), durability=durability)
        assert len(out["log"]) == 6


async def test_a_newer_attempt_takes_the_thread_from_an_older_one(saver: JetStreamSaver) -> None:
    old = await saver.acquire("t", Fence(agent="a", task="1", started_seq=10))
    await chain(old, say).ainvoke({"log": ["old"]}, thread("t"))
    new = await saver.acquire("t", Fence(agent="a", task="1", started_seq=20))
    with pytest.raises(CheckpointFencedError):
        await chain(old, say).ainvoke({"log": ["old again"]}, thread("t"))
    out = await chain(new, say).ainvoke({"log": ["new"]}, thread("t"))
    assert out["log"] == ["old", "after 1", "new", "after 3"]
    with pytest.raises(CheckpointFencedError, match="started at 20"):
        await saver.acquire("t", Fence(agent="a", task="1", started_seq=15))


async def test_another_task_displaces_only_one_that_has_ended(saver: JetStreamSaver) -> None:
    await saver.acquire("t", Fence(agent="a", task="1", started_seq=10))
    asked: list[Fence] = []

    async def displace(holder: Fence) -> bool:
        asked.append(holder)
        return len(asked) > 1

    fence = Fence(agent="b", task="2", started_seq=5)
    for option in (None, displace):
        with pytest.raises(ThreadBusyError, match="'1'"):
            await saver.acquire("t", fence, displace=option)
    held = await saver.acquire("t", fence, displace=displace)
    assert [(each.agent, each.task, each.started_seq) for each in asked] == [("a", "1", 10)] * 2
    await chain(held, say).ainvoke({"log": ["in"]}, thread("t"))


async def test_deleting_a_thread_keeps_its_fence(saver: JetStreamSaver, open_saver) -> None:
    held = await saver.acquire("t", Fence(agent="a", task="1", started_seq=10))
    await chain(held, say).ainvoke({"log": ["in"]}, thread("t"))
    await held.adelete_thread("t")
    assert await held.aget_tuple(thread("t")) is None
    with pytest.raises(CheckpointFencedError):
        await saver.acquire("t", Fence(agent="a", task="1", started_seq=9))
    await chain(held, say).ainvoke({"log": ["in"]}, thread("t"))


async def test_pruning_ends_the_run_of_another(open_saver) -> None:
    async with open_saver() as one, open_saver() as other:

        async def pruned(state: State) -> State:
            await other.aprune(["t"])
            return {"log": ["x"]}

        # In sync, so that something of it is stored when the other one looks.
        with pytest.raises(CheckpointFencedError):
            await chain(one, say, pruned).ainvoke({"log": ["in"]}, thread("t"), durability="sync")


# --- sync and loops


async def test_a_sync_node_may_invoke_a_subgraph_and_read_its_state(saver: JetStreamSaver) -> None:
    inner = chain(saver, lambda state: {"log": ["inner"]})

    def node(state: State) -> State:
        out = inner.invoke({"log": ["in"]}, thread("inner"))
        assert inner.get_state(thread("inner")).values == out
        inner.update_state(thread("inner"), {"log": ["updated"]})
        return {"log": [f"{len(list(inner.get_state_history(thread('inner'))))}"]}

    out = await chain(saver, node).ainvoke({"log": []}, thread("outer"))
    assert out["log"] == ["4"]


async def test_every_sync_method_does_what_its_twin_does(saver: JetStreamSaver) -> None:
    def work() -> Any:
        config = generate_config("t")
        stored = saver.put(
            config, generate_checkpoint(channel_values={"c": 1}), generate_metadata(run_id="r"), {}
        )
        saver.put_writes(stored, [("c", 2)], "task")
        saver.copy_thread("t", "copy")
        saver.prune(["copy"])
        found = saver.get_tuple(generate_config("copy"))
        assert found is not None
        assert found.pending_writes == [("task", "c", 2)]
        assert saver.get_delta_channel_history(config=stored, channels=["c"]) == {"c": {"writes": []}}
        saver.delete_for_runs(["r"])
        saver.delete_thread("copy")
        return list(saver.list(None))

    assert await asyncio.to_thread(work) == []


async def test_a_sync_method_on_the_savers_own_loop_says_so(saver: JetStreamSaver) -> None:
    with pytest.raises(SyncOnLoopError, match="aget_tuple"):
        saver.get_tuple(thread("t"))


async def test_a_graph_may_run_in_another_loop(saver: JetStreamSaver) -> None:
    def work() -> Any:
        return asyncio.run(chain(saver, say).ainvoke({"log": ["in"]}, thread("t")))

    assert (await asyncio.to_thread(work))["log"] == ["in", "after 1"]


# --- what is read


@dataclass
class Money:
    amount: int


class Purse(TypedDict):
    money: Money


async def test_the_types_of_a_graphs_schema_come_back(saver: JetStreamSaver) -> None:
    graph = StateGraph(Purse)
    graph.add_node("n", lambda state: {"money": Money(state["money"].amount + 1)})
    graph.add_edge(START, "n")
    compiled = graph.compile(checkpointer=saver)
    await compiled.ainvoke({"money": Money(1)}, thread("t"))
    assert (await compiled.aget_state(thread("t"))).values == {"money": Money(2)}


async def test_other_types_come_back_as_plain_data_unless_allowed(saver: JetStreamSaver, open_saver) -> None:
    await put(saver, "t", {"c": Money(3)})
    plain = await saver.aget_tuple(generate_config("t"))
    async with open_saver(allow=[Money]) as other:
        allowed = await other.aget_tuple(generate_config("t"))
    assert plain is not None
    assert allowed is not None
    assert plain.checkpoint["channel_values"] == {"c": {"amount": 3}}
    assert allowed.checkpoint["channel_values"] == {"c": Money(3)}


def hostile(tmp_path: Path) -> list[tuple[str, bytes]]:
    """Values that would create a file, were their classes constructed."""
    path = str(tmp_path / "owned")
    call = ormsgpack.packb(("pathlib", "Path.touch", [path]))
    system = ormsgpack.packb(("os", "mkdir", [path]))
    single = ormsgpack.packb(("os", "mkdir", path))
    method = ormsgpack.packb(("pathlib", "Path", path, "mkdir"))
    constructor = {"lc": 2, "type": "constructor", "id": ["os", "mkdir"], "args": [path]}
    values = [
        ("", ormsgpack.packb(ormsgpack.Ext(code, data)))
        for code, data in (
            (0, single),
            (1, system),
            (1, call),
            (2, system),
            (3, method),
            (4, system),
            (5, system),
        )
    ]
    return [
        *values,
        ("json", msgspec.json.encode(constructor)),
        ("pickle", b"cos\nmkdir\n(S'" + path.encode() + b"'\ntR."),
    ]


async def test_bytes_on_a_subject_never_construct_a_class(
    saver: JetStreamSaver, js: JetStream, tmp_path: Path, caplog
) -> None:
    for number, (kind, data) in enumerate(hostile(tmp_path)):
        stored = await put(saver, f"t{number}", {})
        checkpoint_id = stored["configurable"]["checkpoint_id"]
        subjects = saver.stream.thread(f"t{number}")
        good = Inline(
            "",
            ormsgpack.packb(
                {"v": 1, "id": checkpoint_id, "ts": "", "channel_versions": {}, "versions_seen": {}}
            ),
        )
        record = Record(
            id=checkpoint_id,
            checkpoint=good,
            metadata=Inline("", ormsgpack.packb({})),
            values={"c": Inline(kind, data)},
        )
        await js.append(subjects.record("", checkpoint_id), pack(encode_body(record)))
        try:
            await saver.aget_tuple(generate_config(f"t{number}"))
        except CheckpointUnreadableError:
            assert kind in {"json", "pickle"}
    assert list(tmp_path.iterdir()) == []


async def test_what_is_no_checkpoint_is_named_with_its_subject(saver: JetStreamSaver, js: JetStream) -> None:
    stored = await put(saver, "t", {"c": "x" * 3000})
    subjects: ThreadSubjects = saver.stream.thread("t")
    (piece,) = await js.direct_last(saver.stream.names.checkpoints, [subjects.all_pieces])
    await js.append(piece.subject, pack(b"other bytes"))
    with pytest.raises(CheckpointUnreadableError, match="other bytes"):
        await saver.aget_tuple(generate_config("t"))
    await saver.stream.purge([piece.subject])
    with pytest.raises(CheckpointUnreadableError, match="missing"):
        await saver.aget_tuple(generate_config("t"))
    record = subjects.record("", stored["configurable"]["checkpoint_id"])
    for payload in (b"", b"\x00", b"\x09x", b"\x00\xc1", b"\x01zlib", b"\x02\x93"):
        await js.append(record, payload)
        with pytest.raises(CheckpointUnreadableError, match="cannot be read"):
            await saver.aget_tuple(generate_config("t"))


async def test_metadata_has_the_plain_values_of_the_config_but_no_private_ones(saver: JetStreamSaver) -> None:
    config = {
        "configurable": {"thread_id": "t", "user": "u1", "__token": "secret", "count": 3},
        "metadata": {"run": "r1"},
    }
    await chain(saver, say).ainvoke({"log": []}, config)
    found = await saver.aget_tuple(thread("t"))
    assert found is not None
    assert {"user": "u1", "count": 3, "run": "r1"}.items() <= found.metadata.items()
    assert "secret" not in str(found)


async def test_the_newest_is_the_one_committed_last_whatever_its_id(saver: JetStreamSaver) -> None:
    """A clock that is behind makes a smaller id."""
    for checkpoint_id in ("9f", "1a", "5c"):
        checkpoint = generate_checkpoint(checkpoint_id=checkpoint_id)
        await saver.aput(generate_config("t"), checkpoint, generate_metadata(), {})
    found = await saver.aget_tuple(generate_config("t"))
    assert found is not None
    assert found.checkpoint["id"] == "5c"
    listed = [each.checkpoint["id"] async for each in saver.alist(generate_config("t"))]
    before = [
        each.checkpoint["id"]
        async for each in saver.alist(generate_config("t"), before=generate_config("t", checkpoint_id="5c"))
    ]
    assert (listed, before) == (["5c", "1a", "9f"], ["1a", "9f"])


async def test_a_finished_sibling_is_not_run_again(saver: JetStreamSaver, open_saver) -> None:
    runs: list[str] = []

    def node(name: str, fails: list[bool]) -> Any:
        async def run(state: State) -> State:
            runs.append(name)
            if fails and fails.pop():
                raise RuntimeError(name)
            return {"log": [name]}

        return run

    def build(saver: JetStreamSaver) -> Any:
        graph = StateGraph(State)
        for name, fails in (("good", []), ("bad", failing)):
            graph.add_node(name, node(name, fails))
            graph.add_edge(START, name)
        return graph.compile(checkpointer=saver)

    failing = [True]
    with pytest.raises(RuntimeError):
        await build(saver).ainvoke({"log": []}, thread("t"))
    async with open_saver() as other:
        out = await build(other).ainvoke(None, thread("t"))
    assert sorted(out["log"]) == ["bad", "good"]
    assert sorted(runs) == ["bad", "bad", "good"]
