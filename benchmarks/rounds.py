"""One run: rounds in which the floor and ours take turns on one server, each with processes and streams of its own.

Odd rounds begin with ours, even ones with the floor, so that neither always gets the warmer machine. The streams of a
round are deleted after it; the server keeps no more than it would have held anyway.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.children import ChildFailedError, cas_worker, child, floor_worker, result_of
from benchmarks.plan import Plan, Sizes
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import stream_specs
from cas_events.server import EmbeddedServer

Round = dict[str, dict[str, Any]]
Say = Callable[[str], None]
Part = Callable[[Plan, str], Awaitable[dict[str, Any]]]

SIDES = ("floor", "ours")
REPLAY_TIMEOUT_S = 600.0
TASKS = {"noop", "throughput", "tick", "cancel", "graph"}


async def run(wanted: tuple[str, ...], sizes: Sizes, rounds: int, say: Say) -> list[Round]:
    """Run all rounds on a server of their own; per round, what each side measured."""
    with tempfile.TemporaryDirectory(prefix="cas-bench-") as folder, EmbeddedServer(Path(folder)) as server:
        plan = Plan(url=server.url, deployment="", wanted=wanted, sizes=sizes, server_pid=server.pid)
        return [await _round(plan, number, say) for number in range(rounds)]


async def _round(plan: Plan, number: int, say: Say) -> Round:
    measured: Round = {side: {} for side in SIDES}
    for side in SIDES[:: -1 if number % 2 else 1]:
        for name, part in _parts(plan.wanted).items():
            say(f"round {number + 1}: {side}, {name}")
            mine = msgspec.structs.replace(plan, deployment=f"{side}{number}{name}")
            measured[side] |= await part(mine, side)
            await _tidy(mine)
    return measured


def _parts(wanted: tuple[str, ...]) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    if TASKS & set(wanted):
        parts["tasks"] = _tasks
    if "cancel" in wanted:
        parts["cancel"] = _cancels
    if "publish" in wanted:
        parts["publish"] = _publish
    if "checkpoints" in wanted:
        parts["checkpoints"] = _checkpoints
    return parts


async def _tasks(plan: Plan, side: str) -> dict[str, Any]:
    ours = side == "ours"
    async with cas_worker(plan, "benchmarks.agents:runner") if ours else floor_worker(plan) as worker:
        module = "benchmarks.client" if ours else "benchmarks.floor"
        return await result_of(module, "tasks", msgspec.structs.replace(plan, worker_pid=worker.pid))


async def _cancels(plan: Plan, side: str) -> dict[str, Any]:
    if side == "floor":
        return {}  # There is nothing to cancel; the no-op task's latency stands in.
    async with cas_worker(plan, "benchmarks.agents:holder"):
        return await result_of("benchmarks.client", "cancels", plan)


async def _publish(plan: Plan, side: str) -> dict[str, Any]:
    return await result_of("benchmarks.publish", "stock" if side == "floor" else "ours", plan)


async def _checkpoints(plan: Plan, side: str) -> dict[str, Any]:
    return await result_of("benchmarks.checkpoints", side, plan)


async def _tidy(plan: Plan) -> None:
    """Delete what the round has stored."""
    floor = [f"{plan.deployment}{letter}" for letter in "CE"]
    async with await Connection.open(plan.url, name="benchmark") as connection:
        js = JetStream(connection)
        listed = json.loads(await js.call("STREAM.NAMES"))["streams"] or []
        for name in {*floor, *(spec.name for spec in stream_specs(plan.deployment))} & set(listed):
            await js.delete_stream(name)


async def replay(sizes: Sizes, say: Say) -> dict[str, Any]:
    """What the projector's own benchmark says; it starts a server of its own."""
    say("replay")
    events = ",".join(map(str, sizes.replays))
    return await _report_of("benchmarks.replay", "--events", events, "--live-s", str(sizes.lag_s))


async def asking(sizes: Sizes, say: Say) -> dict[str, Any]:
    """What questions to large tables take, without a server."""
    say("asking")
    events, tasks = str(sizes.asked_events), str(sizes.asked_tasks)
    return await _report_of("benchmarks.asking", "--events", events, "--tasks", tasks)


async def observing(sizes: Sizes, say: Say) -> dict[str, Any]:
    """What being looked at costs; on a server of its own."""
    say("observing")
    return await _report_of("benchmarks.observing", "--cycles", str(sizes.observed))


async def _report_of(*arguments: str) -> dict[str, Any]:
    """The JSON document that a benchmark in a process of its own prints."""
    async with child(*arguments) as process, asyncio.timeout(REPLAY_TIMEOUT_S):
        said, _ = await process.communicate()
    if process.returncode:
        raise ChildFailedError(f"{arguments[0]} ended with exit code {process.returncode}")
    report: dict[str, Any] = json.loads(said)
    return report
