"""What can be registered, served for real: graphs in every form, functions sync and async (issue 4, item 1)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from cas_events import Client, TaskContext, current_task
from tests.harness.own_runner import running


class State(TypedDict, total=False):
    word: str
    said: str


def builder(said: str = "hello") -> StateGraph:
    def say(state: State) -> State:
        return {"said": f"{said} {state['word']}"}

    made = StateGraph(State)
    made.add_node("say", say)
    made.add_edge(START, "say")
    made.add_edge("say", END)
    return made


@contextlib.asynccontextmanager
async def for_the_thread(config: RunnableConfig):
    yield builder(config["configurable"]["thread_id"])


@task
async def shout(word: str) -> str:
    return word.upper()


@entrypoint()
async def functional(input: dict) -> dict:
    return {"said": await shout(input["word"])}


async def test_graphs_in_every_form_are_served(cas: Client, make_runner) -> None:
    compiled = builder().compile()
    before = dict(vars(compiled))
    runner = make_runner()
    runner.register("compiled", compiled)
    runner.register("builder", builder())
    runner.register("factory", for_the_thread)
    runner.register("functional", functional)
    async with running(cas, runner):
        said = {
            name: (await cas.execute_task(name, {"word": "you"}, metadata={"thread_id": "t-1"})).output[
                "said"
            ]
            for name in runner.agent_ids
        }

    assert said == {
        "compiled": "hello you",
        "builder": "hello you",
        "factory": "t-1 you",
        "functional": "YOU",
    }
    assert vars(compiled) == before


async def test_a_sync_function_runs_in_a_thread(cas: Client, make_runner) -> None:
    runner = make_runner()

    @runner.agent("sync")
    def sync(ctx: TaskContext, input: dict) -> dict:
        ctx.progress(0.5, "half")
        ctx.log.info("here", same=current_task() is ctx)
        return {"main": threading.current_thread() is threading.main_thread(), **input}

    async with running(cas, runner):
        task = await cas.submit_task("sync", {"a": 1})
        events = [event async for event in task.events()]

    assert [event.type for event in events] == [
        "cas.task.started",
        "cas.progress",
        "cas.log",
        "cas.task.completed",
    ]
    assert events[2].data["metadata"] == {"same": True}
    assert events[-1].data["output"] == {"main": False, "a": 1}


async def test_a_cancelled_thread_is_left_behind_until_it_looks(cas: Client, make_runner) -> None:
    began, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    runner = make_runner()

    @runner.agent("sync")
    def sync(ctx: TaskContext, _input: dict) -> None:
        loop.call_soon_threadsafe(began.set)
        while not ctx.is_cancelled():
            pass
        ended.set()

    async with running(cas, runner):
        task = await cas.submit_task("sync")
        await began.wait()
        await task.cancel("enough")
        assert (await task.result()).status == "cancelled"
        assert await asyncio.to_thread(ended.wait, 10)


async def test_a_graph_that_goes_in_circles_fails_once(cas: Client, make_runner) -> None:
    """LangGraph's own limit is 10,007 supersteps; a second try would go in circles again."""
    made = StateGraph(State)
    made.add_node("again", lambda _state: {"said": "again"})
    made.add_edge(START, "again")
    made.add_edge("again", "again")
    graph: Any = made.compile()
    runner = make_runner()
    runner.register("default", graph)
    runner.register("option", graph, recursion_limit=3)
    runner.register("own", graph.with_config(recursion_limit=5))
    async with running(cas, runner):
        results = [await cas.execute_task(name, {}) for name in runner.agent_ids]

    for result, limit in zip(results, [100, 3, 5], strict=True):
        assert (result.status, result.reason, result.attempt) == ("failed", "error", 1)
        assert result.error["type"] == "GraphRecursionError"
        assert f"Recursion limit of {limit} reached" in result.error["message"]


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (3, "neither an agent function"),
        (lambda a, b, c: None, "takes 3 arguments"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(make_runner, agent: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make_runner().register("wrong", agent)


def test_a_function_without_a_context_is_refused(make_runner) -> None:
    with pytest.raises(
        TypeError, match=r"agent 'wrong': write it as a function of two arguments, \(ctx, input\)"
    ):

        @make_runner().agent("wrong")
        async def wrong(_input): ...


def test_a_recursion_limit_of_nothing_is_refused(make_runner) -> None:
    with pytest.raises(ValueError, match="recursion_limit of agent 'circle' is 0"):
        make_runner().register("circle", builder(), recursion_limit=0)
