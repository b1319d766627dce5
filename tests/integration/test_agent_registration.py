"""Agents come and go at run time, on a live runner and by a client's word (issue 6, item 1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cas_events import (
    AgentUnavailableError,
    Client,
    NonRetryableError,
    Runner,
    TaskContext,
    UnknownAgentError,
)
from cas_events.domain.agents import NewTasks
from cas_events.domain.breaker import BreakerPolicy
from cas_events.errors import CasEventsError, InvalidLimitError, InvalidNameError
from cas_events.fleet import AgentStatus
from cas_events.jetstream.connection import Connection
from cas_events.runner import serving as serving_module
from tests.harness.cas import Cas
from tests.harness.own_runner import lifecycle, names_of, noop, running, send_raw
from tests.harness.patience import promised
from tests.harness.processes import serving
from tests.harness.wait import until_async

MakeRunner = Callable[..., Runner]


class Held:
    """An agent whose tasks run until they are let go."""

    def __init__(self) -> None:
        self.began = 0
        self.has_begun = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, _ctx: TaskContext, _input: dict) -> dict:
        self.began += 1
        self.has_begun.set()
        await self.release.wait()
        return {"by": id(self)}


async def status(cas: Client, agent_id: str) -> AgentStatus:
    [found] = [agent for agent in await cas.agents() if agent.agent_id == agent_id]
    return found


async def said(cas: Client, agent_id: str) -> list[str]:
    return [event.type.rpartition(".")[2] async for event in cas.replay(agent=agent_id, type="cas.agent.*")]


async def unserved(cas: Client, agent_id: str) -> None:
    async def is_so() -> bool:
        return not await cas.is_served(agent_id)

    await until_async(is_so, what=f"{agent_id} is not served")
    cas._session.forget_runner(agent_id)  # What it heard last counts for some seconds.


async def served(cas: Client, agent_id: str) -> None:
    await until_async(lambda: cas.is_served(agent_id), what=f"{agent_id} is served")


# --- on a live runner ------------------------------------------------------------------------------------------------


async def test_a_live_runner_serves_an_agent_more(
    cas: Client, make_runner: MakeRunner, connection: Connection
) -> None:
    runner = make_runner()
    runner.agent("first")(noop)
    async with running(cas, runner):
        with pytest.raises(AgentUnavailableError, match="none has ever announced it"):
            await cas.submit_task("late")
        await runner.register_agent("late", noop, version="2", breaker=BreakerPolicy())
        assert (await cas.execute_task("late")).is_success
        now = await status(cas, "late")
        assert (now.status, now.version, now.new_tasks) == ("registered", "2", None)
        info = json.loads((await connection.request("$SRV.INFO.cas-runner")).data)
        assert info["metadata"]["agents"] == "first,late"
        with pytest.raises(ValueError, match="'late' is registered twice"):
            await runner.register_agent("late", noop)
        with pytest.raises(CasEventsError, match="register_agent"):
            runner.agent("later")(noop)
        assert set(runner.agent_ids) == {"first", "late"}
        assert (await cas.execute_task("first")).is_success


async def test_what_cannot_be_registered_changes_nothing(cas: Client, make_runner: MakeRunner) -> None:
    runner = make_runner()
    runner.agent("first")(noop)
    async with running(cas, runner):
        with pytest.raises(ValueError, match="schema of agent 'bad' is no JSON Schema"):
            await runner.register_agent("bad", noop, schema={"type": "no type"})
        with pytest.raises(ValueError, match="max_attempts of agent 'bad' is -1"):
            await runner.register_agent("bad", noop, max_attempts=-1)
        with pytest.raises(InvalidNameError):
            await runner.register_agent("no token", noop)
        assert runner.agent_ids == ("first",)
        assert [agent.agent_id for agent in await cas.agents()] == ["first"]


async def test_other_code_takes_over_after_a_deregistration_and_what_runs_ends_as_it_began(
    cas: Client, make_runner: MakeRunner
) -> None:
    runner, old = make_runner(), Held()
    runner.register("plugin", old, version="1")
    async with running(cas, runner):
        before = await cas.submit_task("plugin")
        await old.has_begun.wait()
        assert await runner.deregister_agent("plugin", reason="an upgrade") == "deregistered"
        assert await runner.deregister_agent("plugin") == "already_deregistered"
        await unserved(cas, "plugin")
        with pytest.raises(AgentUnavailableError, match="it is deregistered"):
            await cas.submit_task("plugin")
        await runner.register_agent("plugin", noop, version="2")
        assert (await cas.execute_task("plugin")).output == {}
        old.release.set()
        assert (await before.result()).output == {"by": id(old)}
        assert (await status(cas, "plugin")).version == "2"
    assert await said(cas, "plugin") == ["registered", "deregistered", "registered"]


async def test_one_runner_leaves_an_agent_to_the_others(cas: Client, make_runner: MakeRunner) -> None:
    leaving, staying, held = make_runner(), make_runner(), Held()
    leaving.register("shared", held)
    leaving.agent("other")(noop)
    async with running(cas, leaving):
        task = await cas.submit_task("shared")
        await held.has_begun.wait()
        staying.agent("shared")(noop)
        async with running(cas, staying):
            await until_async(lambda: _runners(cas, "shared", 2))
            assert await leaving.deregister_agent("shared", here_only=True) == "deregistered"
            assert (await status(cas, "shared")).status == "registered"
            assert (await cas.execute_task("shared")).output == {}
            assert held.began == 1
            drained = asyncio.create_task(leaving.deregister_agent("shared", here_only=True, wait=True))
            assert await asyncio.wait({drained}, timeout=0.05) == (set(), {drained})
            held.release.set()
            await drained
            assert (await task.result()).output == {"by": id(held)}
            await until_async(lambda: _is_gone(leaving, "shared"))
            with pytest.raises(UnknownAgentError):
                await leaving.deregister_agent("shared", here_only=True)
    assert await said(cas, "shared") == ["registered"]


async def _runners(cas: Client, agent_id: str, count: int) -> bool:
    return (await status(cas, agent_id)).runners == count


async def _is_gone(runner: Runner, agent_id: str) -> bool:
    return agent_id not in runner.agent_ids


# --- by a client's word ----------------------------------------------------------------------------------------------


async def test_it_is_drained_on_every_runner_new_tasks_wait_and_restarts_change_nothing(
    cas: Client, make_runner: MakeRunner
) -> None:
    first, second, held = make_runner(), make_runner(), Held()
    for runner in (first, second):
        runner.register("fleet", held)
    async with running(cas, first), running(cas, second):
        before = await cas.submit_task("fleet")
        await held.has_begun.wait()
        assert await cas.deregister_agent("fleet", reason="broken") == "deregistered"
        await unserved(cas, "fleet")
        with pytest.raises(AgentUnavailableError, match="it is deregistered"):
            await cas.execute_task("fleet")
        await send_raw(cas, "fleet", "waits")
        draining = asyncio.create_task(cas.deregister_agent("fleet", wait=True))

        async def is_draining() -> bool:
            now = await status(cas, "fleet")
            return (now.runners, now.running, now.queued) == (0, 1, 1)

        await until_async(is_draining)
        held.release.set()
        assert await draining == "already_deregistered"
        assert (await before.result()).is_success
    again = make_runner()
    again.register("fleet", held)
    again.agent("other")(noop)
    async with up(cas, again, "other"):
        assert (await cas.execute_task("other")).is_success
        assert (await status(cas, "fleet")).runners == 0
        assert await lifecycle(cas, "fleet", "waits") == []
        assert await cas.register_agent("fleet") == "registered"
        assert await cas.register_agent("fleet") == "already_registered"
        assert (await (await cas.task("waits")).result()).is_success
        assert (await cas.execute_task("fleet")).is_success
    events = [event async for event in cas.replay(agent="fleet", type="cas.agent.*")]
    assert names_of(events) == ["registered", "deregistered", "registered"]
    assert events[1].data == {"new_tasks": "wait", "reason": "broken"}
    assert events[2].data == events[0].data


async def test_new_tasks_are_refused_and_what_has_begun_is_brought_to_its_end(
    cas: Client, make_runner: MakeRunner
) -> None:
    runner, held = make_runner(places=1, grace_s=0.2), Held()
    runner.register("closing", held)
    async with running(cas, runner):
        begun = await cas.submit_task("closing", task_id="begun")
        await held.has_begun.wait()
        await cas.submit_task("closing", task_id="in-line")
        await cas.deregister_agent("closing", new_tasks="refuse")
        await unserved(cas, "closing")
        with pytest.raises(AgentUnavailableError, match="it is deregistered"):
            await cas.submit_task("closing", wait_for_runner_s=3_600)
    # What that runner could not finish goes on elsewhere, and nothing else begins.
    again = make_runner()
    again.agent("closing")(noop)
    again.agent("other")(noop)
    async with up(cas, again, "other"):
        assert (await begun.result()).is_success
        await send_raw(cas, "closing", "raw")
        for task_id in ("in-line", "raw"):
            result = await (await cas.task(task_id)).result()
            assert result.status == "rejected"
            [rejected] = await lifecycle(cas, "closing", task_id)
            assert rejected.data["reason"] == "agent_deregistered"
            assert "closing" in rejected.data["detail"]
        await cas.register_agent("closing")
        await served(cas, "closing")
        assert (await cas.execute_task("closing")).is_success


async def test_a_cancel_ends_what_waits_for_a_deregistered_agent(
    cas: Client, make_runner: MakeRunner
) -> None:
    runner = make_runner()
    runner.agent("gone")(noop)
    async with running(cas, runner):
        await cas.deregister_agent("gone")
        await unserved(cas, "gone")
        await send_raw(cas, "gone", "waits")
        assert await cas.cancel_task("waits", wait=True) == "requested"
        assert names_of(await lifecycle(cas, "gone", "waits")) == ["cancelled"]


async def test_a_hand_over_in_the_middle_of_draining_waits_in_line(
    cas: Client, make_runner: MakeRunner
) -> None:
    runner, held = make_runner(grace_s=0.2), Held()
    runner.register("draining", held)
    async with running(cas, runner):
        task = await cas.submit_task("draining")
        await held.has_begun.wait()
        await cas.deregister_agent("draining")
    again = make_runner()
    again.agent("draining")(noop)
    again.agent("other")(noop)
    async with up(cas, again, "other"):
        before = names_of(await lifecycle(cas, "draining", task.task_id))
        assert before in (
            ["started", "retrying"],
            ["started"],
        )  # A starved process is killed before it hands over.
        await cas.register_agent("draining")
        assert (await task.result()).is_success
    ends = await lifecycle(cas, "draining", task.task_id)
    assert names_of(ends) == [*before, "started", "completed"]
    assert ends[-1].data["tries"] == (1 if "retrying" in before else 2)


@pytest.mark.parametrize("new_tasks", ["wait", "refuse"])
async def test_a_crash_in_the_middle_of_draining_costs_a_try_and_no_task(
    cas: Client, nats_url: str, deployment: str, tmp_path: Path, new_tasks: NewTasks
) -> None:
    enough = tmp_path / "enough"
    async with serving(nats_url, deployment, "stubborn", lease_s=2) as runner:
        task = await cas.submit_task("stubborn", {"sleep_s": 3_600, "enough": str(enough)})

        async def has_begun() -> bool:
            return names_of(await lifecycle(cas, "stubborn", task.task_id)) == ["started"]

        await until_async(has_begun)
        await cas.deregister_agent("stubborn", new_tasks=new_tasks)
        runner.kill()
    enough.touch()
    async with serving(nats_url, deployment, "echo,stubborn", lease_s=2):
        if new_tasks == "wait":
            assert await has_begun()
            await cas.register_agent("stubborn")
        assert (await task.result()).is_success
    assert names_of(await lifecycle(cas, "stubborn", task.task_id)) == ["started", "started", "completed"]


async def test_it_fights_neither_a_pause_nor_the_settings_nor_a_breaker(
    cas: Client, make_runner: MakeRunner
) -> None:
    runner, healthy = make_runner(), asyncio.Event()

    @runner.agent("moody", breaker=BreakerPolicy(calls_min=2, open_s=3_600))
    async def moody(_ctx: TaskContext, _input: dict) -> dict:
        if not healthy.is_set():
            raise NonRetryableError("down")
        return {}

    async with running(cas, runner):
        for _ in range(2):
            await cas.execute_task("moody")

        async def is_open() -> bool:
            return (await status(cas, "moody")).breaker == "open"

        await until_async(is_open)
        await cas.pause_agent("moody")
        await cas.set_agent("moody", concurrency=7)
        await cas.deregister_agent("moody")
        await unserved(cas, "moody")
        assert await cas.resume_agent("moody") == "resumed"
        assert await cas.pause_agent("moody") == "paused"
        assert await cas.set_agent("moody") == {"concurrency": 7, "lease_s": 2.0}
        now = await status(cas, "moody")
        assert (now.status, now.is_paused, now.breaker, now.new_tasks) == (
            "deregistered",
            True,
            "open",
            "wait",
        )
        await cas.register_agent("moody")
        await served(cas, "moody")
        now = await status(cas, "moody")
        assert (now.status, now.is_paused, now.breaker, now.concurrency) == ("registered", True, "open", 7)
    assert (await said(cas, "moody")).count("registered") == 2


async def test_a_restart_after_a_pause_says_nothing_anew_and_another_version_does(
    cas: Client, make_runner: MakeRunner
) -> None:
    for version in ("1", "1", "2"):
        runner = make_runner()
        runner.agent("calm", version=version)(noop)
        async with running(cas, runner):
            await cas.pause_agent("calm")
            await cas.resume_agent("calm")
    pauses = ["paused", "unpaused"]
    assert await said(cas, "calm") == ["registered", *pauses, *pauses, "registered", *pauses]


async def test_a_runner_with_another_version_announces_it_when_the_agent_is_registered_again(
    cas: Client, make_runner: MakeRunner
) -> None:
    runner = make_runner()
    runner.agent("plan", version="1")(noop)
    async with running(cas, runner):
        await cas.deregister_agent("plan")
    newer = make_runner()
    newer.agent("plan", version="2")(noop)
    newer.agent("other")(noop)
    async with up(cas, newer, "other"):
        assert (await status(cas, "plan")).version == "1"
        await cas.register_agent("plan")

        async def is_announced() -> bool:
            return (await status(cas, "plan")).version == "2"

        await until_async(is_announced)
        assert (await cas.execute_task("plan")).is_success


async def test_a_runner_that_did_not_hear_of_it_finds_it_in_the_log(
    cas: Client, make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "LOOK_S", 0.1)
    runner = make_runner()
    runner.agent("deaf")(noop)
    async with running(cas, runner):
        assert runner._serving is not None
        runner._serving.close()
        await cas.deregister_agent("deaf")
        await unserved(cas, "deaf")
        await cas.register_agent("deaf")
        await served(cas, "deaf")
        assert (await cas.execute_task("deaf")).is_success


async def test_many_at_once_leave_what_the_log_says_last(cas: Client, make_runner: MakeRunner) -> None:
    runner = make_runner()
    runner.agent("busy")(noop)
    async with running(cas, runner):
        changes: list[Coroutine[Any, Any, str]] = []
        for _ in range(5):
            changes += [cas.deregister_agent("busy"), cas.register_agent("busy")]
        await asyncio.gather(*changes)
        await cas.register_agent("busy")
        await served(cas, "busy")
        assert (await cas.execute_task("busy")).is_success
    types = await said(cas, "busy")
    assert types[0] == types[-1] == "registered"
    assert all(before != after for before, after in pairwise(types))


async def test_bad_words_are_refused_by_name_and_nothing_is_stored(
    cas: Client, make_runner: MakeRunner
) -> None:
    for work in (cas.register_agent("nobody"), cas.deregister_agent("nobody")):
        with pytest.raises(UnknownAgentError, match="'nobody'"):
            await work
    with pytest.raises(InvalidNameError):
        await cas.deregister_agent("no.body")
    with pytest.raises(InvalidLimitError, match="new_tasks is 'drop'"):
        await cas.deregister_agent("nobody", new_tasks="drop")  # type: ignore[arg-type]
    assert [event.type async for event in cas.replay(type="cas.agent.*")] == []
    idle = make_runner()
    await idle.register_agent("early", noop)
    assert idle.agent_ids == ("early",)
    with pytest.raises(CasEventsError, match="does not run"):
        await idle.deregister_agent("early")


async def test_the_commands(
    cas: Client, make_runner: MakeRunner, nats_url: str, deployment: str, tmp_path: Path
) -> None:
    command = Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})
    runner = make_runner()
    runner.agent("quiet")(noop)
    async with running(cas, runner):
        told = await asyncio.to_thread(command, "agents", "deregister", "quiet", "--reason", "old", "--wait")
        assert (told.code, told.out) == (0, "deregistered\n")
        await unserved(cas, "quiet")
        assert "deregistered" in (await asyncio.to_thread(command, "agents")).out
        refused = await asyncio.to_thread(command, "run", "quiet")
        assert refused.code == 1
        assert "cas agents register quiet" in refused.error
        told = await asyncio.to_thread(command, "agents", "deregister", "quiet", "--refuse", "--json")
        assert told.json == {"agent_id": "quiet", "answer": "deregistered"}
        [row] = (await asyncio.to_thread(command, "agents", "--json")).json
        assert (row["status"], row["new_tasks"], row["runners"]) == ("deregistered", "refuse", 0)
        told = await asyncio.to_thread(command, "agents", "register", "quiet", "--json")
        assert told.json == {"agent_id": "quiet", "answer": "registered"}
        await served(cas, "quiet")
    told = await asyncio.to_thread(command, "agents", "register", "quiet")
    assert told.out == "already registered; no live runner has its code, start one\n"
    for verb in ("register", "deregister"):
        nobody = await asyncio.to_thread(command, "agents", verb, "nobody")
        assert (nobody.code, "'nobody'" in nobody.error) == (1, True)


@asynccontextmanager
async def up(cas: Client, runner: Runner, agent_id: str) -> AsyncIterator[None]:
    """A runner of which one agent is served; others may be deregistered."""
    serve = asyncio.create_task(runner.run(handle_signals=False))
    try:
        await served(cas, agent_id)
        yield
    finally:
        runner.stop()
        await asyncio.wait_for(serve, promised(20.0))
