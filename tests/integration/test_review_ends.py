"""Ends and oversizes under a reviewer's eye: a full log, code that goes on after its end, large everything (promises 1, 8, 9).

The runner runs in the test's own loop where its agents are the test's; server, log and connections are real.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph

from cas_events import Client, TaskContext
from tests.harness.faults import last_for
from tests.harness.own_runner import LEASE_S, lifecycle, names_of, noop, running
from tests.harness.patience import promised
from tests.harness.processes import serving
from tests.harness.wait import until, until_async


async def test_a_large_answer_to_nothing_is_settled(cas: Client, make_runner) -> None:
    names, js = cas._session.names, cas._session.js
    runner = make_runner()
    runner.register("noop", noop)
    async with running(cas, runner):
        value = json.dumps({"value": "x" * 900_000}).encode()
        await js.append(names.resume("noop", "unknown", "i-1"), value)

        async def is_ignored() -> bool:
            return [e.type async for e in cas.replay(agent="noop")][-1:] == ["cas.agent.command_ignored"]

        async def is_settled() -> bool:
            info = await js.consumer_info(names.commands, "agent-noop")
            return info.num_pending == 0 and info.num_ack_pending == 0

        # The event first: a consumer hears of a new message a moment after the publisher.
        await until_async(is_ignored, timeout_s=5, what="the answer is ignored, and that is said")
        await until_async(is_settled, timeout_s=5, what="the command is acknowledged")


async def test_a_full_log_at_the_end_does_not_run_a_task_twice(
    cas: Client, make_runner, caplog: pytest.LogCaptureFixture
) -> None:
    names, js = cas._session.names, cas._session.js
    runner = make_runner()
    began: list[int] = []
    go = asyncio.Event()

    @runner.agent("worker", on_crash="fail")
    async def worker(ctx: TaskContext, _input: dict) -> dict:
        began.append(ctx.attempt)
        await go.wait()
        return {"done": True}

    async with running(cas, runner):
        task = await cas.submit_task("worker")
        await until(lambda: bool(began), what="running")
        info = await js.stream_info(names.events)
        await update_stream(cas, {**info.config, "max_bytes": info.state.bytes + 1})
        go.set()
        await until(lambda: "waits for the log" in caplog.text, what="refused")
        await update_stream(cas, info.config)
        result = await asyncio.wait_for(task.result(), promised(15.0))

    assert result.status == "completed"
    assert began == [1]


async def test_cancel_of_a_finished_task_while_no_command_is_taken(cas: Client, make_runner) -> None:
    js, commands = cas._session.js, cas._session.names.commands
    runner = make_runner()
    runner.register("noop", noop)
    async with running(cas, runner):
        done = await cas.execute_task("noop")
        info = await js.stream_info(commands)
        await update_stream(cas, {**info.config, "max_msgs": info.state.messages})
        assert await cas.cancel_task(done.task_id) == "already_finished"
        await update_stream(cas, info.config)


async def update_stream(cas: Client, config: dict[str, Any]) -> None:
    await cas._session.js.call(f"STREAM.UPDATE.{config['name']}", config)


async def test_a_time_beyond_the_servers_clock_is_no_busy_loop(cas: Client, make_runner) -> None:
    names, js = cas._session.names, cas._session.js
    runner = make_runner()
    runner.register("noop", noop)
    async with running(cas, runner):
        await cas.submit_task("noop", task_id="later", not_before="2400-01-01T00:00:00Z")
        await cas.submit_task("noop", task_id="latest", not_before="9999-12-31T23:59:59Z")

        async def is_settled() -> bool:
            info = await js.consumer_info(names.commands, "agent-noop")
            return info.num_pending == 0 and info.num_ack_pending == 0

        await until_async(is_settled, what="both wait")

        await last_for(1.0)
        assert (await js.stream_info(names.timers)).state.last_seq <= 2, "none of them is due"


async def test_code_that_ignores_its_end_does_not_keep_the_process(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    file = tmp_path / "marks"
    async with serving(nats_server.url, deployment, "stubborn", lease_s=LEASE_S, grace_s=0.5) as process:
        task = await cas.submit_task(
            "stubborn", {"file": str(file), "enough": str(tmp_path / "enough"), "sleep_s": 120}
        )
        await until(file.exists, what="running")
        process.terminate(timeout_s=8)
    assert names_of(await lifecycle(cas, "stubborn", task.task_id)) == ["started", "retrying"]


async def test_logs_after_the_end_hold_back_nothing(cas: Client, make_runner) -> None:
    runner = make_runner()
    noise: list[asyncio.Task[None]] = []

    @runner.agent("noisy")
    async def noisy(ctx: TaskContext, _input: dict) -> dict:
        async def shout() -> None:
            while True:
                ctx.log.info("still here", filler="x" * 100)
                await ctx.output({"n": 1})
                await asyncio.sleep(0)

        noise.append(asyncio.create_task(shout()))
        await asyncio.sleep(0.05)
        return {}

    async with running(cas, runner):
        result = await asyncio.wait_for(cas.execute_task("noisy"), promised(3.0))
        assert not noise[0].done()
        noise[0].cancel()
    assert result.is_success
    stored = [event async for event in cas.replay(task_id=result.task_id)]
    assert stored[-1].type == "cas.task.completed"


async def test_large_metadata_reaches_the_agent(cas: Client, make_runner) -> None:
    runner = make_runner()

    @runner.agent("meta")
    async def meta(ctx: TaskContext, _input: dict) -> dict:
        return {"length": len(ctx.metadata.get("text", ""))}

    async with running(cas, runner):
        result = await asyncio.wait_for(
            cas.execute_task("meta", metadata={"text": "x" * 300_000}), promised(10.0)
        )
    assert result.output == {"length": 300_000}


async def test_an_error_that_cannot_say_what_it_is(cas: Client, make_runner) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    runner = make_runner()

    @runner.agent("mute", max_attempts=1)
    async def mute(_ctx: TaskContext, _input: dict) -> dict:
        raise MuteError

    async with running(cas, runner):
        result = await asyncio.wait_for(cas.execute_task("mute"), promised(10.0))
    assert (result.status, result.reason) == ("failed", "error")
    assert result.error
    assert result.error["type"] == "MuteError"


# LangGraph drops a coroutine of its own that had not begun when its stream is closed.
@pytest.mark.filterwarnings("ignore:coroutine 'AsyncQueue.wait' was never awaited:RuntimeWarning")
async def test_a_graph_that_fails_leaves_no_node_behind(cas: Client, make_runner) -> None:
    ended: list[str] = []
    runs = asyncio.Event()

    async def bad(_state: dict[str, Any]) -> dict[str, Any]:
        await runs.wait()
        raise ValueError("bad")

    async def slow(_state: dict[str, Any]) -> dict[str, Any]:
        runs.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")
        return {}

    graph = StateGraph(dict)
    for node in (bad, slow):
        graph.add_node(node.__name__, node)
        graph.add_edge(START, node.__name__)
    runner = make_runner()
    runner.register("graph", graph, max_attempts=1)
    async with running(cas, runner):
        result = await asyncio.wait_for(cas.execute_task("graph"), promised(10.0))
        assert ended == ["slow"]
    assert result.error
    assert result.error["type"] == "ValueError"


async def test_a_handed_over_task_was_started(cas: Client, make_runner) -> None:
    """A cancel between two attempts says that the code had run, though a hand-over costs no try."""
    names, js = cas._session.names, cas._session.js
    first, second = make_runner(grace_s=0.1), make_runner()

    async def sleeper(_ctx: TaskContext, _input: dict) -> dict:
        await asyncio.sleep(60)
        return {}

    first.register("sleeper", sleeper)
    second.register("sleeper", sleeper)
    async with running(cas, first):
        task = await cas.submit_task("sleeper")

        async def has_started() -> bool:
            return bool(await lifecycle(cas, "sleeper", task.task_id))

        await until_async(has_started, what="started")
    await js.append(names.cancel(task.task_id), b"{}")
    async with running(cas, second):
        await asyncio.wait_for(task.result(), promised(10.0))
    cancelled = (await lifecycle(cas, "sleeper", task.task_id))[-1]
    assert cancelled.type == "cas.task.cancelled"
    assert cancelled.data["started"] is True
