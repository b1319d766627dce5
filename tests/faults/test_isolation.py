"""Agents in a process of their own (issue 3, item 3): what they say, how they end, and that nothing of them is left.

Method: a real runner whose agents run in real child processes, looked at by their pids; a runner process of its own
where the runner itself is killed.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cas_events import Client, Runner, Task, TaskContext
from cas_events.errors import UnknownTaskError
from tests.faults import isolated_agents
from tests.faults.isolated_agents import serve_all
from tests.faults.settled import kinds, settled
from tests.harness.graphs import analyst, graph
from tests.harness.own_runner import lifecycle, make_runner, names_of, running
from tests.harness.patience import promised
from tests.harness.pids import gone_within, is_alive
from tests.harness.processes import Process, lines, settings, until_served
from tests.harness.wait import until, until_async

GRACE_S = 1.5
SPIN_S = 4.0
END_S = promised(20.0)


@pytest.fixture
async def cas(nats_server, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


@pytest.fixture
async def served(cas: Client, nats_server, deployment: str) -> AsyncIterator[Client]:
    """A client of a runner in this process that serves the isolated agents."""
    async with running(cas, serve_all(make_runner(nats_server.url, deployment, grace_s=GRACE_S))):
        yield cas


async def began(file: Path) -> int:
    """The pid of a child, once it runs the agent's code."""
    await until(lambda: lines(file), timeout_s=20.0, what="the child runs")
    return int(lines(file)[0].split()[1])


async def test_what_a_child_says_arrives_as_if_it_ran_in_the_runner(served: Client) -> None:
    task = await served.submit_task("talking", {"a": ["é", None]}, metadata={"who": "me"})
    seen = [event async for event in task.events()]
    output = seen[-1].data["output"]

    assert output["pid"] != os.getpid()
    assert not is_alive(output["pid"])
    assert output | {"pid": 0} == {
        "pid": 0,
        "input": {"a": ["é", None]},
        "task": task.task_id,
        "attempt": 1,
        "metadata": {"who": "me"},
        "cancelled": False,
        "none": None,
    }
    logs = [event.data for event in seen if event.type == "cas.log"]
    assert [(log["level"], log["message"]) for log in logs] == [
        ("info", "hello"),
        ("warning", "from a thread"),
    ]
    assert logs[0]["metadata"]["pid"] == output["pid"]
    assert logs[0]["metadata"]["task"] == task.task_id
    assert "object" in logs[0]["metadata"]["odd"]
    assert [e.data["progress"] for e in seen if e.type == "cas.progress"] == [0.25]
    assert [e.data["value"] for e in seen if e.type == "cas.output"] == [{"part": [1, None, "x"]}]


@pytest.mark.parametrize("ignores_sigterm", [False, True])
async def test_a_child_that_blocks_is_ended_within_the_grace_while_others_go_on(
    served: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture, ignores_sigterm: bool, record_property
) -> None:
    file = tmp_path / "marks"
    task = await served.submit_task("spinning", {"file": str(file), "ignores_sigterm": ignores_sigterm})
    pid = await began(file)
    asked_s = time.monotonic()
    cancelling = asyncio.create_task(task.cancel("now", wait=True))
    others = 0
    while not cancelling.done():
        assert (await asyncio.wait_for(served.execute_task("inline"), END_S)).status == "completed"
        others += 1
    took_s = time.monotonic() - asked_s

    assert not is_alive(pid)
    assert others > 3
    assert "ignores its end" not in caplog.text
    assert "saw its cancel" in lines(file)
    assert ("swallowed SIGTERM" in lines(file)) == ignores_sigterm
    record_property("ended after", f"{took_s:.1f} s")
    third = 2 if ignores_sigterm else 1
    assert third * GRACE_S / 3 <= took_s < promised(GRACE_S + 0.5)
    assert names_of(await lifecycle(served, "spinning", task.task_id)) == ["started", "cancelled"]


