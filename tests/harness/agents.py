"""The agents that the tests run, in a process of their own.

`python -m tests.harness.agents` serves them all, as the environment says: CAS_NATS_URL, CAS_DEPLOYMENT; LEASE_S and
GRACE_S bound the waits of fault tests; AGENTS names the ones to serve.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from cas_events import NonRetryableError, Runner, TaskContext
from cas_events.domain.breaker import BreakerPolicy
from cas_events.domain.retry import RetryPolicy

FAST = RetryPolicy(base_s=0.05, cap_s=0.2)
BOUNDS = {"LEASE_S": "10", "GRACE_S": "5"}
BLOCKED_S = 120.0
MOODY_OPEN_S = 2.5  # A test has to look, and to send its tasks, while the breaker is open.


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
    while "until" in input and not Path(input["until"]).exists():
        await asyncio.sleep(0.01)
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
    """Blocks the whole event loop, for a time or until told to stop."""
    mark(input, f"began {ctx.attempt}")
    if "until" in input:
        block_until(input["until"])
    else:
        time.sleep(input["block_s"])
    return {"attempt": ctx.attempt}


def block_until(path: str) -> None:
    """Block this thread until a file is there; an endless one would outlive a test that failed."""
    until_s = time.monotonic() + BLOCKED_S
    while time.monotonic() < until_s and not Path(path).exists():
        time.sleep(0.01)


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
    "moody": (moody, {"max_attempts": 1, "breaker": BreakerPolicy(calls_min=4, open_s=MOODY_OPEN_S)}),
    "moody-again": (moody, {"max_attempts": 1, "breaker": BreakerPolicy(calls_min=4, open_s=MOODY_OPEN_S)}),
    "moody-fast": (
        moody,
        {
            "max_attempts": 1,
            "breaker": BreakerPolicy(calls_min=4, open_s=2 * MOODY_OPEN_S, while_open="fail"),
        },
    ),
    "exiting": (exiting, {"max_attempts": 1}),
    "unencodable": (unencodable, {}),
    "big": (big, {}),
    "crasher": (crasher, {}),
    "fragile": (crasher, {"on_crash": "fail"}),
    "keyed": (ticker, {"concurrency_per_key": 1, "key": "customer"}),
    "brief": (sleeper, {"timeout_s": 0.3}),
}
# Graphs are made when they are asked for: LangGraph takes an interpreter three times as long as all the rest.
GRAPHS = ("workflow", "slow-workflow", "quitting-workflow", "sync-graph")


def agent_of(name: str) -> tuple[Any, dict[str, Any]]:
    """An agent, or a graph, with the options of its registration."""
    if name in GRAPHS:
        found: tuple[Any, dict[str, Any]] = import_module("tests.harness.graphs").GRAPHS[name]
        return found
    return AGENTS[name]


def make_runner() -> Runner:
    """A runner of the agents that the environment names."""
    lease_s, grace_s = (float(os.environ.get(name, default)) for name, default in BOUNDS.items())
    runner = Runner(lease_s=lease_s, grace_s=grace_s)
    for name in os.environ.get("AGENTS", ",".join([*AGENTS, *GRAPHS])).split(","):
        agent, options = agent_of(name)
        runner.register(name, agent, **options)
    return runner


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("LOG", "WARNING"))
    asyncio.run(make_runner().run())
