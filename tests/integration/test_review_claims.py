"""Claims under a reviewer's eye: one id under two agents, scarce places, a keeper's fault, a blocked loop (promises 1, 2, 4, 5, 8).

The runner runs in the test's own loop where its agents are the test's; server, log and connections are real.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from cas_events import Client, TaskContext
from cas_events.domain.retry import RetryPolicy
from cas_events.runner.intake import Intake
from tests.harness.own_runner import LEASE_S, lifecycle, names_of, noop, running, send_raw
from tests.harness.patience import promised
from tests.harness.processes import serving
from tests.harness.wait import until, until_async


async def test_a_second_use_of_an_id_does_not_take_the_lease_of_the_first(cas: Client, make_runner) -> None:
    began: list[int] = []
    runner = make_runner()

    @runner.agent("slow")
    async def slow(ctx: TaskContext, _input: dict) -> dict:
        began.append(ctx.attempt)
        await asyncio.sleep(3 * LEASE_S)
        return {}

    runner.register("other", noop)
    async with running(cas, runner):
        await send_raw(cas, "slow", "twice")
        await until(lambda: bool(began), what="running")
        await send_raw(cas, "other", "twice")
        result = await asyncio.wait_for((await cas.task("twice")).result(), promised(20.0))

    assert result.status == "completed"
    assert began == [1]
    assert names_of(await lifecycle(cas, "slow", "twice")) == ["started", "completed"]
    assert names_of(await lifecycle(cas, "other", "twice"))[-1] == "rejected"


async def test_a_cancel_reaches_a_task_whose_id_was_used_twice(cas: Client, make_runner) -> None:
    runner = make_runner(lease_s=30)
    began = asyncio.Event()

    @runner.agent("slow")
    async def slow(_ctx: TaskContext, _input: dict) -> dict:
        began.set()
        await asyncio.sleep(60)
        return {}

    runner.register("other", noop)
    async with running(cas, runner):
        await send_raw(cas, "slow", "twice")
        await asyncio.wait_for(began.wait(), promised(10.0))
        await send_raw(cas, "other", "twice")
        await until_async(lambda: has_ended(cas, "other", "twice"), what="the duplicate is rejected")
        await asyncio.wait_for(cas.cancel_task("twice", wait=True), promised(5.0))

    assert names_of(await lifecycle(cas, "slow", "twice")) == ["started", "cancelled"]


async def has_ended(cas: Client, agent: str, task_id: str) -> bool:
    events = await lifecycle(cas, agent, task_id)
    return bool(events) and events[-1].type in {
        "cas.task.rejected",
        "cas.task.completed",
        "cas.task.failed",
        "cas.task.cancelled",
    }


async def test_a_blocked_loop_loses_no_claim_that_it_has_not_seen_stored(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    options = {"lease_s": LEASE_S, "grace_s": 1}
    file = tmp_path / "marks"
    async with serving(nats_server.url, deployment, "blocker,fragile", **options):
        body = json.dumps({"input": {"file": str(file), "block_s": 3 * LEASE_S}}).encode()
        others = [send_raw(cas, "fragile", f"f{n}", b'{"input":{"crashes":0}}') for n in range(95)]
        await asyncio.gather(send_raw(cas, "blocker", "b", body), *others)
        await until(file.exists, what="blocking")
        async with serving(nats_server.url, deployment, "blocker,fragile", **options):
            tasks = [await cas.task(f"f{n}") for n in range(95)]
            results = await asyncio.wait_for(
                asyncio.gather(*(task.result() for task in tasks)), promised(30.0)
            )

    assert {result.status for result in results} == {"completed"}


async def test_one_place_serves_every_agent(cas: Client, make_runner) -> None:
    runner = make_runner(places=1)
    for agent in ("first", "second", "third"):
        runner.register(agent, noop)
    async with running(cas, runner):
        for agent in ("third", "first", "second", "third"):
            result = await asyncio.wait_for(cas.execute_task(agent), promised(6.0))
            assert result.status == "completed"


async def test_one_place_is_woken_for_a_retry(cas: Client, make_runner) -> None:
    runner = make_runner(places=1)

    @runner.agent("flaky", retry=RetryPolicy(base_s=1e6, cap_s=1e6))
    async def flaky(ctx: TaskContext, _input: dict) -> dict:
        return {"attempt": ctx.attempt}

    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    async with running(cas, runner):
        result = await asyncio.wait_for(cas.execute_task("flaky", not_before=at), promised(10.0))

    assert result.status == "completed"


async def test_a_fault_of_the_keeper_is_survived(
    cas: Client, make_runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner()
    runner.register("noop", noop)
    async with running(cas, runner):
        assert (await asyncio.wait_for(cas.execute_task("noop"), promised(5.0))).is_success
        ask, faults = Intake.ask, [1]

        def fail_once(intake: Intake) -> None:
            if faults:
                faults.clear()
                raise RuntimeError("a fault of the keeper")
            ask(intake)

        monkeypatch.setattr(Intake, "ask", fail_once)
        await until(lambda: not faults, what="the fault")
        task = await cas.submit_task("noop", wait_for_runner_s=promised(10.0))
        result = await asyncio.wait_for(task.result(), promised(10.0))

    assert result.is_success
