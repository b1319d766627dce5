"""Graphs with a checkpointer, in one process and without our runner: JetStreamSaver against LangGraph's InMemorySaver.

The floor keeps nothing, so the ratio is what it costs that every step of a run is stored and fenced. Each run has a new
thread; durability is LangGraph's default.
"""

from __future__ import annotations

import asyncio
import operator
import time
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from benchmarks.children import main, say_result
from benchmarks.plan import Plan, Sizes
from benchmarks.stopwatch import BURST_TIMEOUT_S, latencies_ms
from cas_events import JetStreamSaver
from cas_events.settings import Settings

AT_ONCE = 50


class State(TypedDict):
    steps: int
    log: Annotated[list[str], operator.add]


async def step(state: State) -> dict[str, Any]:
    return {"steps": state["steps"] + 1, "log": [f"step {state['steps']}"]}


def build(nodes: int, saver: Any) -> Any:
    """A graph of nodes, one after another."""
    graph = StateGraph(State)
    names = [f"node{number}" for number in range(nodes)]
    for name in names:
        graph.add_node(name, step)
    for one, other in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(one, other)
    return graph.compile(checkpointer=saver)


async def measure(saver: Any, sizes: Sizes) -> dict[str, Any]:
    """Latencies with one node and with five, and runs a second with many at once."""
    graphs = {nodes: build(nodes, saver) for nodes in (1, 5)}

    async def run(nodes: int, thread_id: str) -> None:
        await graphs[nodes].ainvoke({"steps": 0, "log": []}, {"configurable": {"thread_id": thread_id}})

    found: dict[str, Any] = {
        f"checkpoint_{nodes}_ms": await latencies_ms(
            lambda thread_id, nodes=nodes: run(nodes, thread_id),  # type: ignore[misc]
            f"n{nodes}-",
            sizes.checkpoints,
        )
        for nodes in graphs
    }
    limit = asyncio.Semaphore(AT_ONCE)

    async def limited(number: int) -> None:
        async with limit:
            await run(1, f"burst-{number}")

    began_s = time.perf_counter()
    async with asyncio.timeout(BURST_TIMEOUT_S):
        await asyncio.gather(*map(limited, range(sizes.checkpoint_burst)))
    found["checkpoints_per_s"] = sizes.checkpoint_burst / (time.perf_counter() - began_s)
    return found


async def ours(plan: Plan) -> None:
    """On the server."""
    async with JetStreamSaver(settings=Settings(nats_url=plan.url, deployment=plan.deployment)) as saver:
        say_result(await measure(saver, plan.sizes))


async def floor(plan: Plan) -> None:
    """In memory."""
    say_result(await measure(InMemorySaver(), plan.sizes))


if __name__ == "__main__":
    main({"ours": ours, "floor": floor})
