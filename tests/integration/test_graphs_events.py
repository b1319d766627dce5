"""What followers of a graph's task see: steps, progress, logs, outputs, from wherever in the graph (issue 4, item 5)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy, RetryPolicy, Send
from typing_extensions import TypedDict

from cas_events import Client, current_task
from cas_events.domain.events import Event
from tests.harness.own_runner import running


class State(TypedDict, total=False):
    word: str
    tries: int


def chain(*nodes: Any, **options: Any) -> StateGraph:
    """A graph of named nodes, one after another; (name, what it runs)."""
    made = StateGraph(State)
    for name, node in nodes:
        made.add_node(name, node, **options)
    names = [name for name, _ in nodes]
    for before, after in zip([START, *names], [*names, END], strict=True):
        made.add_edge(before, after)
    return made


async def events_of(
    cas: Client, make_runner, graph: Any, input: dict | None = None, **options: Any
) -> list[Event]:
    runner = make_runner()
    runner.register("workflow", graph, **{"max_attempts": 1} | options)
    async with running(cas, runner):
        started = await cas.submit_task("workflow", input or {})
        return [event async for event in started.events()]


def steps(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.data["node"], event.type.rpartition(".")[2]) for event in events if ".step." in event.type]


def of(events: list[Event], type_: str) -> list[dict]:
    return [event.data for event in events if event.type == type_]


def say(where: str) -> None:
    ctx = current_task()
    ctx.progress(0.5, where)
    ctx.log.info(where)


async def test_every_kind_of_code_has_the_tasks_handle(cas: Client, make_runner) -> None:
    """Async nodes, sync nodes, threads, nested graphs, as nodes and called; each says which node and agent it is."""

    async def asynchronous(_state: State) -> State:
        say("async node")
        await asyncio.to_thread(say, "thread of an async node")
        return {}

    def sync(_state: State) -> State:
        say("sync node")
        get_stream_writer()({"from": "sync node"})
        return {}

    def inner(_state: State) -> State:
        say("nested node")
        get_stream_writer()({"from": "nested node"})
        return {}

    nested = chain(("inner", inner)).compile()

    async def caller(_state: State) -> State:
        return await nested.ainvoke({})

    def sync_caller(_state: State) -> State:
        return nested.invoke({})

    graph = chain(
        ("analyst", asynchronous),
        ("writer", sync),
        ("team", nested),
        ("caller", caller),
        ("sync-caller", sync_caller),
    )
    events = await events_of(cas, make_runner, graph)

    expected = [
        ("async node", "analyst", "analyst"),
        ("thread of an async node", "analyst", "analyst"),
        ("sync node", "writer", "writer"),
        ("nested node", "inner", "team"),
        ("nested node", "inner", "caller"),
        ("nested node", "inner", "sync-caller"),
    ]
    assert [(data["message"], data["node"], data["agent"]) for data in of(events, "cas.log")] == expected
    progress = [(data["message"], data["node"], data["agent"]) for data in of(events, "cas.progress")]
    # The newest of each node wins, should the budget ever make it wait.
    assert set(progress) <= set(expected)
    assert {agent for _, _, agent in progress} == {"analyst", "writer", "team", "caller", "sync-caller"}
    assert [data["value"]["from"] for data in of(events, "cas.output")] == [
        "sync node",
        "nested node",
        "nested node",
        "nested node",
    ]
    assert events[-1].status == "completed"


async def test_a_nodes_start_stands_before_what_it_says(cas: Client, make_runner) -> None:
    def node(_state: State) -> State:
        say("here")
        return {}

    events = await events_of(
        cas, make_runner, chain(("one", node), ("two", chain(("inner", node)).compile()))
    )

    seen = [
        (event.data.get("node"), event.type.removeprefix("cas."))
        for event in events
        if event.type in {"cas.step.started", "cas.step.completed", "cas.log"}
    ]
    assert seen == [
        ("one", "step.started"),
        ("one", "log"),
        ("one", "step.completed"),
        ("two", "step.started"),
        ("inner", "step.started"),
        ("inner", "log"),
        ("inner", "step.completed"),
        ("two", "step.completed"),
    ]
    outer = next(event.data for event in events if event.data.get("node") == "two")
    inner = next(event.data for event in events if event.data.get("node") == "inner")
    assert outer["path"] == []
    assert inner["path"] == [f"two:{outer['step_id']}"]


async def test_a_function_speaks_in_the_name_of_the_agent_that_it_calls(cas: Client, make_runner) -> None:
    """DESIGN: {type: agent_progress, agent, progress, message} reaches the workflow's followers."""

    async def review(ctx: Any) -> None:
        await ctx.progress(0.7, "reviewing")
        ctx.log.info("reviewed")

    async def node(_state: State) -> State:
        await review(current_task().named("qa"))
        say("myself")
        return {}

    events = await events_of(cas, make_runner, chain(("developer", node)))

    assert [(data["message"], data["node"], data["agent"]) for data in of(events, "cas.log")] == [
        ("reviewed", "developer", "qa"),
        ("myself", "developer", "developer"),
    ]
    assert {(data["progress"], data["agent"]) for data in of(events, "cas.progress")} == {
        (0.7, "qa"),
        (0.5, "developer"),
    }


