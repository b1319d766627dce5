"""A runner process of the benchmark: agents that do nothing, tick, run until they are cancelled, or are a graph."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypedDict

from benchmarks.children import main, say_ready
from benchmarks.plan import Plan
from cas_events import Runner, TaskContext
from cas_events.settings import Settings


class State(TypedDict, total=False):
    """State of the one-node graph."""

    value: int


async def worker(plan: Plan) -> None:
    """Serve tasks for ever."""
    runner = Runner(settings=Settings(nats_url=plan.url, deployment=plan.deployment))
    _add_agents(runner, plan)
    if "graph" in plan.wanted:
        _add_graph(runner)
    await _serve(runner)


async def holder(plan: Plan) -> None:
    """Serve tasks that run until they are cancelled."""
    # Open pulls reserve places, so all that should run at once needs more than its own number.
    runner = Runner(
        settings=Settings(nats_url=plan.url, deployment=plan.deployment), places=2 * plan.sizes.running
    )

    @runner.agent("hold")
    async def hold(_ctx: TaskContext, _input: Any) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    await _serve(runner)


async def _serve(runner: Runner) -> None:
    serving = asyncio.create_task(runner.run(handle_signals=False))
    await asyncio.wait(
        {serving, asyncio.create_task(runner.ready.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    if not serving.done():
        say_ready()
    await serving


def _add_agents(runner: Runner, plan: Plan) -> None:
    @runner.agent("noop")
    async def noop(_ctx: TaskContext, _input: Any) -> dict[str, Any]:
        return {}

    @runner.agent("tick")
    async def tick(ctx: TaskContext, _input: Any) -> dict[str, Any]:
        for number in range(plan.sizes.ticks):
            await ctx.progress(number / plan.sizes.ticks, repr(time.time()))
            await asyncio.sleep(plan.sizes.tick_pause_s)
        return {}


def _add_graph(runner: Runner) -> None:
    from langgraph.graph import END, START, StateGraph  # noqa: PLC0415 - only who measures it pays for the import

    async def node(_state: State) -> State:
        return {"value": 1}

    graph: Any = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    runner.register("graph", graph)


if __name__ == "__main__":
    main({"worker": worker, "holder": holder})
