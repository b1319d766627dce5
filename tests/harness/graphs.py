"""The graphs that the tests run, beside the functions of `tests.harness.agents`."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

from cas_events import current_task
from tests.harness.agents import block_until, mark


class State(TypedDict, total=False):
    query: str
    notes: list[str]
    fail: bool
    file: str
    until: str


async def analyst(state: State) -> State:
    ctx = current_task()
    ctx.log.info("analysing", query=state.get("query", ""))
    await ctx.progress(0.5, "half analysed")
    get_stream_writer()({"custom": "from the node"})
    if state.get("fail"):
        raise ValueError("the analyst failed")
    return {"notes": ["analysed"]}


def writer(state: State) -> State:
    """A sync node, which runs in a thread."""
    ctx = current_task()
    ctx.progress(0.9, "nearly written")
    ctx.log.warning("written", notes=len(state.get("notes", [])))
    return {"notes": [*state.get("notes", []), "written"]}


async def quitter(_state: State) -> State:
    raise SystemExit(4)


async def dawdler(_state: State) -> State:
    await asyncio.sleep(60)
    return {}


def sleepy_node(state: State) -> State:
    """A sync node that blocks its thread until told to stop."""
    current_task().log.info("blocking a thread", thread=threading.current_thread().name)
    mark(dict(state), "began")
    block_until(state["until"])
    return {"notes": [threading.current_thread().name]}


def graph(*nodes: Any) -> StateGraph:
    builder = StateGraph(State)
    names = [node.__name__ for node in nodes]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder


GRAPHS: dict[str, tuple[Any, dict[str, Any]]] = {
    "workflow": (graph(analyst, writer).compile(), {"max_attempts": 1}),
    "slow-workflow": (graph(analyst, dawdler), {}),
    "quitting-workflow": (graph(analyst, quitter), {"max_attempts": 1}),
    "sync-graph": (graph(sleepy_node), {"max_attempts": 1}),
}
