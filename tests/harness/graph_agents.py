"""Graphs of fault tests, in a process of their own: they say when their nodes run, and wait for files.

`python -m tests.harness.graph_agents`, with the environment of `tests.harness.agents`.
"""

from __future__ import annotations

import asyncio
import logging
import operator
import os
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import get_runtime
from langgraph.types import interrupt

from cas_events import current_task
from tests.harness.agents import make_runner, mark


class State(TypedDict, total=False):
    file: str
    folder: str
    said: Annotated[list[str], operator.add]


def node(name: str) -> Any:
    """A node that marks its run, and goes on when a file with its name is there."""

    async def run(state: State) -> State:
        mark({"file": state["file"]}, f"{name} {current_task().attempt} {os.getpid()} {time.time()}")
        is_told = False
        while not (Path(state["folder"]) / name).exists():
            await asyncio.sleep(0.01)
            if not is_told and get_runtime().drain_requested:
                is_told = True
                (Path(state["folder"]) / "drain").touch()
        return {"said": [name]}

    return run


async def ask(state: State) -> State:
    mark({"file": state["file"]}, f"ask {current_task().attempt} {os.getpid()}")
    return {"said": [interrupt("go on?")]}


def fork() -> StateGraph:
    """One node, two beside each other, one behind both."""
    builder = StateGraph(State)
    for name in ("begin", "quick", "slow", "join"):
        builder.add_node(name, node(name))
    builder.add_edge(START, "begin")
    builder.add_edge("begin", "quick")
    builder.add_edge("begin", "slow")
    builder.add_edge(["quick", "slow"], "join")
    builder.add_edge("join", END)
    return builder


def line() -> StateGraph:
    """Three nodes one after the other."""
    builder = StateGraph(State)
    before = START
    for name in ("one", "two", "three"):
        builder.add_node(name, node(name))
        builder.add_edge(before, name)
        before = name
    builder.add_edge(before, END)
    return builder


def approval() -> StateGraph:
    """A node that asks, between two that work."""
    builder = StateGraph(State)
    for name, function in (("one", node("one")), ("ask", ask), ("two", node("two"))):
        builder.add_node(name, function)
    for before, after in ((START, "one"), ("one", "ask"), ("ask", "two"), ("two", END)):
        builder.add_edge(before, after)
    return builder


def serve() -> None:
    """Serve the graphs."""
    runner = make_runner()
    runner.register("fork", fork())
    runner.register("line", line())
    runner.register("approval", approval())
    asyncio.run(runner.run())


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("LOG", "WARNING"))
    serve()
