"""Agents that run in a child process each, for `test_isolation`; a runner that serves them, when run as a module.

The child imports this module, or loads it as its main one, so it imports as little as an agent can.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cas_events import ChildTaskError, NonRetryableError, RetryPolicy, TaskContext, current_task
from cas_events.errors import StateConflictError

if TYPE_CHECKING:
    from cas_events import Runner

FAST = RetryPolicy(base_s=0.05, cap_s=0.2)


def mark(input: dict, text: str) -> None:
    with Path(input["file"]).open("a") as file:
        file.write(text + "\n")


class WrongInputError(ValueError):
    """Named as non-retryable by its agent."""


async def talking(ctx: TaskContext, input: dict) -> dict:
    """Says everything that an agent can say, some of it from a thread."""
    ctx.log.info("hello", pid=os.getpid(), task=current_task().task_id, odd=object)
    await ctx.progress(0.25, "a quarter")
    await ctx.output({"part": [1, None, "x"]})
    await asyncio.to_thread(lambda: current_task().log.warning("from a thread"))
    return {
        "pid": os.getpid(),
        "input": input,
        "task": ctx.task_id,
        "attempt": ctx.attempt,
        "metadata": dict(ctx.metadata),
        "cancelled": ctx.is_cancelled(),
        "none": None,
    }


async def spinning(ctx: TaskContext, input: dict) -> dict:
    """Never lets go of its event loop, and ignores SIGTERM if told so."""
    if input.get("ignores_sigterm"):
        signal.signal(signal.SIGTERM, lambda *_: mark(input, "swallowed SIGTERM"))
    mark(input, f"began {os.getpid()}")
    until_s = time.monotonic() + input.get("spin_s", 60)
    while time.monotonic() < until_s:
        if ctx.is_cancelled() and not input.get("saw"):
            input["saw"] = True
            mark(input, "saw its cancel")
    return {}


async def polite(ctx: TaskContext, input: dict) -> dict:
    """Ends when cancelled, with a last word."""
    mark(input, f"began {os.getpid()}")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        ctx.log.info("last word", cancelled=ctx.is_cancelled())
        mark(input, "cancelled")
        raise
    return {}


async def dying(ctx: TaskContext, input: dict) -> dict:
    """Ends its process on the first attempts, as told."""
    if ctx.attempt > input.get("times", 1):
        return {"attempt": ctx.attempt}
    ctx.log.info("dying")
    if "signal" in input:
        os.kill(os.getpid(), input["signal"])
    os._exit(input.get("code", 3))


async def raising(ctx: TaskContext, input: dict) -> Any:
    if ctx.attempt > input.get("times", 1_000):
        return {"attempt": ctx.attempt}
    if input["kind"] == "hint":
        error = RuntimeError("busy")
        error.retry_after_s = 0.7  # type: ignore[attr-defined]
        raise error
    if input["kind"] == "exit":
        sys.exit("enough")
    if input["kind"] == "calling":
        return await ctx.call("raising", {})
    if input["kind"] == "unencodable":
        return {"items": [1, {"when": object()}]}
    raise {"value": ValueError, "hopeless": NonRetryableError, "wrong": WrongInputError}[input["kind"]](
        f"{input['kind']} {ctx.attempt}"
    )


async def large(ctx: TaskContext, input: dict) -> dict:
    """Large in both directions; and a claim check on the way."""
    await ctx.output("y" * 300_000)
    return {"got": len(input["text"]), "text": "x" * input["bytes"]}


async def ticking(ctx: TaskContext, input: dict) -> dict:
    for tick in range(1, input["ticks"] + 1):
        await ctx.progress(tick / input["ticks"], f"tick {tick}")
    return {}


async def asking(ctx: TaskContext, input: dict) -> dict:
    """Does what only the runner can do: state, and children."""
    first = await ctx.state.update({"n": 1, "gone": None})
    try:
        await ctx.state.update({"n": 2}, expected_revision=7)
    except StateConflictError as conflict:
        refused = [conflict.expected_revision, conflict.revision]
    await ctx.state.reset("k")
    in_thread = await asyncio.to_thread(lambda: asyncio.run(ctx.state.update({"thread": True})))
    called, spawned = await asyncio.gather(
        ctx.call("inline", {"say": "called"}, metadata={"m": 1}), ctx.spawn("inline", {"say": "spawned"})
    )
    try:
        await ctx.call("inline", {"fail": "no way"})
    except ChildTaskError as error:
        failed = [error.result.status, (error.result.error or {})["message"]]
    waiting = await ctx.spawn("inline", {"wait": True}, key="waiting")
    return {
        "first": [first.state, first.revision, first.agent_id],
        "refused": refused,
        "in_thread": in_thread.state,
        "state": (await ctx.state.get()).state,
        "called": called,
        "spawned": [await spawned.output(), (await spawned.result()).status],
        "failed": failed,
        "cancelled": [await waiting.cancel("enough", wait=True), (await waiting.result()).status],
    }


async def calling(ctx: TaskContext, input: dict) -> Any:
    """Waits for a child; gives up on the first one if told so."""
    if "give_up_s" in input:
        try:
            async with asyncio.timeout(input["give_up_s"]):
                await ctx.call("inline", {"wait": True})
        except TimeoutError:
            return "gave up"
    return await ctx.call("inline", {"wait": True})


async def inline(_ctx: TaskContext, input: dict) -> dict:
    if "fail" in input:
        raise NonRetryableError(input["fail"])
    if input.get("wait"):
        await asyncio.Event().wait()
    return {"said": input.get("say")}


AGENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "talking": (talking, {}),
    "spinning": (spinning, {}),
    "brief": (spinning, {"timeout_s": 3.0}),
    "polite": (polite, {}),
    "dying": (dying, {"retry": FAST, "max_attempts": 2}),
    "raising": (raising, {"retry": FAST, "max_attempts": 2, "non_retryable": [WrongInputError]}),
    "large": (large, {}),
    "ticking": (ticking, {}),
    "asking": (asking, {}),
    "calling": (calling, {}),
}


def serve_all(runner: Runner) -> Runner:
    for name, (agent, options) in AGENTS.items():
        runner.register(name, agent, isolation="process", **options)
    runner.register("inline", inline)
    return runner


if __name__ == "__main__":
    from cas_events import Runner

    logging.basicConfig(level=os.environ.get("LOG", "WARNING"))
    asyncio.run(serve_all(Runner(lease_s=1, grace_s=1.5)).run())
