"""`cas retry`: what gave up is listed, and started once more by hand as a new task."""

from __future__ import annotations

import asyncio
import json

import pytest

from cas_events import Client, UnknownTaskError
from cas_events.errors import TaskNotEndedError
from tests.harness.patience import promised
from tests.harness.processes import Process, serving, settings
from tests.harness.wait import until_async


async def test_a_dead_letter_is_retried_by_hand(nats_server, deployment: str, tmp_path) -> None:
    environment = {"CAS_NATS_URL": nats_server.url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)}
    projector = Process(["-m", "projections"], **environment)
    try:
        async with (
            serving(nats_server.url, deployment, "failing", grace_s=1),
            Client(settings=settings(nats_server.url, deployment)) as client,
        ):
            failed = await client.execute_task("failing", {"failures": 2}, max_attempts=2, metadata={"n": 1})

            async def listed() -> bool:
                try:
                    rows = await client.sql(
                        "SELECT task_id, reason FROM cas_dead_letters", wait_for=failed.seq
                    )
                except Exception:
                    return False
                return rows == [{"task_id": failed.task_id, "reason": "attempts_exhausted"}]

            await until_async(listed, timeout_s=20, what="the dead letter")
            again = await client.retry_task(failed.task_id)
            result = await asyncio.wait_for(again.result(), promised(20.0))
            events = [event async for event in again.events()]
            command = await client._session.js.message(client._session.names.commands, again.seq)
    finally:
        projector.end()

    assert (failed.status, failed.reason) == ("failed", "attempts_exhausted")
    assert result.reason == "attempts_exhausted"
    assert again.task_id != failed.task_id
    assert {event.parent_id for event in events} == {failed.task_id}
    assert {event.correlation_id for event in events} == {failed.task_id}
    assert command
    assert json.loads(command.data) == {
        "input": {"failures": 2},
        "metadata": {"n": 1},
        "max_attempts": 2,
        "parent_id": failed.task_id,
        "correlation_id": failed.task_id,
    }


async def test_only_what_has_ended_is_retried(nats_server, deployment: str) -> None:
    async with (
        serving(nats_server.url, deployment, "sleeper", grace_s=1),
        Client(settings=settings(nats_server.url, deployment)) as client,
    ):
        running = await client.submit_task("sleeper", {})
        with pytest.raises(TaskNotEndedError):
            await client.retry_task(running.task_id)
        with pytest.raises(UnknownTaskError):
            await client.retry_task("never-heard-of")
        await running.cancel(wait=True)
        again = await client.retry_task(running.task_id)
        assert await again.cancel(wait=True) == "requested"
