"""The agents that the tests run, in a process of their own.

`python -m tests.harness.agents` serves them all, as the environment says: CAS_NATS_URL, CAS_DEPLOYMENT; LEASE_S and
GRACE_S bound the waits of fault tests; AGENTS names the ones to serve.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

from cas_events import NonRetryableError, Runner, TaskContext, current_task
from cas_events.domain.breaker import BreakerPolicy
from cas_events.domain.retry import RetryPolicy

FAST = RetryPolicy(base_s=0.05, cap_s=0.2)


async def echo(ctx: TaskContext, input: dict) -> dict:
    ctx.log.info("echoing", keys=sorted(input))
    await ctx.progress(0.5, "halfway")
    await ctx.output({"half": True})
    return {"echo": input, "attempt": ctx.attempt, "metadata": dict(ctx.metadata)}


async def noop(_ctx: TaskContext, _input: dict) -> dict:
    return {}


async def ticker(ctx: TaskContext, input: dict) -> dict:
    for tick in range(input.get("ticks", 50)):
        ctx.log.info("tick", n=tick)
        await ctx.progress(tick / input.get("ticks", 50), f"tick {tick}")
        await asyncio.sleep(input.get("every_s", 0.02))
    return {"ticks": input.get("ticks", 50)}


async def sleeper(ctx: TaskContext, input: dict) -> dict:
    """Sleeps until told to stop, and says in a file that it began and how it ended."""
    mark(input, f"began {ctx.attempt} {os.getpid()}")
    try:
        await asyncio.sleep(input.get("sleep_s", 60))
    except asyncio.CancelledError:
        mark(input, f"cancelled {ctx.attempt} {ctx.is_cancelled()}")
        raise
    return {"slept": True, "attempt": ctx.attempt}


async def stubborn(ctx: TaskContext, input: dict) -> dict:
    """Swallows every cancellation until its file says enough."""
    mark(input, f"began {ctx.attempt}")
    until_s = time.monotonic() + input.get("sleep_s", 20)
    while time.monotonic() < until_s and not Path(input["enough"]).exists():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            mark(input, "swallowed")
    ctx.log.info("still here")
    mark(input, "returned")
    return {"ignored": True}


async def blocker(ctx: TaskContext, input: dict) -> dict:
    """Blocks the whole event loop."""
    mark(input, f"began {ctx.attempt}")
    time.sleep(input["block_s"])
    return {"attempt": ctx.attempt}


async def failing(ctx: TaskContext, input: dict) -> dict:
    if ctx.attempt <= input.get("failures", 10**9):
        raise ValueError(f"failure {ctx.attempt}")
    return {"attempt": ctx.attempt}


async def hopeless(_ctx: TaskContext, _input: dict) -> dict:
    raise NonRetryableError("no use")


async def hinting(ctx: TaskContext, input: dict) -> dict:
    """Fails once with a hint when to come back."""
    if ctx.attempt == 1:
        error = RuntimeError("busy")
        error.retry_after_s = input["after_s"]  # type: ignore[attr-defined]
        raise error
    return {"attempt": ctx.attempt}


async def moody(_ctx: TaskContext, input: dict) -> dict:
    """Fails while a file is there."""
    if Path(input["broken"]).exists():
        raise ValueError("broken")
    return {"works": True}


async def exiting(_ctx: TaskContext, _input: dict) -> dict:
    raise SystemExit(3)


async def unencodable(_ctx: TaskContext, input: dict) -> Any:
    return {
        "object": {"items": [1, {"when": object()}]},
        "nan": {"x": [float("nan")]},
        "surrogate": {"x": "\ud800"},
    }[input["kind"]]


async def big(_ctx: TaskContext, input: dict) -> dict:
    return {"text": "x" * input["bytes"], "got": len(input.get("text", ""))}


async def crasher(ctx: TaskContext, input: dict) -> dict:
    """Kills its own process on the first attempts."""
    mark(input, f"began {ctx.attempt}")
    if ctx.attempt <= input.get("crashes", 1):
        os.kill(os.getpid(), 9)
    return {"attempt": ctx.attempt}


def mark(input: dict, text: str) -> None:
    if "file" in input:
        with Path(input["file"]).open("a") as file:
            file.write(text + "\n")


class State(TypedDict, total=False):
    query: str
    notes: list[str]
    fail: bool


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


def graph(*nodes: Any) -> StateGraph:
    builder = StateGraph(State)
    names = [node.__name__ for node in nodes]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder


runner = Runner(lease_s=float(os.environ.get("LEASE_S", "10")), grace_s=float(os.environ.get("GRACE_S", "5")))
AGENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "echo": (echo, {}),
    "noop": (noop, {}),
    "ticker": (ticker, {}),
    "sleeper": (sleeper, {}),
    "stubborn": (stubborn, {}),
    "blocker": (blocker, {}),
    "failing": (failing, {"retry": FAST}),
    "slow-retry": (failing, {"retry": RetryPolicy(base_s=1e6, cap_s=1e6)}),
    "hopeless": (hopeless, {}),
    "hinting": (hinting, {}),
    "moody": (moody, {"max_attempts": 1, "breaker": BreakerPolicy(calls_min=4, open_s=1.5)}),
    "moody-again": (moody, {"max_attempts": 1, "breaker": BreakerPolicy(calls_min=4, open_s=1.5)}),
    "moody-fast": (
        moody,
        {"max_attempts": 1, "breaker": BreakerPolicy(calls_min=4, open_s=1.5, while_open="fail")},
    ),
    "exiting": (exiting, {"max_attempts": 1}),
    "unencodable": (unencodable, {}),
    "big": (big, {}),
    "crasher": (crasher, {}),
    "fragile": (crasher, {"on_crash": "fail"}),
    "brief": (sleeper, {"timeout_s": 0.3}),
    "workflow": (graph(analyst, writer).compile(), {"max_attempts": 1}),
    "slow-workflow": (graph(analyst, dawdler), {}),
    "quitting-workflow": (graph(analyst, quitter), {"max_attempts": 1}),
}
for name in os.environ.get("AGENTS", ",".join(AGENTS)).split(","):
    agent, options = AGENTS[name]
    runner.register(name, agent, **options)

if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("LOG", "WARNING"))
    asyncio.run(runner.run())