async def test_a_function_agent_may_speak_in_anothers_name_too(cas: Client, make_runner) -> None:
    runner = make_runner()

    @runner.agent("lead")
    async def lead(ctx: Any, _input: dict) -> None:
        await ctx.named("tester").progress(0.5, "testing")
        ctx.log.info("done")

    async with running(cas, runner):
        started = await cas.submit_task("lead")
        events = [event async for event in started.events()]
    assert of(events, "cas.progress") == [{"progress": 0.5, "message": "testing", "agent": "tester"}]
    assert of(events, "cas.log") == [{"level": "info", "message": "done", "metadata": {}}]


async def test_each_try_of_a_node_is_told(cas: Client, make_runner) -> None:
    """LangGraph's stream says nothing of its retries."""
    tries = []

    async def flaky(_state: State) -> State:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError(f"try {len(tries)}")
        return {}

    policy = RetryPolicy(initial_interval=0.01, jitter=False)
    events = await events_of(cas, make_runner, chain(("flaky", flaky), retry_policy=policy))

    told = [
        (
            event.type.rpartition(".")[2],
            event.data.get("node_attempt"),
            event.data.get("error", {}).get("message"),
        )
        for event in events
        if ".step." in event.type
    ]
    assert told == [
        ("started", None, None),
        ("failed", None, "try 1"),
        ("started", 2, None),
        ("failed", 2, "try 2"),
        ("started", 3, None),
        ("completed", 3, None),
    ]
    assert len({event.data["step_id"] for event in events if ".step." in event.type}) == 1
    assert events[-1].status == "completed"


async def test_a_failure_names_the_innermost_node_once(cas: Client, make_runner) -> None:
    async def broken(_state: State) -> State:
        raise ValueError("broken")

    nested = chain(("inner", broken)).compile()
    events = await events_of(cas, make_runner, chain(("outer", nested)))

    assert steps(events) == [
        ("outer", "started"),
        ("inner", "started"),
        ("inner", "failed"),
        ("outer", "failed"),
    ]
    assert events[-1].data["error"]["node"] == "inner"
    assert events[-1].data["error"]["message"] == "broken"


async def test_a_nodes_timeout_is_a_failed_step(cas: Client, make_runner) -> None:
    async def slow(_state: State) -> State:
        await asyncio.sleep(60)
        return {}

    events = await events_of(cas, make_runner, chain(("slow", slow), timeout=0.05))

    assert steps(events) == [("slow", "started"), ("slow", "failed")]
    assert events[-1].data["error"]["type"] == "NodeTimeoutError"


async def test_a_result_from_the_cache_is_no_step(cas: Client, make_runner) -> None:
    async def node(_state: State) -> State:
        return {"word": "x"}

    graph = chain(("cached", node), cache_policy=CachePolicy()).compile(cache=InMemoryCache())
    runner = make_runner()
    runner.register("workflow", graph)
    async with running(cas, runner):
        seen = []
        for _ in range(2):
            started = await cas.submit_task("workflow", {"tries": 1})
            events = [event async for event in started.events()]
            seen.append((steps(events), events[-1].data["output"]["word"]))

    assert seen == [([("cached", "started"), ("cached", "completed")], "x"), ([], "x")]


async def test_parallel_nodes_of_one_name_are_told_apart(cas: Client, make_runner) -> None:
    made = StateGraph(State)
    made.add_node("fan", lambda _state: {})
    made.add_node("leaf", lambda _state: None)
    made.add_edge(START, "fan")
    made.add_conditional_edges("fan", lambda _state: [Send("leaf", {}) for _ in range(5)], ["leaf"])
    events = await events_of(cas, make_runner, made)

    leaves = [event for event in events if event.data.get("node") == "leaf"]
    assert len({event.data["step_id"] for event in leaves}) == 5
    assert sorted(event.type for event in leaves) == ["cas.step.completed"] * 5 + ["cas.step.started"] * 5


async def test_the_tasks_of_a_functional_graph_are_steps(cas: Client, make_runner) -> None:
    @task
    async def part(number: int) -> int:
        say(f"part {number}")
        return number

    @entrypoint()
    async def workflow(_input: dict) -> dict:
        return {"sum": sum([await part(1), await part(2)])}

    events = await events_of(cas, make_runner, workflow)

    assert steps(events) == [
        ("workflow", "started"),
        ("part", "started"),
        ("part", "completed"),
        ("part", "started"),
        ("part", "completed"),
        ("workflow", "completed"),
    ]
    assert {(data["node"], data["agent"]) for data in of(events, "cas.log")} == {("part", "part")}
    assert events[-1].data["output"] == {"sum": 3}


async def test_what_a_node_writes_needs_no_json_form(cas: Client, make_runner) -> None:
    """The node went on long ago; a graph that streams objects of its own runs as it does elsewhere."""

    async def node(_state: State) -> State:
        get_stream_writer()({"message": AIMessage("hi"), "number": 1})
        return {}

    events = await events_of(cas, make_runner, chain(("node", node)))

    [output] = of(events, "cas.output")
    assert output["kind"] == "custom"
    assert output["value"]["number"] == 1
    assert "hi" in str(output["value"]["message"])
    assert events[-1].status == "completed"


async def test_callbacks_of_the_graph_are_kept(cas: Client, make_runner) -> None:
    class Own(BaseCallbackHandler):
        ended = 0

        def on_chain_end(self, *_: Any, **__: Any) -> None:
            self.ended += 1

    own = Own()
    graph = chain(("node", lambda _state: {})).compile().with_config(callbacks=[own])
    events = await events_of(cas, make_runner, graph)

    assert steps(events) == [("node", "started"), ("node", "completed")]
    assert own.ended >= 2


def test_a_name_that_is_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="two words"):
        current_task().named("two words")
