"""Acknowledged events per second of one process: our pipelined publisher against a window on stock nats-py.

Both encode each event and publish it to the same stream, `CAS_EVENTS` as the runtime makes it, with the same number in
flight. The stock window is the best that we know with the library's public methods: an inbox of its own, a token in
each reply subject, a synchronous count in the subscription's callback, no future per message.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import nats
from nats.aio.msg import Msg

from benchmarks.children import main, say_result
from benchmarks.plan import Plan
from benchmarks.stopwatch import BURST_TIMEOUT_S, CpuMeter
from cas_events.domain.events import PROGRESS
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.publisher import PipelinedPublisher, PublishOutcome
from cas_events.jetstream.topology import ensure_streams
from cas_events.wire.envelope import EventEncoder
from cas_events.wire.subjects import Names

DATA = b'{"progress":0.5,"message":"one of many"}'


def _events(side: str) -> Callable[[int], bytes]:
    """Encodes the n-th event of a task."""
    encoder = EventEncoder(
        source="cas/runner/benchmark",
        task_id=f"publish-{side}",
        agent_id="noop",
        attempt=1,
        correlation_id="publish",
    )
    return lambda index: encoder.encode(PROGRESS, index, time.time_ns(), DATA)


async def ours(plan: Plan) -> None:
    """With our connection and publisher."""
    names = Names(plan.deployment)
    async with await Connection.open(plan.url, name="benchmark") as connection:
        await ensure_streams(JetStream(connection), plan.deployment, replicas=1)
        publisher = PipelinedPublisher(connection, window=plan.sizes.window)
        subject, encode, stored = names.event("progress", "noop", "publish-ours"), _events("ours"), 0

        def done(outcome: PublishOutcome) -> None:
            nonlocal stored
            stored += outcome.is_stored

        cpu = CpuMeter(client=os.getpid(), server=plan.server_pid)
        began_s = time.perf_counter()
        async with asyncio.timeout(BURST_TIMEOUT_S):
            for index in range(plan.sizes.events):
                if not publisher.has_room:
                    await publisher.room()
                publisher.send(subject, encode(index), done)
            await publisher.drain(BURST_TIMEOUT_S)
        result = _result(plan, began_s, cpu)
        assert stored == plan.sizes.events, stored
        await publisher.close()
    say_result(result)


async def stock(plan: Plan) -> None:
    """With a window on stock nats-py."""
    names = Names(plan.deployment)
    async with await Connection.open(plan.url, name="benchmark") as connection:
        await ensure_streams(JetStream(connection), plan.deployment, replicas=1)
    nc = await nats.connect(plan.url)
    subject, encode, inbox = (
        names.event("progress", "noop", "publish-stock"),
        _events("stock"),
        nc.new_inbox(),
    )
    acked, room, all_acked = 0, asyncio.Event(), asyncio.Event()

    async def heard(message: Msg) -> None:
        nonlocal acked
        assert b'"seq"' in message.data, message.data
        acked += 1
        room.set()
        if acked == plan.sizes.events:
            all_acked.set()

    await nc.subscribe(f"{inbox}.*", cb=heard)
    await nc.flush()
    cpu = CpuMeter(client=os.getpid(), server=plan.server_pid)
    began_s = time.perf_counter()
    async with asyncio.timeout(BURST_TIMEOUT_S):
        for index in range(plan.sizes.events):
            while index - acked >= plan.sizes.window:
                room.clear()
                await room.wait()
            await nc.publish(subject, encode(index), reply=f"{inbox}.{index}")
        await all_acked.wait()
    result = _result(plan, began_s, cpu)
    await nc.close()
    say_result(result)


def _result(plan: Plan, began_s: float, cpu: CpuMeter) -> dict[str, Any]:
    elapsed_s = time.perf_counter() - began_s
    return {"events_per_s": plan.sizes.events / elapsed_s, "event_cpu_us": cpu.us_per(plan.sizes.events)}


if __name__ == "__main__":
    main({"ours": ours, "stock": stock})
