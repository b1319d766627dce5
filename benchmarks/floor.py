"""The floor: the least that a durable design can do with nats-py, as fast as we can make it.

Client: the command is published and acknowledged; the end is seen on a core subscription (which, unlike ours, also
shows what the log refused). Worker: one process, a work-queue stream, ``fetch(64)``, one asyncio task a message; two
events are published and acknowledged, then the command is acked. No lease, no lock, no retries, no envelope.
"""

from __future__ import annotations

import asyncio
import os
import time

import nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StreamConfig

from benchmarks.children import main, say_ready, say_result
from benchmarks.plan import Plan
from benchmarks.stopwatch import CpuMeter, bursts_per_s, latencies_ms

BATCH = 64
# The server answers a pull with both no_wait and expires, as fetch sends it, as soon as there is anything; a shorter
# timeout only costs empty pulls.
FETCH_TIMEOUT_S = 1.0


async def worker(plan: Plan) -> None:
    """Serve tasks for ever."""
    nc = await nats.connect(plan.url)
    js = nc.jetstream()
    await js.add_stream(
        StreamConfig(
            name=f"{plan.deployment}C",
            subjects=[f"{plan.deployment}.cmd.>"],
            retention=RetentionPolicy.WORK_QUEUE,
        )
    )
    await js.add_stream(StreamConfig(name=f"{plan.deployment}E", subjects=[f"{plan.deployment}.evt.>"]))
    subscription = await js.pull_subscribe(f"{plan.deployment}.cmd.>", durable="worker")
    say_ready()
    running: set[asyncio.Task[None]] = set()
    while True:
        try:
            messages = await subscription.fetch(BATCH, timeout=FETCH_TIMEOUT_S)
        except TimeoutError:
            continue
        for message in messages:
            task = asyncio.create_task(_work(js, plan, message))
            running.add(task)
            task.add_done_callback(running.discard)


async def _work(js: JetStreamContext, plan: Plan, message: Msg) -> None:
    kind, task_id = message.subject.split(".")[-2:]
    events = f"{plan.deployment}.evt.{task_id}"
    await js.publish(f"{events}.started", b"{}")
    if kind == "tick":
        for _ in range(plan.sizes.ticks):
            await js.publish(f"{events}.progress", b"%r" % time.time())
            await asyncio.sleep(plan.sizes.tick_pause_s)
    await js.publish(f"{events}.completed", message.data)
    await message.ack()


class Client:
    """Starts tasks and waits for their ends."""

    def __init__(self, js: JetStreamContext, deployment: str) -> None:
        self._js = js
        self._deployment = deployment
        self._ends: dict[str, asyncio.Future[None]] = {}
        self.ticks_ms: list[float] = []

    async def heard(self, message: Msg) -> None:
        """Take an event."""
        _, _, task_id, kind = message.subject.split(".")
        if kind == "completed":
            self._ends.pop(task_id).set_result(None)
        elif kind == "progress":
            self.ticks_ms.append((time.time() - float(message.data)) * 1000)

    async def run(self, task_id: str, kind: str = "noop") -> None:
        """Run one task to its end."""
        end = self._ends[task_id] = asyncio.get_running_loop().create_future()
        await self._js.publish(f"{self._deployment}.cmd.{kind}.{task_id}", b"{}")
        await end


async def tasks(plan: Plan) -> None:
    """Measure what is wanted."""
    nc = await nats.connect(plan.url)
    floor = Client(nc.jetstream(), plan.deployment)
    await nc.subscribe(f"{plan.deployment}.evt.>", cb=floor.heard)
    await nc.flush()
    result: dict[str, object] = {"noop_ms": await latencies_ms(floor.run, "s", plan.sizes.sequential)}
    if "throughput" in plan.wanted:
        cpu = CpuMeter(client=os.getpid(), worker=plan.worker_pid, server=plan.server_pid)
        result["tasks_per_s"] = await bursts_per_s(floor.run, plan.sizes)
        result["cpu_us"] = cpu.us_per(plan.sizes.burst * plan.sizes.bursts)
    if "tick" in plan.wanted:
        await floor.run("t", "tick")
        result["tick_ms"] = floor.ticks_ms
    say_result(result)


if __name__ == "__main__":
    main({"worker": worker, "tasks": tasks})
