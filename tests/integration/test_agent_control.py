"""Pause, resume and set an agent for the whole fleet (issue 6, item 1)."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from cas_events import Client, NonRetryableError, TaskContext, UnknownAgentError
from cas_events.domain.breaker import BreakerPolicy
from cas_events.errors import CasEventsError, InvalidLimitError, InvalidNameError
from cas_events.jetstream.api import ConsumerInfo
from tests.harness.cas import Cas
from tests.harness.own_runner import noop, running
from tests.harness.wait import until, until_async


async def consumer(cas: Client, agent_id: str) -> ConsumerInfo:
    return await cas._session.js.consumer_info(cas._session.names.commands, f"agent-{agent_id}")


async def agent_types(cas: Client, agent_id: str) -> list[str]:
    events = [event async for event in cas.replay(agent=agent_id, type="cas.agent.*")]
    return [event.type.rpartition(".")[2] for event in events]


async def test_a_pause_holds_new_tasks_through_a_restart_and_lets_running_ones_end(
    cas: Client, make_runner
) -> None:
    runner, began, release = make_runner(), asyncio.Event(), asyncio.Event()

    @runner.agent("slow")
    async def slow(_ctx: TaskContext, _input: dict) -> dict:
        began.set()
        await release.wait()
        return {"done": True}

    async with running(cas, runner):
        before = await cas.submit_task("slow")
        await began.wait()
        assert await cas.pause_agent("slow", reason="maintenance") == "paused"
        assert await cas.pause_agent("slow") == "already_paused"
        held = await cas.submit_task("slow")
        release.set()
        assert (await before.result()).is_success
    again = make_runner()
    again.agent("slow")(noop)
    async with running(cas, again):
        [now] = [agent for agent in await cas.agents() if agent.agent_id == "slow"]
        assert (now.is_paused, now.runners, now.queued) == (True, 1, 1)
        assert [event.type async for event in cas.replay(task_id=held.task_id)] == []
        assert await cas.resume_agent("slow") == "resumed"
        assert (await held.result()).is_success
        assert await cas.resume_agent("slow") == "not_paused"
    told = [type_ for type_ in await agent_types(cas, "slow") if type_ != "registered"]
    assert told == ["paused", "unpaused"]


async def test_an_open_breaker_neither_ends_an_operators_pause_nor_is_ended_by_its_resume(
    cas: Client, make_runner
) -> None:
    runner, began, release, healthy = make_runner(), [], asyncio.Event(), []

    @runner.agent("moody", breaker=BreakerPolicy(calls_min=2, open_s=0.5))
    async def moody(_ctx: TaskContext, _input: dict) -> dict:
        began.append(True)
        await release.wait()
        if not healthy:
            raise NonRetryableError("down")
        return {}

    async with running(cas, runner):
        for _ in range(2):
            await cas.submit_task("moody")
        await until(lambda: len(began) == 2)
        await cas.pause_agent("moody")
        release.set()  # The breaker opens, and pauses until its probe, while the operator's pause stands.
        held = await cas.submit_task("moody")

        async def is_half_open() -> (
            bool
        ):  # Its probe time has come, and with it the end of the breaker's own pause.
            return "breaker_half_opened" in await agent_types(cas, "moody")

        await until_async(is_half_open)
        assert (await consumer(cas, "moody")).paused
        assert [event.type async for event in cas.replay(task_id=held.task_id)] == []
        healthy.append(True)
        await cas.resume_agent("moody")
        assert (await held.result()).is_success


async def test_settings_change_the_consumer_and_keep_its_pause(cas: Client, make_runner) -> None:
    runner = make_runner()
    runner.agent("set")(noop)
    async with running(cas, runner):
        await cas.pause_agent("set")
        assert await cas.set_agent("set", concurrency=7, lease_s=5) == {"concurrency": 7, "lease_s": 5.0}
        assert await cas.set_agent("set", concurrency=8) == {"concurrency": 8, "lease_s": 5.0}
        now = await consumer(cas, "set")
        assert (now.config["max_ack_pending"], now.config["ack_wait"], now.paused) == (8, 5_000_000_000, True)
        await cas.resume_agent("set")
        assert (await cas.execute_task("set")).is_success


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"concurrency": -1}, "concurrency"),
        ({"concurrency": 0}, "concurrency"),
        ({"lease_s": -2.0}, "lease_s"),
        ({"lease_s": math.nan}, "lease_s"),
    ],
)
async def test_limits_out_of_range_are_refused_by_name_and_change_nothing(
    cas: Client, make_runner, options: dict[str, Any], field: str
) -> None:
    runner = make_runner()
    runner.agent("set")(noop)
    async with running(cas, runner):
        before = await consumer(cas, "set")
        with pytest.raises(InvalidLimitError, match=field):
            await cas.set_agent("set", **options)
        assert (await consumer(cas, "set")).config == before.config


async def test_an_unknown_agent_is_refused_and_nothing_is_stored(cas: Client) -> None:
    for work in (
        cas.pause_agent("nobody"),
        cas.resume_agent("nobody"),
        cas.set_agent("nobody", concurrency=1),
    ):
        with pytest.raises(UnknownAgentError, match="'nobody'"):
            await work
    with pytest.raises(InvalidNameError):
        await cas.pause_agent("no.body")
    assert await cas.last_seq() == 0
    assert issubclass(InvalidLimitError, CasEventsError)


async def test_the_commands(cas: Client, make_runner, nats_url: str, deployment: str, tmp_path: Path) -> None:
    command = Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})
    runner = make_runner()
    runner.agent("quiet")(noop)
    async with running(cas, runner):
        paused = await asyncio.to_thread(command, "agents", "pause", "quiet", "--reason", "later")
        assert (paused.code, paused.out) == (0, "paused\n")
        assert "paused" in (await asyncio.to_thread(command, "agents")).out
        resumed = await asyncio.to_thread(command, "agents", "resume", "quiet", "--json")
        assert resumed.json == {"agent_id": "quiet", "answer": "resumed"}
        changed = await asyncio.to_thread(command, "agents", "set", "quiet", "--concurrency", "3", "--json")
        assert changed.json == {"agent_id": "quiet", "concurrency": 3, "lease_s": 2.0}
        refused = await asyncio.to_thread(command, "agents", "set", "quiet", "--concurrency", "-1")
        assert refused.code != 0
        assert "concurrency" in refused.error
        nobody = await asyncio.to_thread(command, "agents", "pause", "nobody")
        assert (nobody.code, "'nobody'" in nobody.error) == (1, True)
