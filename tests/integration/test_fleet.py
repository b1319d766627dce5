"""What operators see of agents and runners (issue 6, item 1): beats, discovery, `cas agents`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from cas_events import Client, TaskContext
from cas_events.domain.agents import AgentFacts, fold_agent
from cas_events.fleet import AgentStatus
from cas_events.jetstream.connection import Connection
from cas_events.wire.beats import GONE_AFTER_S, Beat, decode_beat
from tests.harness.cas import Cas
from tests.harness.own_runner import noop, running
from tests.harness.processes import serving
from tests.harness.wait import until, until_async


async def status(cas: Client, agent_id: str) -> AgentStatus:
    [found] = [agent for agent in await cas.agents() if agent.agent_id == agent_id]
    return found


async def serve(cas: Client, agent_id: str, runners: int) -> bool:
    return (await status(cas, agent_id)).runners == runners


async def are_there(cas: Client, *pids: int) -> bool:
    """Whether these runners answer, and no others; one that has no processor for a moment comes late."""
    return sorted(runner.pid for runner in await cas.runners()) == sorted(pids)


async def test_a_killed_runner_is_gone_within_three_beats_and_leaves_no_word(
    cas: Client, nats_url: str, deployment: str
) -> None:
    async with (
        serving(nats_url, deployment, "echo,noop") as first,
        serving(nats_url, deployment, "echo") as second,
    ):
        await until_async(lambda: serve(cas, "echo", 2))
        await until_async(lambda: serve(cas, "noop", 1))
        await until_async(lambda: are_there(cas, first.pid, second.pid))
        first.kill()
        await until_async(lambda: serve(cas, "echo", 1), timeout_s=GONE_AFTER_S)
        alone = await status(cas, "noop")
        assert (alone.runners, alone.status) == (0, "registered")
        assert alone.last_seen is not None


async def test_what_runs_and_waits_is_counted_and_beats_come_unasked(
    cas: Client, make_runner, connection: Connection
) -> None:
    runner, release = make_runner(places=1), asyncio.Event()

    @runner.agent("holding", version="1.2")
    async def holding(_ctx: TaskContext, _input: dict) -> dict:
        await release.wait()
        return {}

    heard: list[Beat] = []
    await connection.subscribe(cas._session.names.beat("*"), lambda m: heard.append(decode_beat(m.data)))
    assert await cas.runners() == []
    async with running(cas, runner):
        tasks = [await cas.submit_task("holding") for _ in range(3)]

        async def one_runs_and_two_wait() -> bool:
            now = await status(cas, "holding")
            return (now.running, now.queued) == (1, 2)

        await until_async(one_runs_and_two_wait)
        await until(lambda: any(beat.agents == {"holding": 1} and not beat.free_places for beat in heard))
        now = await status(cas, "holding")
        assert (now.version, now.breaker, now.is_paused, now.lease_s) == ("1.2", "closed", False, 2.0)
        release.set()
        for task in tasks:
            await task.result()
    assert await cas.runners() == []


async def test_nats_tools_find_the_runner_with_its_agents(
    cas: Client, make_runner, connection: Connection, deployment: str
) -> None:
    runner = make_runner()
    runner.agent("one")(noop)
    runner.agent("two")(noop)
    async with running(cas, runner):
        info = json.loads((await connection.request("$SRV.INFO.cas-runner")).data)
        assert info["type"] == "io.nats.micro.v1.info_response"
        assert info["metadata"]["agents"] == "one,two"
        assert info["metadata"]["deployment"] == deployment
        ping = json.loads((await connection.request(f"$SRV.PING.cas-runner.{info['id']}")).data)
        assert ping["name"] == "cas-runner"
        beat = decode_beat((await connection.request(info["endpoints"][0]["subject"])).data)
        assert beat.runner == info["metadata"]["runner"]
        stats = json.loads((await connection.request(f"$SRV.STATS.cas-runner.{info['id']}")).data)
        assert stats["endpoints"][0]["num_requests"] == 1


async def test_the_command_lists_them(
    cas: Client, make_runner, nats_url: str, deployment: str, tmp_path: Path
) -> None:
    command = Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})
    assert (await asyncio.to_thread(command, "agents", "--json")).json == []
    runner = make_runner()
    runner.agent("quiet")(noop)
    async with running(cas, runner):
        [row] = (await asyncio.to_thread(command, "agents", "--json")).json
        assert (row["agent_id"], row["runners"], row["queued"], row["breaker"]) == ("quiet", 1, 0, "closed")
        people = await asyncio.to_thread(command, "agents")
        assert people.code == 0
        assert "quiet" in people.out


def test_an_agent_without_events_is_nothing_special() -> None:
    assert fold_agent("new", []) == AgentFacts(agent_id="new")
