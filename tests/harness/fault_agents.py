"""Agents for fault tests that say when things happen, beside those of `tests.harness.agents`, in a process of their own.

`python -m tests.harness.fault_agents`, with the environment of `tests.harness.agents`; PING_INTERVAL_S shortens the
silence after which a connection asks for a sign of life.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

from cas_events import TaskContext
from cas_events.jetstream.connection import Connection
from tests.harness.agents import make_runner, mark


async def talker(ctx: TaskContext, input: dict) -> dict:
    """Logs and reports progress steadily, until a file says enough if one is named.

    Says in a file when it began and when it was stopped, and has a last word then.
    """
    mark(input, f"began {ctx.attempt} {os.getpid()} {time.time()}")
    ticks = input.get("ticks", 100)
    try:
        for tick in range(ticks):
            ctx.log.info("said", n=tick)
            await ctx.progress(tick / ticks, f"attempt {ctx.attempt}")
            await ctx.output({"n": tick})
            await asyncio.sleep(input.get("every_s", 0.02))
            if "enough" in input and Path(input["enough"]).exists():
                break
    except asyncio.CancelledError:
        ctx.log.warning("stopped", attempt=ctx.attempt)
        mark(input, f"stopped {ctx.attempt} {os.getpid()} {time.time()}")
        raise
    return {"ticks": ticks, "attempt": ctx.attempt}


def serve() -> None:
    """The runner of a fault test, until it is told to stop."""
    runner = make_runner()
    runner.register("talker", talker)
    asyncio.run(runner.run())


if __name__ == "__main__":
    if "PING_INTERVAL_S" in os.environ:
        defaults = Connection.open.__func__.__kwdefaults__  # type: ignore[attr-defined]
        defaults["ping_interval_s"] = float(os.environ["PING_INTERVAL_S"])
    logging.basicConfig(level=os.environ.get("LOG", "WARNING"))
    serve()
