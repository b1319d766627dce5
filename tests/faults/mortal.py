"""A runner process for tests of families, which dies between a parent's end and its children's if it is told to.

`python -m tests.faults.mortal` serves what ``SERVE`` names, as the environment says: CAS_NATS_URL, CAS_DEPLOYMENT,
LEASE_S; with ``DIES`` it kills itself where the first child of an ended parent would be ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cas_events import Client, Runner, TaskContext
from cas_events.runner import descent
from tests.harness.agents import mark
from tests.harness.processes import Process, settings, until_served


async def boss(ctx: TaskContext, input: dict) -> dict:
    """Has work done by a child, then waits until a file says go."""
    mark(input, f"boss {ctx.attempt}")
    output = await ctx.call("worker", {"file": input["file"], "until": input["until"]})
    mark(input, f"got {ctx.attempt} {output['pid']}")
    while not Path(input["go"]).exists():
        await asyncio.sleep(0.01)
    return {"attempt": ctx.attempt, "worker": output}


async def worker(ctx: TaskContext, input: dict) -> dict:
    """Works until a file says enough."""
    mark(input, f"worker {ctx.attempt}")
    while not Path(input["until"]).exists():
        await asyncio.sleep(0.01)
    return {"pid": os.getpid(), "attempt": ctx.attempt}


async def grand(ctx: TaskContext, input: dict) -> dict:
    """A level above `boss`."""
    return await ctx.call("boss", input)


async def patient(ctx: TaskContext, input: dict) -> dict:
    """Starts a child, and is to be tried again much later."""
    await ctx.spawn("worker", input)
    error = RuntimeError("later")
    error.retry_after_s = 3_600.0  # type: ignore[attr-defined]
    raise error


AGENTS = {"boss": boss, "worker": worker, "grand": grand, "patient": patient}


def main() -> None:
    logging.basicConfig(level="ERROR")
    if os.environ.get("DIES"):

        async def die(*_: Any) -> bool:
            os.kill(os.getpid(), signal.SIGKILL)
            return True

        descent._end = die
    runner = Runner(lease_s=float(os.environ["LEASE_S"]), grace_s=0.5)
    for name in os.environ["SERVE"].split(","):
        runner.agent(name)(AGENTS[name])
    asyncio.run(runner.run())


class Mortal(Process):
    """A runner that serves ``agents``."""

    def __init__(
        self, url: str, deployment: str, agents: str, *, dies: bool = False, lease_s: float = 1.0
    ) -> None:
        super().__init__(
            ["-m", "tests.faults.mortal"],
            CAS_NATS_URL=url,
            CAS_DEPLOYMENT=deployment,
            SERVE=agents,
            LEASE_S=str(lease_s),
            DIES="1" if dies else "",
        )


@asynccontextmanager
async def mortals(url: str, deployment: str, *served: str, dies: bool = False) -> AsyncIterator[list[Mortal]]:
    """Runners, one for each list of agents, that serve already."""
    processes = [Mortal(url, deployment, agents, dies=dies) for agents in served]
    try:
        async with Client(settings=settings(url, deployment)) as client:
            for agents in served:
                await until_served(client, agents.partition(",")[0])
        yield processes
    finally:
        for process in processes:
            process.end()


if __name__ == "__main__":
    main()
