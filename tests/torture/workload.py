"""What the torture's clients do, drawn from the seed: tasks of every kind, followers, cancels, repeated ids, bad input."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter

from cas_events import Client
from cas_events.errors import CasEventsError
from tests.harness.faults import Load, last_for

_log = logging.getLogger(__name__)

PAUSE_S = 0.15
HANGS_AFTER_S = 120.0
FOLLOWED, CANCELLED, REPEATED, BAD = 0.4, 0.15, 0.03, 0.03
MIX: list[tuple[int, str, dict[str, object]]] = [
    (20, "echo", {"x": 1}),
    (15, "ticker", {"ticks": 25}),
    (15, "talker", {"ticks": 60}),
    (10, "failing", {"failures": 2}),
    (10, "workflow", {"query": "q"}),
    (5, "workflow", {"query": "q", "fail": True}),
    (10, "sleeper", {"sleep_s": 1.5}),
    (3, "big", {"bytes": 400_000}),
    (2, "hopeless", {}),
    (2, "blocker", {"block_s": 3.0}),
    (2, "crasher", {"crashes": 1}),
]
BODIES = [b"", b"not json", b"[1]", b'{"input":7}', b'{"input":{},"timeout_s":"soon"}', b"\xff\xfe"]


class Workload:
    """The clients' work.

    Attributes:
        loads: what each client started.
        refused: errors that clients saw instead of an acknowledgement, by type.
        hangs: calls that neither ended nor raised in time.
        longest_pause_s: the longest time in which no client got an acknowledgement.
    """

    def __init__(self, clients: list[Client], seed: int) -> None:
        self.loads = [Load(client) for client in clients]
        self.refused: Counter[str] = Counter()
        self.hangs: list[str] = []
        self.longest_pause_s = 0.0
        self._seed = seed
        self._stop = asyncio.Event()
        self._acknowledged_s = time.monotonic()

    def stop(self) -> None:
        """Start nothing more."""
        self._stop.set()

    async def run(self) -> None:
        """All clients, until `stop`."""
        await asyncio.gather(*(self._work(number, load) for number, load in enumerate(self.loads)))

    async def _work(self, number: int, load: Load) -> None:
        draw = random.Random(f"{self._seed}/client {number}")
        turn = 0
        while not self._stop.is_set():
            turn += 1
            try:
                await asyncio.wait_for(self._one(load, draw, f"c{number}-{turn}"), HANGS_AFTER_S)
            except TimeoutError:
                self.hangs.append(f"client {number} in turn {turn}")
            except CasEventsError as error:
                self.refused[type(error).__name__] += 1
            await last_for(draw.uniform(0.2, 1.8) * PAUSE_S)

    async def _one(self, load: Load, draw: random.Random, name: str) -> None:
        [(_, agent, body)] = draw.choices(MIX, [weight for weight, _, _ in MIX])
        follow, whim, delay_s = draw.random() < FOLLOWED, draw.random(), draw.uniform(0.0, 1.0)
        if whim < BAD:
            await self._send_raw(load, f"{load.deployment}.cmd.execute.echo.{name}", draw.choice(BODIES))
            return
        # What can never succeed would be tried for minutes.
        max_attempts = draw.choice([3, 20]) if not body.get("fail") else draw.choice([1, 2])
        task = await load.start(agent, body, follow=follow, max_attempts=max_attempts)
        self._acknowledge()
        if whim < BAD + REPEATED:
            other = "echo" if agent != "echo" else "sleeper"
            await self._send_raw(load, f"{load.deployment}.cmd.execute.{other}.{task.task_id}", b"{}")
        elif whim < BAD + REPEATED + CANCELLED:
            await last_for(delay_s)
            await task.cancel("torture")

    async def _send_raw(self, load: Load, subject: str, body: bytes) -> None:
        ack = await load.client._session.js.append(subject, body)
        load.acknowledged.append((subject, ack.seq))

    def _acknowledge(self) -> None:
        now_s = time.monotonic()
        self.longest_pause_s = max(self.longest_pause_s, now_s - self._acknowledged_s)
        self._acknowledged_s = now_s
