"""The four task features, each from another process than the runner's (issue: execute, stream, cancel, progress).

Method: one real server and one real runner process for the module; the client runs in the test.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cas_events import AgentUnavailableError, Client, DuplicateTaskError, UnknownTaskError
from cas_events.domain.events import Event
from tests.harness.patience import IS_TORTURE, promised
from tests.harness.processes import RunnerProcess, lines, settings, until_served
from tests.harness.wait import until, until_async

DEPLOYMENT = "tasks"


@pytest.fixture(scope="module")
def runner(nats_server) -> Iterator[RunnerProcess]:
    process = RunnerProcess(nats_server.url, DEPLOYMENT, lease_s=2, grace_s=1)
    yield process
    process.end()


@pytest.fixture
async def cas(nats_server, runner: RunnerProcess) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, DEPLOYMENT)) as client:
        await until_served(client, "echo")
        yield client


async def collect(stream) -> list[Event]:
    async with asyncio.timeout(promised(30.0)):
        return [event async for event in stream]


def short(events: list[Event]) -> list[str]:
    return [event.type.removeprefix("cas.") for event in events]


# --- execute ---------------------------------------------------------------------------------------------------------------


async def test_execute_a_function(cas: Client) -> None:
    result = await cas.execute_task("echo", {"query": "test"}, metadata={"who": "me"})

    assert result.status == "completed"
    assert result.output == {"echo": {"query": "test"}, "attempt": 1, "metadata": {"who": "me"}}
    assert result.error is None
    assert result.seq > 0


async def test_execute_a_graph(cas: Client) -> None:
    result = await cas.execute_task("workflow", {"query": "test"})

    assert result.status == "completed"
    assert result.output == {"query": "test", "notes": ["analysed", "written"]}


async def test_a_failure_is_a_result_not_an_exception(cas: Client) -> None:
    result = await cas.execute_task("hopeless")

    assert (result.status, result.reason) == ("failed", "error")
    assert result.error
    assert result.error["type"] == "NonRetryableError"
    assert result.error["message"] == "no use"
    assert "traceback" in result.error


async def test_a_failing_node_is_named(cas: Client) -> None:
    result = await cas.execute_task("workflow", {"fail": True})

    assert result.status == "failed"
    assert result.error
    assert (result.error["message"], result.error["node"]) == ("the analyst failed", "analyst")


async def test_errors_are_retried_up_to_the_bound(cas: Client) -> None:
    mended = await cas.execute_task("failing", {"failures": 2})
    exhausted = await cas.execute_task("failing", {}, max_attempts=2)

    assert (mended.status, mended.output) == ("completed", {"attempt": 3})
    assert (exhausted.status, exhausted.reason, exhausted.attempt) == ("failed", "attempts_exhausted", 2)


async def test_an_agent_that_exits_takes_nobody_along(cas: Client) -> None:
    result = await cas.execute_task("exiting")

    assert result.status == "failed"
    assert result.error
    assert result.error["type"] == "SystemExit"
    assert (await cas.execute_task("echo")).status == "completed"


async def test_a_node_that_exits_takes_nobody_along(cas: Client) -> None:
    result = await cas.execute_task("quitting-workflow", {})

    assert result.status == "failed"
    assert result.error
    assert "SystemExit: 4" in result.error["message"]
    assert (await cas.execute_task("echo")).status == "completed"


async def test_a_timeout_ends_an_attempt(cas: Client) -> None:
    own = await cas.execute_task("sleeper", {}, timeout_s=0.2)
    agents = await cas.execute_task("brief", {})

    assert (own.status, own.reason) == ("failed", "timeout")
    assert (agents.status, agents.reason) == ("failed", "timeout")


@pytest.mark.parametrize(
    ("kind", "path"), [("object", "output.items[1].when"), ("nan", "output.x[0]"), ("surrogate", "output.x")]
)
async def test_output_that_is_not_json_fails_with_its_path(cas: Client, kind: str, path: str) -> None:
    result = await cas.execute_task("unencodable", {"kind": kind})

    assert (result.status, result.reason, result.attempt) == ("failed", "error", 1)
    assert result.error
    assert path in result.error["message"]


async def test_large_input_and_output_travel_by_claim_check(cas: Client) -> None:
    result = await cas.execute_task("big", {"bytes": 10_000_000, "text": "y" * 3_000_000})

    assert result.status == "completed"
    assert len(result.output["text"]) == 10_000_000
    assert result.output["got"] == 3_000_000


async def test_a_thousand_tasks_at_once(cas: Client) -> None:
    async with asyncio.timeout(promised(60.0)):
        results = await asyncio.gather(*(cas.execute_task("noop") for _ in range(1_000)))

    assert {result.status for result in results} == {"completed"}


# --- ids and availability ----------------------------------------------------------------------------------------------------


async def test_a_task_id_is_good_for_one_task(cas: Client) -> None:
    task = await cas.submit_task("echo", {"n": 1}, task_id="only-once")
    await task.result()

    for agent in ("echo", "noop"):
        with pytest.raises(DuplicateTaskError) as caught:
            await cas.submit_task(agent, {"n": 2}, task_id="only-once")
        assert caught.value.agent_id == "echo"
    assert (await (await cas.task("only-once")).result()).output["echo"] == {"n": 1}


async def test_racing_submits_of_one_id_have_one_winner(cas: Client) -> None:
    answers = await asyncio.gather(
        *(cas.submit_task("noop", task_id="raced") for _ in range(20)), return_exceptions=True
    )

    assert sum(not isinstance(answer, Exception) for answer in answers) == 1
    assert {type(answer) for answer in answers if isinstance(answer, Exception)} == {DuplicateTaskError}


async def test_an_unserved_agent_is_said_at_once_or_waited_for(cas: Client, nats_server) -> None:
    with pytest.raises(AgentUnavailableError):
        await cas.execute_task("nobody")
    with pytest.raises(AgentUnavailableError) as caught:
        await cas.execute_task("nobody", wait_for_runner_s=0.3)
    assert "0.3 s" in str(caught.value)


async def test_a_client_waits_for_a_runner(nats_server, deployment: str) -> None:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        waiting = asyncio.create_task(client.execute_task("noop", wait_for_runner_s=promised(30.0)))
        process = RunnerProcess(nats_server.url, deployment, agents="noop")
        try:
            assert (await waiting).status == "completed"
        finally:
            process.end()


async def test_an_unknown_task_has_no_handle(cas: Client) -> None:
    with pytest.raises(UnknownTaskError):
        await cas.task("never-heard-of")


# --- stream ------------------------------------------------------------------------------------------------------------------


async def test_stream_a_function(cas: Client) -> None:
    events = await collect(cas.stream_task("echo", {"query": "test"}))

    assert short(events) == ["task.started", "log", "progress", "output", "task.completed"]
    assert [(event.attempt, event.index) for event in events] == [(1, i) for i in range(5)]
    assert events[1].data == {"level": "info", "message": "echoing", "metadata": {"keys": ["query"]}}
    assert events[2].data == {"progress": 0.5, "message": "halfway"}
    assert events[3].data == {"kind": "partial", "value": {"half": True}}
    assert events[-1].is_terminal
    assert all(event.agent_id == "echo" and event.task_id == events[0].task_id for event in events)


async def test_stream_a_graph_with_its_agents_progress(cas: Client) -> None:
    events = await collect(cas.stream_task("workflow", {"query": "q"}))

    progress = [event.data for event in events if event.type == "cas.progress"]
    steps = [(event.type.rpartition(".")[2], event.data["node"]) for event in events if "step" in event.type]
    logs = [event.data["message"] for event in events if event.type == "cas.log"]
    custom = [event.data for event in events if event.type == "cas.output"]
    assert progress == [
        {"progress": 0.5, "message": "half analysed", "node": "analyst", "agent": "analyst"},
        {"progress": 0.9, "message": "nearly written", "node": "writer", "agent": "writer"},
    ]
    assert steps == [
        ("started", "analyst"),
        ("completed", "analyst"),
        ("started", "writer"),
        ("completed", "writer"),
    ]
    assert logs == ["analysing", "written"]
    assert custom == [{"kind": "custom", "value": {"custom": "from the node"}}]
    assert short(events)[-1] == "task.completed"


async def test_a_stream_shows_every_attempt(cas: Client) -> None:
    events = await collect(cas.stream_task("failing", {"failures": 1}))

    assert short(events) == ["task.started", "task.retrying", "task.started", "task.completed"]
    assert [event.attempt for event in events] == [1, 1, 2, 2]
    assert [event.data["tries"] for event in events] == [1, 1, 2, 2]


async def test_events_are_pushed_while_the_task_runs(cas: Client, tmp_path: Path) -> None:
    """The task ends only when its follower has seen all that it says before."""
    enough, lags_s = tmp_path / "enough", list[float]()
    async for event in cas.stream_task("ticker", {"ticks": 30, "until": str(enough)}):
        if event.type == "cas.progress":
            lags_s.append(time.time() - event.time.timestamp())
        if len(lags_s) == 30:
            enough.touch()

    assert len(lags_s) == 30
    if IS_TORTURE:
        assert statistics.median(lags_s) < 0.05


async def test_a_late_follower_sees_what_a_live_one_saw(cas: Client) -> None:
    live = await collect(cas.stream_task("workflow", {"query": "q"}, task_id="followed-late"))

    task = await cas.task("followed-late")
    late = await collect(task.events())
    rest = await collect(task.events(after=live[3].seq))

    assert [event.id for event in late] == [event.id for event in live]
    assert late == live
    assert [event.id for event in rest] == [event.id for event in live[4:]]


async def test_two_followers_see_the_same(cas: Client) -> None:
    task = await cas.submit_task("ticker", {"ticks": 20})
    one, two = await asyncio.gather(collect(task.events()), collect(task.events()))

    assert one == two
    assert len(one) == 42


async def test_a_dropped_stream_leaves_nothing_behind_and_the_task_goes_on(cas: Client) -> None:
    await cas.execute_task("ticker", {"ticks": 1})
    hub = cas._session.hub
    before = len(cas._session.connection._subscriptions._active), len(hub._tasks)

    async for event in cas.stream_task("ticker", {"ticks": 20}, task_id="dropped"):
        if event.type == "cas.progress":
            break
    del event
    gc.collect()

    await until(lambda: not hub._followers, what="no follower is left")
    assert (len(cas._session.connection._subscriptions._active), len(hub._tasks)) == before
    assert (await (await cas.task("dropped")).result()).status == "completed"


async def test_one_client_follows_many_tasks_with_few_subscriptions(cas: Client) -> None:
    tasks = [await cas.submit_task("ticker", {"ticks": 10}) for _ in range(50)]
    before = len(cas._session.connection._subscriptions._active)
    streams = await asyncio.gather(*(collect(task.events()) for task in tasks))

    assert {len(stream) for stream in streams} == {22}
    assert len(cas._session.connection._subscriptions._active) - before < 8


# --- cancel ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["sleeper", "slow-workflow"])
async def test_cancel_in_the_middle(cas: Client, agent: str) -> None:
    task = await cas.submit_task(agent, {})
    async with asyncio.timeout(promised(10.0)):
        async for event in task.events():
            if event.type == "cas.task.started":
                break

    assert await task.cancel("enough", requested_by="test", wait=True) == "requested"

    result = await task.result()
    assert (result.status, result.reason) == ("cancelled", "enough")


async def test_cancel_reaches_the_agents_code(cas: Client, tmp_path: Path) -> None:
    file = tmp_path / "marks"
    task = await cas.submit_task("sleeper", {"file": str(file)})
    await until(lambda: len(lines(file)) == 1, what="the agent runs")

    await task.cancel(wait=True)

    assert lines(file)[1] == "cancelled 1 True"


async def test_cancel_twice_unknown_and_finished(cas: Client) -> None:
    done = await cas.submit_task("echo")
    await done.result()
    running = await cas.submit_task("stubborn", {"enough": "/nonexistent", "sleep_s": 5})
    await until_async(lambda: is_running(cas, running.task_id), what="running")

    answers = [await cas.cancel_task(running.task_id) for _ in range(2)]

    assert answers == ["requested", "already_requested"]
    assert await cas.cancel_task("never-heard-of") == "unknown_task"
    assert await cas.cancel_task(done.task_id) == "already_finished"
    assert (await running.result()).status == "cancelled"
    assert await cas.cancel_task(running.task_id) == "already_finished"


async def test_an_agent_that_swallows_cancellation_is_cancelled_after_the_grace(
    cas: Client, tmp_path: Path
) -> None:
    file, enough = tmp_path / "marks", tmp_path / "enough"
    task = await cas.submit_task("stubborn", {"file": str(file), "enough": str(enough)})
    await until(lambda: len(lines(file)) == 1, what="the agent runs")
    began_s = time.monotonic()

    await asyncio.wait_for(task.cancel(wait=True), promised(3.0))
    took_s = time.monotonic() - began_s
    assert "returned" not in lines(file)
    enough.touch()
    await until(lambda: "returned" in lines(file), what="the agent returns")

    assert took_s > 0.9  # the grace
    events = await collect(task.events())
    assert short(events)[-1] == "task.cancelled"
    assert "still here" not in [event.data.get("message") for event in events]


async def test_cancel_before_a_runner_comes(nats_server, deployment: str, tmp_path: Path) -> None:
    file = tmp_path / "marks"
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        names, js = client._session.names, client._session.js
        await js.append(names.execute("sleeper", "early"), b'{"input":{"file":"%b"}}' % str(file).encode())
        await js.append(names.cancel("before-its-execute"), b'{"reason":"too soon"}')
        await js.append(names.execute("sleeper", "before-its-execute"), b"{}")
        assert await client.cancel_task("early", reason="not needed") == "requested"

        process = RunnerProcess(nats_server.url, deployment, agents="sleeper")
        try:
            early = await (await client.task("early")).result()
            pre = await (await client.task("before-its-execute")).result()
        finally:
            process.end()

    assert (early.status, early.reason) == ("cancelled", "not needed")
    assert (pre.status, pre.reason) == ("cancelled", "too soon")
    assert lines(file) == []


async def test_cancels_racing_completions_end_each_task_once(cas: Client) -> None:
    async def race(n: int) -> str:
        task = await cas.submit_task("noop", task_id=f"race-{n}")
        await cas.cancel_task(task.task_id)
        return (await task.result()).status

    statuses = await asyncio.gather(*(race(n) for n in range(50)))
    assert set(statuses) <= {"completed", "cancelled"}
    for n in range(50):
        events = await collect((await cas.task(f"race-{n}")).events())
        assert sum(event.is_terminal for event in events) == 1


async def is_running(cas: Client, task_id: str) -> bool:
    task = await cas.task(task_id)
    names = cas._session.names
    return (
        await cas._session.js.last_message(names.events, names.lifecycle(task.agent_id, task_id)) is not None
    )
