"""A process that forks one child per publish: child n kills itself with -9 when it is about to send message n.

What comes before message n has reached the server; a fork costs no start of Python. Run as a module with the server's
URL and the deployment; prints how many publishes the whole scenario has.
"""

from __future__ import annotations

import asyncio
import operator
import os
import signal
import sys
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

from cas_events import JetStreamSaver
from cas_events.jetstream.connection import Connection
from tests.harness.processes import settings

PUBLISHES_MAX = 60
BIG = bytes(number * number % 251 for number in range(65_521)) * 10  # Two pieces.
TURNS = 2


class State(TypedDict):
    log: Annotated[list[str], operator.add]
    big: bytes


async def left(state: State) -> Any:
    return {"log": ["left" + "x" * 300]}


async def right(state: State) -> Any:
    return {"log": ["right"], "big": BIG + str(len(state["log"])).encode()}


def build(saver: Any) -> Any:
    graph = StateGraph(State)
    for name, node in (("left", left), ("right", right)):
        graph.add_node(name, node)
        graph.add_edge(START, name)
        graph.add_edge(name, END)
    return graph.compile(checkpointer=saver)


def thread(number: int) -> Any:
    return {"configurable": {"thread_id": f"death-{number}"}}


async def turns(url: str, deployment: str, number: int) -> None:
    """The scenario; dies at publish ``number``."""
    publish = Connection.publish
    count = 0

    def publish_or_die(self: Connection, *args: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            self._link._flush()  # type: ignore[union-attr]
            os.kill(os.getpid(), signal.SIGKILL)
        publish(self, *args, **options)

    async with JetStreamSaver(settings=settings(url, deployment)) as saver:
        Connection.publish = publish_or_die  # type: ignore[method-assign]
        for turn in range(TURNS):
            await build(saver).ainvoke({"log": [f"turn {turn}"]}, thread(number))


def main(url: str, deployment: str) -> None:
    for number in range(1, PUBLISHES_MAX):
        child = os.fork()
        if child == 0:
            asyncio.run(turns(url, deployment, number))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            sys.stdout.write(f"{number - 1}\n")
            return
        if not os.WIFSIGNALED(status):
            sys.exit(f"child {number} failed")
    sys.exit(f"more than {PUBLISHES_MAX} publishes")


if __name__ == "__main__":
    main(*sys.argv[1:])
