"""SIGSTOP across processes: the whole machine sleeps, and wakes in any order (promises 1, 2, 3 and 6).

Method: the server and every runner are stopped for longer than a lease and continued one after the other, so that
whoever wakes first finds the others still asleep: a server whose leases have all run out, runners that nobody answers.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from cas_events import Client
from tests.harness.faults import Fleet, Load, last_for, marks
from tests.harness.patience import count
from tests.harness.pids import stopped_within
from tests.harness.server import NatsServer
from tests.harness.wait import until

LEASE_S = 2.0


async def test_a_machine_that_sleeps_loses_nothing(
    fleet: Fleet, fleet_client: Client, nats_server: NatsServer, tmp_path: Path, record_property
) -> None:
    file, load, draw = tmp_path / "marks", Load(fleet_client), random.Random(20261122)
    sleeps = count(1, 10)
    record_property("cases", f"{sleeps} sleeps")
    for turn in range(sleeps):
        for agent, body in (("talker", {"file": str(file), "ticks": 60}), ("workflow", {"query": "q"})) * 3:
            await load.start(agent, body, follow=True)
        await until(lambda turn=turn: len(marks(file, "began")) >= 3 * (turn + 1), what="all run")
        sleepers = [nats_server.pid, *(runner.pid for runner in fleet.runners)]
        for pid in sleepers:
            send(pid, signal.SIGSTOP)
            assert stopped_within(pid, 5.0)
        await last_for(draw.choice([0.7, 1.5, 3.0]) * LEASE_S)
        draw.shuffle(sleepers)
        for pid in sleepers:
            send(pid, signal.SIGCONT)
            await last_for(draw.choice([0.0, 0.2, 1.2 * LEASE_S]))
        assert await load.complaints(fleet.url) == []


def send(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)
