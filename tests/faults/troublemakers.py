"""Agents that cause trouble, and a runner process that serves them beside those of `tests.harness.agents`.

`python -m tests.faults.troublemakers` serves what ``SERVE`` names (all without it), as the environment says:
CAS_NATS_URL, CAS_DEPLOYMENT; ``RUNNER`` holds the runner's options as JSON, ``LIMITS`` its `TelemetryLimits`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cas_events import Client, Runner, TaskContext, TelemetryLimits
from tests.harness import agents as harness
from tests.harness.agents import mark
from tests.harness.processes import Process, settings, until_served


async def mirror(_ctx: TaskContext, input: dict) -> dict:
    """Gives back what it was given."""
    return {"got": input}


async def flood(ctx: TaskContext, input: dict) -> dict:
    """Reports progress as fast as it can; every tick is awaited, as documented."""
    ticks, began_s = input["ticks"], time.monotonic()
    for tick in range(1, ticks + 1):
        await ctx.progress(tick / ticks, f"tick {tick}")
    mark(input, f"took {time.monotonic() - began_s:.3f}")
    return {"ticks": ticks}


async def thread_flood(ctx: TaskContext, input: dict) -> dict:
    """The same from a thread, which nothing holds back."""
    ticks = input["ticks"]

    def tick_all() -> None:
        for tick in range(1, ticks + 1):
            ctx.progress(tick / ticks, f"tick {tick}")
            if input.get("logs"):
                ctx.log.info("line", n=tick)

    await asyncio.to_thread(tick_all)
    return {"ticks": ticks}


async def log_flood(ctx: TaskContext, input: dict) -> dict:
    """Logs without ever letting go of the loop for long."""
    for n in range(input["lines"]):
        ctx.log.info("line", n=n)
        if n % 1_000 == 0:
            await asyncio.sleep(0)
    return {"lines": input["lines"]}


async def outputs(ctx: TaskContext, input: dict) -> dict:
    """Publishes large partial outputs."""
    for n in range(input["count"]):
        await ctx.output({"n": n, "text": str(n) * input["bytes"]})
    return {"count": input["count"]}


async def undead(ctx: TaskContext, input: dict) -> dict:
    """Swallows cancellation and goes on emitting until told to stop, then returns as if nothing had been."""
    mark(input, "began")
    while not Path(input["until"]).exists():
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            mark(input, "swallowed")
        ctx.log.info("undead")
        await ctx.progress(0.9, "undead")
        await ctx.output({"undead": True})
    mark(input, "returned")
    return {"undead": True}


AGENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mirror": (mirror, {}),
    "flood": (flood, {}),
    "thread-flood": (thread_flood, {}),
    "log-flood": (log_flood, {}),
    "outputs": (outputs, {}),
    "undead": (undead, {}),
}


def main() -> None:
    logging.basicConfig(level=os.environ.get("LOG", "WARNING"))
    limits = TelemetryLimits(**json.loads(os.environ.get("LIMITS", "{}")))
    runner = Runner(limits=limits, **json.loads(os.environ.get("RUNNER", "{}")))
    for name in os.environ.get("SERVE", ",".join([*AGENTS, *harness.AGENTS, *harness.GRAPHS])).split(","):
        agent, options = AGENTS.get(name) or harness.agent_of(name)
        runner.register(name, agent, **options)
    asyncio.run(runner.run())


class Troublemaker(Process):
    """A runner process that serves ``agents``, with these options of `Runner`.

    Attributes:
        errors: lines that it wrote at ERROR and above, and their tracebacks.
    """

    def __init__(
        self,
        url: str,
        deployment: str,
        agents: str,
        *,
        limits: dict[str, float] | None = None,
        **options: float,
    ) -> None:
        self.agents = agents
        self.errors: list[str] = []
        super().__init__(
            ["-m", "tests.faults.troublemakers"],
            CAS_NATS_URL=url,
            CAS_DEPLOYMENT=deployment,
            SERVE=agents,
            RUNNER=json.dumps(options),
            LIMITS=json.dumps(limits or {}),
            LOG="ERROR",
            LOG_TO_TEST="1",
        )
        threading.Thread(target=self._read_errors, daemon=True).start()

    def _read_errors(self) -> None:
        with self.popen.stderr as lines:  # type: ignore[union-attr]
            for line in lines:
                self.errors.append(line.decode(errors="replace"))
                sys.stderr.write(self.errors[-1])


@asynccontextmanager
async def troubling(
    url: str, deployment: str, agents: str, *, limits: dict[str, float] | None = None, **options: float
) -> AsyncIterator[Troublemaker]:
    """A runner process that serves already."""
    process = Troublemaker(url, deployment, agents, limits=limits, **options)
    try:
        async with Client(settings=settings(url, deployment)) as client:
            await until_served(client, agents.partition(",")[0])
        yield process
    finally:
        process.end()


if __name__ == "__main__":
    main()
