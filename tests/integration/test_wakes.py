"""Tasks that were woken and then try again (promises 1 and 4).

Goal: the delivery of a wake carries a task on through every later attempt, as an execute's does: a retry after a
short delay, a hand-over and a crash of an attempt that a wake began. Found by the simulation: the wake that came back
was taken for one that had done its work, and the task stayed `retrying` for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cas_events import Client, TaskContext
from cas_events.domain.retry import RetryPolicy
from tests.harness import own_runner
from tests.harness.own_runner import lifecycle, names_of, running
from tests.harness.patience import promised
from tests.harness.processes import settings
from tests.harness.wait import until

SOON = RetryPolicy(base_s=0.05)


@pytest.fixture
async def cas(nats_server, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


def in_a_second() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1.5))


async def test_a_task_that_was_to_start_later_is_retried(cas: Client, nats_server, deployment: str) -> None:
    runner = own_runner.make_runner(nats_server.url, deployment)

    @runner.agent("flaky", retry=SOON)
    async def flaky(ctx: TaskContext, _input: dict) -> dict:
        if ctx.attempt < 3:
            raise ValueError(f"failure {ctx.attempt}")
        return {"attempt": ctx.attempt}

    async with running(cas, runner):
        result = await asyncio.wait_for(cas.execute_task("flaky", not_before=in_a_second()), promised(15.0))

    assert (result.status, result.output) == ("completed", {"attempt": 3})


async def test_a_long_delay_is_followed_by_a_short_one(cas: Client, nats_server, deployment: str) -> None:
    runner = own_runner.make_runner(nats_server.url, deployment)

    class BusyError(RuntimeError):
        retry_after_s = 5.2  # Over what a nak waits for: a schedule.

    @runner.agent("flaky", retry=SOON)
    async def flaky(ctx: TaskContext, _input: dict) -> dict:
        if ctx.attempt == 1:
            raise BusyError
        if ctx.attempt == 2:
            raise ValueError("again")
        return {"attempt": ctx.attempt}

    async with running(cas, runner):
        result = await asyncio.wait_for(cas.execute_task("flaky"), promised(20.0))

    assert (result.status, result.output) == ("completed", {"attempt": 3})


async def test_an_attempt_that_a_wake_began_is_handed_over(cas: Client, nats_server, deployment: str) -> None:
    attempts: list[int] = []

    def make() -> Any:
        runner = own_runner.make_runner(nats_server.url, deployment, grace_s=0.2)

        @runner.agent("slow")
        async def slow(ctx: TaskContext, _input: dict) -> dict:
            attempts.append(ctx.attempt)
            await asyncio.sleep(60 if ctx.attempt == 1 else 0)
            return {"attempt": ctx.attempt}

        return runner

    async with running(cas, make()):
        task = await cas.submit_task("slow", task_id="later", not_before=in_a_second())
        await until(lambda: bool(attempts), what="the first attempt")
    async with running(cas, make()):
        result = await asyncio.wait_for(task.result(), promised(15.0))

    assert (result.status, attempts) == ("completed", [1, 2])
    told = await lifecycle(cas, "slow", "later")
    assert names_of(told) == ["started", "retrying", "started", "completed"]
    assert [event.data["tries"] for event in told] == [1, 1, 1, 1]
