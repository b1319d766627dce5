"""A runner in the test's own loop, for tests whose agents are their own; server, log and connections are real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cas_events import Client, Runner, TaskContext
from cas_events.domain.events import LIFECYCLE_TYPES, Event
from tests.harness.patience import promised
from tests.harness.processes import settings, until_served

LEASE_S = 2.0


def make_runner(url: str, deployment: str, **options: Any) -> Runner:
    options = {"lease_s": LEASE_S, "grace_s": 1, **options}
    return Runner(settings=settings(url, deployment), **options)


@asynccontextmanager
async def running(cas: Client, runner: Runner) -> AsyncIterator[None]:
    """A runner that serves already, and is stopped at the end."""
    serve = asyncio.create_task(runner.run(handle_signals=False))
    try:
        for agent_id in runner.agent_ids:
            await until_served(cas, agent_id)
        yield
    finally:
        runner.stop()
        await asyncio.wait_for(serve, promised(20.0))


async def noop(_ctx: TaskContext, _input: dict) -> dict:
    return {}


async def send_raw(cas: Client, agent: str, task_id: str, body: bytes = b"{}") -> None:
    await cas._session.js.append(cas._session.names.execute(agent, task_id), body)


async def lifecycle(cas: Client, agent: str, task_id: str) -> list[Event]:
    events = [event async for event in cas.replay(task_id=task_id, agent=agent)]
    return [event for event in events if event.type in LIFECYCLE_TYPES]


def names_of(events: list[Event]) -> list[str]:
    return [event.type.rpartition(".")[2] for event in events]
