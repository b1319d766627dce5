"""The server killed and restarted under load (promises 1, 2 and 6): nothing acknowledged is lost, nothing ends twice.

Method: kill -9 and a start on the same port and store, while clients submit, follow and cancel and runners work.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from cas_events import Client
from cas_events.errors import CasEventsError
from tests.harness.faults import Fleet, Load, last_for, marks
from tests.harness.patience import count, promised
from tests.harness.server import NatsServer
from tests.harness.wait import until

LEASE_S = 2.0


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
    fleet: Fleet, fleet_client: Client, nats_server: NatsServer, record_property
) -> None:
    load, stop = Load(fleet_client), asyncio.Event()
    submitting = [asyncio.create_task(keep_submitting(load, stop, seed)) for seed in range(3)]
    restarts = count(2, 20)
    record_property("cases", f"{restarts} restarts")
    for turn in range(restarts):
        await until_more(load, f"before restart {turn}")
        await asyncio.to_thread(nats_server.restart)
    await until_more(load, "after the last restart")
    stop.set()
    await asyncio.wait_for(asyncio.gather(*submitting), promised(30.0))
    assert await load.complaints(fleet.url) == []

    # No pull loop is stuck and no connection is silently dead: the runners still work, at once.
    echoes = [fleet_client.execute_task("echo", wait_for_runner_s=promised(2.0)) for _ in range(50)]
    results = await asyncio.wait_for(asyncio.gather(*echoes), promised(5.0))
    assert {result.status for result in results} == {"completed"}


async def until_more(load: Load, when: str) -> None:
    seen = len(load.acknowledged)
    await until(lambda: len(load.acknowledged) > seen + 20, timeout_s=30, what=f"load {when}")


async def test_a_server_that_hangs_costs_no_task_its_owner(
    fleet: Fleet, fleet_client: Client, nats_server: NatsServer, tmp_path: Path, record_property
) -> None:
    file, load = tmp_path / "marks", Load(fleet_client)
    for _ in range(3):
        await load.start("talker", {"file": str(file), "ticks": 150}, follow=True)
    await until(lambda: len(marks(file, "began")) == 3, what="all run")
    hangs = count(1, 5)
    record_property("cases", f"{hangs} hangs")
    for _ in range(hangs):
        await asyncio.to_thread(nats_server.freeze)
        await last_for(1.5 * LEASE_S)
        nats_server.thaw()
    assert await load.complaints(fleet.url) == []
    assert len(marks(file, "began")) == 3