async def test_a_polite_child_is_cancelled_as_code_in_the_runner_is(
    served: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "marks"
    task = await served.submit_task("polite", {"file": str(file)})
    pid = await began(file)
    await asyncio.wait_for(task.cancel("now", wait=True), END_S)

    assert not is_alive(pid)
    assert lines(file)[1:] == ["cancelled"]
    assert "SIG" not in caplog.text
    logs = [e async for e in served.replay(task_id=task.task_id, agent="polite") if e.type == "cas.log"]
    assert [log.data["metadata"] for log in logs] == [{"cancelled": True}]


async def test_a_cancel_while_the_child_starts_runs_no_code(served: Client, tmp_path: Path) -> None:
    file = tmp_path / "marks"
    task = await served.submit_task("polite", {"file": str(file)})
    await asyncio.wait_for(anext(aiter(task.events())), END_S)
    await asyncio.wait_for(task.cancel("at once", wait=True), END_S)

    assert lines(file) == []
    assert (await task.result()).status == "cancelled"


async def test_a_timeout_ends_the_child(served: Client, tmp_path: Path) -> None:
    file = tmp_path / "marks"
    task = await served.submit_task("brief", {"file": str(file)})
    pid = await began(file)
    result = await asyncio.wait_for(task.result(), END_S)

    assert (result.status, result.reason) == ("failed", "timeout")
    assert not is_alive(pid)


@pytest.mark.parametrize(
    ("how", "words"),
    [({"code": 3}, "exit code 3"), ({"signal": 9}, "signal SIGKILL"), ({"signal": 11}, "signal SIGSEGV")],
)
async def test_a_child_that_dies_is_tried_again(served: Client, how: dict, words: str) -> None:
    task = await served.submit_task("dying", how)
    result = await asyncio.wait_for(task.result(), END_S)
    history = await lifecycle(served, "dying", task.task_id)

    assert result.output == {"attempt": 2}
    assert names_of(history) == ["started", "retrying", "started", "completed"]
    assert history[1].data["error"]["type"] == "AgentProcessDiedError"
    assert words in history[1].data["error"]["message"]
    events = [event async for event in served.replay(task_id=task.task_id, agent="dying")]
    assert [e.data["message"] for e in events if e.type == "cas.log"] == ["dying"]


@pytest.mark.parametrize(
    ("kind", "type_", "message", "reason", "attempts"),
    [
        ("value", "ValueError", "value 2", "attempts_exhausted", 2),
        ("hopeless", "NonRetryableError", "hopeless 1", "error", 1),
        ("wrong", "WrongInputError", "wrong 1", "error", 1),
        ("exit", "SystemExit", "enough", "attempts_exhausted", 2),
        ("unencodable", "NotJsonError", "output.items[1].when", "error", 1),
        ("calling", "CallCycleError", "raising", "error", 1),
    ],
)
async def test_an_error_arrives_with_type_words_and_place(
    served: Client, kind: str, type_: str, message: str, reason: str, attempts: int
) -> None:
    task = await served.submit_task("raising", {"kind": kind})
    result = await asyncio.wait_for(task.result(), END_S)
    history = await lifecycle(served, "raising", task.task_id)
    error = history[-1].data["error"]

    assert (result.status, result.reason) == ("failed", reason)
    assert error["type"] == type_
    assert message in error["message"]
    assert f"{type_}: " in error["traceback"] or kind == "exit"
    assert kind == "unencodable" or "in raising" in error["traceback"]
    assert names_of(history).count("started") == attempts


async def test_a_child_has_its_agents_state_and_children_of_its_task(served: Client) -> None:
    task = await served.submit_task("asking", {})
    result = await asyncio.wait_for(task.result(), END_S)

    assert result.output == {
        "first": [{"n": 1}, 1, "asking"],
        "refused": [7, 1],
        "in_thread": {"n": 1, "thread": True},
        "state": {"n": 1, "thread": True},
        "called": {"said": "called"},
        "spawned": [{"said": "spawned"}, "completed"],
        "failed": ["failed", "no way"],
        "cancelled": ["requested", "cancelled"],
    }, result.error
    assert (await served.get_agent_state("asking", "k")).revision == 1
    steps = [
        e.data for e in [e async for e in served.replay(task_id=task.task_id)] if e.type == "cas.step.started"
    ]
    nodes = [step["node"] for step in steps]
    assert sorted(nodes[:2]) == ["call:inline", "spawn:inline"]  # Begun at once: neither is first by promise.
    assert nodes[2:] == ["call:inline", "spawn:inline"]


async def test_a_cancel_ends_a_child_process_that_waits_for_a_child_task(served: Client) -> None:
    task = await served.submit_task("calling", {})
    child = await first_child(served, task)
    assert await task.cancel("no more", wait=True) == "requested"
    assert (await asyncio.wait_for(task.result(), END_S)).status == "cancelled"
    assert (await asyncio.wait_for(child.result(), END_S)).status == "cancelled"


async def test_who_stops_waiting_for_a_child_task_goes_on(served: Client) -> None:
    task = await served.submit_task("calling", {"give_up_s": 0.05})
    assert (await asyncio.wait_for(task.result(), END_S)).output == "gave up"


async def first_child(cas: Client, task: Task) -> Task:
    """The first child that a task has started."""
    async for event in task.events():
        if "child" in event.data:
            child_id = event.data["child"]["task_id"]
            await until_async(functools.partial(is_known, cas, child_id), what="the child's command")
            return await cas.task(child_id)
    raise AssertionError("it has ended without a child")


async def is_known(cas: Client, task_id: str) -> bool:
    try:
        await cas.task(task_id)
    except UnknownTaskError:
        return False
    return True


async def test_an_error_says_when_to_come_back(served: Client) -> None:
    task = await served.submit_task("raising", {"kind": "hint", "times": 1})
    assert (await asyncio.wait_for(task.result(), END_S)).output == {"attempt": 2}
    history = await lifecycle(served, "raising", task.task_id)
    assert [e.data["delay_s"] for e in history if e.type == "cas.task.retrying"] == [0.7]


async def test_ten_megabytes_go_in_and_out(served: Client) -> None:
    size = 10_000_000
    task = await served.submit_task("large", {"text": "z" * size, "bytes": size})
    seen = [event async for event in task.events()]
    result = await asyncio.wait_for(task.result(), END_S)

    assert result.output == {"got": size, "text": "x" * size}
    assert [e.type for e in seen if e.type == "cas.output"] == ["cas.output"]


async def test_a_flood_of_progress_is_thinned_out_and_its_last_arrives(served: Client) -> None:
    task = await served.submit_task("ticking", {"ticks": 100_000})
    seen = [event async for event in task.events()]
    told = [event.data["progress"] for event in seen if event.type == "cas.progress"]

    assert seen[-1].type == "cas.task.completed"
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) < 2_000


