"""The server killed and restarted under load (promises 1, 2 and 6): nothing acknowledged is lost, nothing ends twice.

Method: kill -9 and a start on the same port and store, while clients submit, follow and cancel and runners work.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cas_events import Client
from cas_events.errors import CasEventsError
from tests.harness.faults import Load, count, fleet, last_for, marks
from tests.harness.processes import settings
from tests.harness.server import NatsServer
from tests.harness.wait import until

AGENTS = "echo,ticker,failing,workflow,sleeper"


@pytest.fixture
async def cas(nats_server: NatsServer, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


async def keep_submitting(load: Load, stop: asyncio.Event, seed: int) -> int:
    """Start, follow and cancel tasks until told to stop; returns how often the server's absence was an error."""
    draw, errors = random.Random(seed), 0
    while not stop.is_set():
        agent, body = draw.choice(
            [
                ("echo", {"x": 1}),
                ("ticker", {"ticks": 20}),
                ("failing", {"failures": 1}),
                ("workflow", {"query": "q"}),
            ]
        )
        try:
            task = await load.start(agent, body, follow=draw.random() < 0.5)
            if draw.random() < 0.2:
                await task.cancel("a whim")
        except CasEventsError:
            errors += 1  # Not acknowledged: what became of it is for nobody to rely on.
        await last_for(0.02)
    return errors


async def test_restarts_under_load_lose_nothing(
    cas: Client, nats_server: NatsServer, deployment: str
) -> None:
    load, stop = Load(cas), asyncio.Event()
    async with fleet(nats_server.url, deployment, nats_server.url, nats_server.url, agents=AGENTS):
        submitting = [asyncio.create_task(keep_submitting(load, stop, seed)) for seed in range(3)]
        for turn in range(count(2, 20)):
            seen = len(load.acknowledged)
            await until(
                lambda seen=seen: len(load.acknowledged) > seen + 20, timeout_s=30, what=f"load {turn}"
            )
            await asyncio.to_thread(nats_server.restart)
        seen = len(load.acknowledged)
        await until(
            lambda: len(load.acknowledged) > seen + 20, timeout_s=30, what="load after the last restart"
        )
        stop.set()
        await asyncio.wait_for(asyncio.gather(*submitting), 30)
        assert await load.complaints(nats_server.url) == []

        # No pull loop is stuck and no connection is silently dead: every runner still works, at once.
        began_s = time.monotonic()
        results = await asyncio.wait_for(asyncio.gather(*(cas.execute_task("echo") for _ in range(50))), 10)
        assert {result.status for result in results} == {"completed"}
        assert time.monotonic() - began_s < 5


async def test_a_server_that_hangs_costs_no_task_its_owner(
    cas: Client, nats_server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    file, load = tmp_path / "marks", Load(cas)
    async with fleet(nats_server.url, deployment, nats_server.url, nats_server.url, agents=AGENTS):
        for _ in range(3):
            await load.start("talker", {"file": str(file), "ticks": 150}, follow=True)
        await until(lambda: len(marks(file, "began")) == 3, what="all run")
        for _ in range(count(1, 5)):
            await asyncio.to_thread(nats_server.freeze)
            await last_for(3.0)
            nats_server.thaw()
        assert await load.complaints(nats_server.url) == []
    assert len(marks(file, "began")) == 3
