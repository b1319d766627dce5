"""The agents of the benchmark, served by the real command: ``cas worker benchmarks.agents:runner``."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from cas_events import Runner, TaskContext

runner = Runner()
# Tasks that run until they are cancelled. Open pulls reserve places, so there are more than tasks should run at once.
holder = Runner(places=200)


@runner.agent("noop")
async def noop(_ctx: TaskContext, _input: Any) -> dict[str, Any]:
    """Nothing."""
    return {}


@runner.agent("tick")
async def tick(ctx: TaskContext, input: Any) -> dict[str, Any]:
    """Say the time, ``ticks`` times with ``pause_s`` after each."""
    for number in range(input["ticks"]):
        await ctx.progress(number / input["ticks"], repr(time.time()))
        await asyncio.sleep(input["pause_s"])
    return {}


@holder.agent("hold")
async def hold(_ctx: TaskContext, _input: Any) -> None:
    """Run until cancelled."""
    await asyncio.Event().wait()


class State(TypedDict, total=False):
    """State of the graph."""

    value: int


async def node(_state: State) -> State:
    """The graph's one node."""
    return {"value": 1}


graph: Any = StateGraph(State)
graph.add_node("node", node)
graph.add_edge(START, "node")
graph.add_edge("node", END)
runner.register("graph", graph)