async def test_a_shutdown_hands_over_and_leaves_no_child(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    file = tmp_path / "marks"
    async with running(cas, serve_all(make_runner(nats_server.url, deployment, grace_s=1.0))):
        task = await cas.submit_task("spinning", {"file": str(file), "ignores_sigterm": True})
        pid = await began(file)
    assert not is_alive(pid)
    history = await lifecycle(cas, "spinning", task.task_id)
    assert names_of(history) == ["started", "retrying"]
    assert history[1].data["error"]["type"] == "handover"


async def test_no_child_outlives_a_killed_runner(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    """One child waits, one never lets go of its loop; their functions are in the runner's main module."""
    files = {"polite": tmp_path / "polite", "spinning": tmp_path / "spinning"}
    process = _start(nats_server.url, deployment)
    tasks: list[Task] = []
    try:
        await until_served(cas, "inline")
        for agent, file in files.items():
            tasks.append(await cas.submit_task(agent, {"file": str(file), "spin_s": SPIN_S}))
        pids = [await began(file) for file in files.values()]
        process.kill()
        gone = [gone_within(pid, 3.0) for pid in pids]
    finally:
        process.end()
    assert gone == [True, True]

    # Another runner goes on with the tasks, in new children.
    async with running(cas, serve_all(make_runner(nats_server.url, deployment, grace_s=GRACE_S))):
        await until(lambda: len(lines(files["polite"])) == 2, timeout_s=20.0, what="the second attempt")
        await tasks[0].cancel()
        history = await settled(nats_server.url, deployment, tasks)
    assert kinds(history[tasks[0].task_id]) == ["started", "started", "cancelled"]


async def test_sigterm_to_the_runner_ends_its_children_in_time(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    file = tmp_path / "marks"
    process = _start(nats_server.url, deployment)
    try:
        await until_served(cas, "inline")
        await cas.submit_task("spinning", {"file": str(file), "ignores_sigterm": True})
        pid = await began(file)
        process.send(signal.SIGTERM)
        # The grace for tasks to finish, and the grace for what does not.
        await until(process.is_dead, timeout_s=2 * GRACE_S + 2.0, what="the runner ends")
    finally:
        process.end()
    assert process.popen.returncode == 0
    assert gone_within(pid, 1.0)


SCRIPT = """
import asyncio
from cas_events import Runner

runner = Runner(lease_s=2, grace_s=1)

@runner.agent("scripted", isolation="process")
async def scripted(ctx, input):
    return {"works": True}

if GUARD:
    asyncio.run(runner.run())
"""


@pytest.mark.parametrize("guard", ["__name__ == '__main__'", "True"])
async def test_an_agent_in_the_script_that_is_run_needs_the_usual_guard(
    cas: Client, nats_server, deployment: str, tmp_path: Path, guard: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("GUARD", guard))
    process = Process([str(script)], CAS_NATS_URL=nats_server.url, CAS_DEPLOYMENT=deployment)
    try:
        await until_served(cas, "scripted")
        result = await asyncio.wait_for(cas.execute_task("scripted"), END_S)
    finally:
        process.end()
    if guard == "True":
        assert result.status == "failed"
        assert "if __name__ == '__main__'" in result.error["message"]
    else:
        assert result.output == {"works": True}


def _start(url: str, deployment: str) -> Process:
    return Process(["-m", "tests.faults.isolated_agents"], CAS_NATS_URL=url, CAS_DEPLOYMENT=deployment)


async def _renamed(_ctx: TaskContext, _input: dict) -> dict:
    return {}


async def test_what_a_child_does_not_find_fails_with_the_reason(
    cas: Client, nats_server, deployment: str
) -> None:
    runner = make_runner(nats_server.url, deployment)
    _renamed.__qualname__ = "gone"
    _renamed.__module__ = isolated_agents.__name__
    runner.register("renamed", _renamed, isolation="process")
    async with running(cas, runner):
        result = await asyncio.wait_for(cas.execute_task("renamed"), END_S)
    assert result.status == "failed"
    assert result.reason == "error"
    assert "no 'gone'" in result.error["message"]


class _Agent:
    async def method(self, ctx: TaskContext, input: dict) -> dict:
        return {}


@pytest.mark.parametrize(
    "agent",
    [
        _Agent().method,
        functools.partial(isolated_agents.inline),
        graph(analyst),
        graph(analyst).compile(),
    ],
    ids=["method", "partial", "graph", "compiled"],
)
def test_what_a_child_cannot_import_is_refused_at_registration(agent) -> None:
    with pytest.raises(ValueError, match="another process can import"):
        Runner().register("agent", agent, isolation="process")


def test_local_functions_lambdas_and_unknown_modules_are_refused() -> None:
    async def local(ctx: TaskContext, input: dict) -> dict:
        return {}

    with pytest.raises(ValueError, match="another process can import"):
        Runner().agent("agent", isolation="process")(local)
    with pytest.raises(ValueError, match="another process can import"):
        Runner().agent("agent", isolation="process")(lambda ctx, _: local(ctx, {}))
    local.__qualname__, local.__module__ = "local", "made_by_hand"
    with pytest.raises(ValueError, match="no module 'made_by_hand'"):
        Runner().agent("agent", isolation="process")(local)
    with pytest.raises(ValueError, match="isolation of agent"):
        Runner().agent("agent", isolation="thread")(local)  # type: ignore[typeddict-item]
