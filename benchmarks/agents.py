"""The agents of the benchmark, served by the real command: ``cas worker benchmarks.agents:runner``."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from cas_events import Runner, TaskContext
from cas_events.runner.graphs.events import StreamEvents
from cas_events.runner.graphs.opening import open_graph, settled
from cas_events.runner.graphs.running import _Run
from cas_events.runner.graphs.threads import Thread, open_saver

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


async def hold_node(_state: State) -> State:
    """Run until cancelled."""
    await asyncio.Event().wait()
    return {}


holding: Any = StateGraph(State)
holding.add_node("node", hold_node)
holding.add_edge(START, "node")
holding.add_edge("node", END)
holder.register("hold-graph", holding)


five: Any = StateGraph(State)
for number, before in enumerate([START, *(f"node-{number}" for number in range(4))]):
    five.add_node(f"node-{number}", node)
    five.add_edge(before, f"node-{number}")
five.add_edge("node-4", END)
runner.register("five", five)
compiled = settled(five)


class Unseen(StreamEvents):
    """Takes no part of the stream."""

    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        self.modes, self.callbacks = (), []


@runner.agent("five-unseen")
async def five_unseen(ctx: TaskContext, input: Any) -> Any:
    """The same graph as the runner runs it, but that its stream gives no events: no steps, no outputs."""
    assert ctx.held is not None
    thread = Thread(ctx)
    saver = await open_saver(ctx.held, thread.thread_id)
    async with open_graph(compiled, checkpointer=saver) as opened:
        return await _Run(opened, thread, Unseen(ctx)).on_thread(ctx.held, saver, input)
