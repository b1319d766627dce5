"""Retries, timeouts and the circuit breaker (issue: bounds of a task and of an agent), from the outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cas_events import Client, InvalidCommandError
from cas_events.domain.events import Event
from tests.harness.agents import MOODY_OPEN_S
from tests.harness.patience import promised
from tests.harness.processes import RunnerProcess, serving, settings, until_served
from tests.harness.wait import until_async

AGENTS = "moody,moody-again,moody-fast,hinting,failing,sleeper,ticker"


DEPLOYMENT = "bounds"


@pytest.fixture(scope="module")
def runner(nats_server) -> Iterator[RunnerProcess]:
    """One runner for the module; each breaker test has an agent of its own."""
    process = RunnerProcess(nats_server.url, DEPLOYMENT, agents=AGENTS, grace_s=1)
    yield process
    process.end()


@pytest.fixture
async def cas(nats_server, runner: RunnerProcess) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, DEPLOYMENT)) as client:
        await until_served(client, "moody")
        yield client


async def breaker_events(cas: Client, agent: str) -> list[Event]:
    events = [event async for event in cas.replay(agent=agent)]
    return [event for event in events if "breaker" in event.type]


async def moved(cas: Client, agent: str, phase: str) -> bool:
    events = await breaker_events(cas, agent)
    return bool(events) and events[-1].type == f"cas.agent.breaker_{phase}"


async def is_paused(cas: Client, agent: str) -> bool:
    """Whether the server holds an agent's commands back, which it does soon after the breaker has opened."""
    names, js = cas._session.names, cas._session.js
    return (await js.consumer_info(names.commands, f"agent-{agent}")).paused


async def test_an_open_breaker_keeps_tasks_waiting_and_closes_after_a_probe(
    cas: Client, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    request = {"broken": str(broken)}
    failures = [await cas.execute_task("moody", request) for _ in range(4)]
    await until_async(lambda: is_paused(cas, "moody"), what="the breaker opens")

    broken.unlink()
    waiting = [await cas.submit_task("moody", request) for _ in range(5)]
    results = await asyncio.wait_for(asyncio.gather(*(task.result() for task in waiting)), promised(20.0))

    assert {failure.status for failure in failures} == {"failed"}
    assert {result.status for result in results} == {"completed"}
    await until_async(lambda: moved(cas, "moody", "closed"), what="the breaker closes")
    moves = await breaker_events(cas, "moody")
    names = [event.type.removeprefix("cas.agent.breaker_") for event in moves]
    assert names == ["opened", "half_opened", "closed"]
    for task in waiting:
        started = await anext(cas.replay(task_id=task.task_id))
        assert (started.time - moves[0].time).total_seconds() > MOODY_OPEN_S - 0.1, "it waited"


async def test_a_failed_probe_opens_it_again(cas: Client, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    for _ in range(4):
        await cas.execute_task("moody-again", {"broken": str(broken)})
    await until_async(lambda: is_paused(cas, "moody-again"), what="open")
    probe = await cas.submit_task("moody-again", {"broken": str(broken)})

    assert (await asyncio.wait_for(probe.result(), promised(20.0))).status == "failed"
    await until_async(lambda: moved(cas, "moody-again", "opened"), what="open again")
    names = [
        event.type.removeprefix("cas.agent.breaker_") for event in await breaker_events(cas, "moody-again")
    ]
    assert names == ["opened", "half_opened", "opened"]


async def test_an_agent_may_fail_fast_while_open(cas: Client, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    for _ in range(4):
        await cas.execute_task("moody-fast", {"broken": str(broken)})
    await until_async(lambda: moved(cas, "moody-fast", "opened"), what="open")
    broken.unlink()

    refused = await cas.execute_task("moody-fast", {"broken": str(broken)})
    await until_async(lambda: moved(cas, "moody-fast", "half_opened"), what="half-open")
    probed = await cas.execute_task("moody-fast", {"broken": str(broken)})

    assert (refused.status, refused.reason) == ("failed", "circuit_open")
    assert probed.status == "completed"
    await until_async(lambda: moved(cas, "moody-fast", "closed"), what="closed")


async def test_a_breaker_survives_its_runners(nats_server, deployment: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        async with serving(nats_server.url, deployment, "moody-fast", grace_s=1):
            for _ in range(4):
                await client.execute_task("moody-fast", {"broken": str(broken)})
            await until_async(lambda: moved(client, "moody-fast", "opened"), what="open")
        broken.unlink()
        process = RunnerProcess(nats_server.url, deployment, agents="moody-fast")
        try:
            await until_served(client, "moody-fast")
            await until_async(lambda: moved(client, "moody-fast", "half_opened"), what="half-open")
            assert (await client.execute_task("moody-fast", {"broken": str(broken)})).status == "completed"
        finally:
            process.end()


async def test_an_error_may_say_when_to_come_back(cas: Client) -> None:
    result = await cas.execute_task("hinting", {"after_s": 0.8})

    assert result.output == {"attempt": 2}
    events = [event async for event in cas.replay(task_id=result.task_id)]
    _, retrying, again, *_ = (event for event in events if event.is_lifecycle)
    assert retrying.data["delay_s"] == 0.8
    assert (again.time - retrying.time).total_seconds() > 0.75


async def test_a_task_has_its_own_backoff(cas: Client) -> None:
    events = [
        event
        async for event in cas.stream_task(
            "failing", {"failures": 2}, retry={"base_s": 0.01, "cap_s": 0.01}, max_attempts=5
        )
    ]

    delays = [event.data["delay_s"] for event in events if event.type == "cas.task.retrying"]
    assert len(delays) == 2
    assert max(delays) <= 0.01


async def test_a_silent_attempt_is_ended_a_talking_one_is_not(cas: Client) -> None:
    silent = await cas.execute_task("sleeper", {}, idle_timeout_s=0.4)
    talking = await cas.execute_task("ticker", {"ticks": 12, "every_s": 0.25}, idle_timeout_s=2.0)

    assert (silent.status, silent.reason) == ("failed", "timeout")
    assert silent.error
    assert "emitted nothing for 0.4 s" in silent.error["message"]
    assert talking.status == "completed"


async def test_a_task_that_waited_too_long_fails_unrun(nats_server, deployment: str, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        names, js = client._session.names, client._session.js
        body = b'{"queue_timeout_s":0.05,"input":{"file":"%b"}}' % str(marks).encode()
        await js.append(names.execute("sleeper", "late"), body)
        async with serving(nats_server.url, deployment, "sleeper", grace_s=1):
            result = await asyncio.wait_for((await client.task("late")).result(), promised(20.0))

    assert (result.status, result.reason) == ("failed", "timeout")
    assert result.error
    assert result.error["type"] == "QueueTimeoutError"
    assert not marks.exists()


@pytest.mark.parametrize(
    "options",
    [{"idle_timeout_s": 0}, {"queue_timeout_s": -1}, {"retry": {"base_s": -1}}, {"retry": {"factor": 0.5}}],
)
async def test_bounds_out_of_range_are_refused(cas: Client, options: dict) -> None:
    with pytest.raises(InvalidCommandError):
        await cas.submit_task("sleeper", {}, **options)
