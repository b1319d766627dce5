"""A client process of the benchmark: measures the runtime as a user of `cas_events.Client` sees it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque

from benchmarks.children import START_TIMEOUT_S, main, say_result
from benchmarks.plan import Plan
from benchmarks.stopwatch import TASK_TIMEOUT_S, CpuMeter, bursts_per_s, latencies_ms
from cas_events import Client, Task
from cas_events.domain.events import PROGRESS, STARTED, STEP_STARTED
from cas_events.settings import Settings


async def tasks(plan: Plan) -> None:
    """Measure what ends by itself."""
    async with Client(settings=Settings(nats_url=plan.url, deployment=plan.deployment)) as cas:

        async def run(task_id: str) -> None:
            result = await cas.execute_task("noop", {}, wait_for_runner_s=START_TIMEOUT_S)
            assert result.status == "completed", (task_id, result)

        result: dict[str, object] = {"noop_ms": await latencies_ms(run, "s", plan.sizes.sequential)}
        if "throughput" in plan.wanted:
            cpu = CpuMeter(client=os.getpid(), worker=plan.worker_pid, server=plan.server_pid)
            result["tasks_per_s"] = await bursts_per_s(run, plan.sizes)
            result["cpu_us"] = cpu.us_per(plan.sizes.burst * plan.sizes.bursts)
        if "tick" in plan.wanted:
            result["tick_ms"] = await _ticks_ms(cas, plan)
        if "graph" in plan.wanted:
            result["graph_ms"] = await _graphs_ms(cas, plan)
            result["five_ms"], result["five_unseen_ms"] = await _streaming_ms(cas, plan)
    say_result(result)


async def cancels(plan: Plan) -> None:
    """Measure cancels."""
    async with Client(settings=Settings(nats_url=plan.url, deployment=plan.deployment)) as cas:
        measured = {
            "cancel_ms": await _cancels_ms(cas, plan, "hold", STARTED),
            "graph_cancel_ms": await _cancels_ms(cas, plan, "hold-graph", STEP_STARTED),
        }
    say_result(measured)


async def _ticks_ms(cas: Client, plan: Plan) -> list[float]:
    """Milliseconds from each tick's call in the agent to the event in a follower's hands."""
    wish = {"ticks": plan.sizes.ticks, "pause_s": plan.sizes.tick_pause_s}
    async with asyncio.timeout(TASK_TIMEOUT_S):
        return [
            (time.time() - float(event.data["message"])) * 1000
            async for event in cas.stream_task("tick", wish)
            if event.type == PROGRESS
        ]


async def _graphs_ms(cas: Client, plan: Plan) -> list[float]:
    async def run(task_id: str) -> None:
        result = await cas.execute_task("graph", {"value": 0})
        assert result.output == {"value": 1}, (task_id, result)

    return await latencies_ms(run, "g", plan.sizes.graphs)


async def _streaming_ms(cas: Client, plan: Plan) -> tuple[list[float], list[float]]:
    """Latencies of a graph whose stream becomes events, and of the same one without its stream, in turns."""
    seen: list[float] = []
    unseen: list[float] = []
    for _ in range(plan.sizes.graphs):
        for agent, measured in (("five", seen), ("five-unseen", unseen)):
            began_s = time.perf_counter()
            result = await cas.execute_task(agent, {"value": 0})
            measured.append((time.perf_counter() - began_s) * 1000)
            assert result.output == {"value": 1}, result
    return seen, unseen


async def _cancels_ms(cas: Client, plan: Plan, agent: str, running_from: str) -> list[float]:
    """Milliseconds from the call of `cancel` to the terminal event, with the same number of tasks always running."""
    running = deque(
        await asyncio.gather(*(_start(cas, agent, running_from) for _ in range(plan.sizes.running)))
    )
    measured = []
    for _ in range(plan.sizes.cancels):
        task = running.popleft()
        began_s = time.perf_counter()
        async with asyncio.timeout(TASK_TIMEOUT_S):
            assert await task.cancel("benchmark", wait=True) == "requested"
        measured.append((time.perf_counter() - began_s) * 1000)
        running.append(await _start(cas, agent, running_from))
    await asyncio.gather(*(task.cancel(wait=True) for task in running))
    return measured


async def _start(cas: Client, agent: str, running_from: str) -> Task:
    """A task whose agent runs, which an event of a type says."""
    task = await cas.submit_task(agent, {}, wait_for_runner_s=START_TIMEOUT_S)
    async with asyncio.timeout(START_TIMEOUT_S):
        async for event in task.events():
            if event.type == running_from:
                break
    return task


if __name__ == "__main__":
    main({"tasks": tasks, "cancels": cancels})
