"""What leaves a trace, and what leaves nothing behind (promises 5, 8 and 9): answers to nothing, ids that are none,
outputs that could not be stored; fired wakes, killed runners' tools. Runners in the test's own loop, everything real.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from cas_events import Client, TaskContext
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.wire.subjects import Names
from projections.projector import Projector
from projections.queries import query_file
from tests.harness.own_runner import noop, running
from tests.harness.patience import promised
from tests.harness.pids import gone_within, is_alive
from tests.harness.processes import lines
from tests.harness.wait import until, until_async

# A tool that says its number and then takes long.
TOOL = "import os,sys,time; open(sys.argv[-1],'w').write(str(os.getpid())); time.sleep(60)"
CALLER = """\
import asyncio, sys
from cas_events.agents.process import run_module
asyncio.run(run_module("timeit", ["-n1", "-r1", sys.argv[1]], timeout_s=60))
"""


async def test_an_answer_to_a_task_that_has_ended_is_said(cas: Client, make_runner) -> None:
    names, js = cas._session.names, cas._session.js
    runner = make_runner()
    runner.register("noop", noop)
    async with running(cas, runner):
        result = await cas.execute_task("noop")
        ack = await js.append(names.resume("noop", result.task_id, "i-1"), b'{"value":1}')

        async def is_said() -> bool:
            last = await js.last_message(names.events, names.agent_event("noop"))
            return last is not None and b'"the task has ended"' in last.data

        await until_async(is_said, what=f"command_ignored for {ack.seq}")


async def test_a_cancel_whose_id_is_no_token_is_a_dead_letter(
    cas: Client, nats_server, make_runner, tmp_path: Path
) -> None:
    """No agent is known whose subject could name it; the tables show it all the same."""
    names, js = cas._session.names, cas._session.js
    runner = make_runner()
    runner.register("noop", noop)
    async with running(cas, runner):
        ack = await js.append(f"{names.deployment}.cmd.cancel.a/b", b"{}")
        await until_async(partial(is_settled, js, names.commands, "cancel"), what="nobody asks again")
    path = tmp_path / "cas.duckdb"
    async with await Connection.open(nats_server.url, name="projection") as connection:
        projector = await Projector.open(connection, Names(names.deployment), path)
        folding = asyncio.create_task(projector.run())
        await projector.wait_for((await js.stream_info(names.events)).state.last_seq, promised(30.0))
        projector.stop()
        await folding
        await projector.close()

    rows = (await query_file(path, "SELECT seq, subject FROM cas_dead_letters")).rows
    assert rows == [(ack.seq, f"{names.deployment}.cmd.cancel.a/b")]


async def is_settled(js: JetStream, stream: str, consumer: str) -> bool:
    info = await js.consumer_info(stream, consumer)
    return info.num_pending == 0 and info.num_ack_pending == 0


async def test_a_wake_that_has_done_its_work_is_gone(cas: Client, make_runner) -> None:
    names, js = cas._session.names, cas._session.js
    runner = make_runner()

    class BusyError(RuntimeError):
        retry_after_s = 5.2  # Over what a nak waits for: a schedule.

    @runner.agent("flaky")
    async def flaky(ctx: TaskContext, _input: dict) -> dict:
        if ctx.attempt == 1:
            raise BusyError
        return {}

    async with running(cas, runner):
        soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 5))
        results = await asyncio.gather(cas.execute_task("flaky"), cas.execute_task("flaky", not_before=soon))

        async def is_empty() -> bool:
            return (await js.stream_info(names.timers)).state.messages == 0

        await until_async(is_empty, what="nothing is left of the timers")
    assert {result.status for result in results} == {"completed"}
    assert (
        await js.stream_info(names.timers)
    ).state.last_seq >= 4  # Two schedules and two wakes have been there.


FOREIGN = (
    '{"specversion":"1.0","id":"x.1.0","source":"cas/runner/other","type":"%s","subject":"%s","agentid":"noop",'
    '"time":"2026-11-22T09:00:00Z","attempt":1,"index":0,"data":{"command_seq":%d,"tries":%s,"delay_s":%s}}'
)


async def test_a_long_wait_that_another_wrote_costs_no_place(cas: Client, make_runner) -> None:
    """The runner of a long delay died before it stored the schedule; and a newer version's event governs a task.

    Found by 100,000 cases of fuzzing: the delivery of each such task filled a place, until the agent stood still.
    """
    names, js = cas._session.names, cas._session.js
    runner = make_runner()
    runner.register("noop", noop)
    told = {"dead": ("cas.task.retrying", 1, 86_400), "newer": ("cas.task.unheard-of", 1, 0)}
    for task_id, (type_, tries, delay_s) in told.items():
        seq = (await js.stream_info(names.commands)).state.last_seq + 1
        await js.append(
            names.lifecycle("noop", task_id), (FOREIGN % (type_, task_id, seq, tries, delay_s)).encode()
        )
        await js.append(names.execute("noop", task_id), b"{}")
    async with running(cas, runner):
        await until_async(partial(is_settled, js, names.commands, "agent-noop"), what="no place is held")
        for task_id in told:
            schedule = await js.last_message(names.timers, names.timer("noop", task_id))
            assert schedule is not None
            assert await cas.cancel_task(task_id, wait=True) == "requested"


async def test_numbers_beyond_all_bounds_stop_nobody(cas: Client, make_runner) -> None:
    """Found by 100,000 cases of fuzzing: a delay that no float holds was an error at every redelivery."""
    names, js = cas._session.names, cas._session.js
    runner = make_runner()
    runner.register("noop", noop)
    huge = str(10**400)
    seq = (await js.stream_info(names.commands)).state.last_seq + 1
    foreign = FOREIGN % ("cas.task.retrying", "huge", seq, huge, huge)
    await js.append(names.lifecycle("noop", "huge"), foreign.encode())
    await js.append(names.execute("noop", "huge"), b"{}")
    async with running(cas, runner):
        result = await asyncio.wait_for((await cas.task("huge")).result(), promised(20.0))
    assert result.status == "completed"


async def test_an_output_that_cannot_be_stored_is_counted(cas: Client, make_runner) -> None:
    names, js = cas._session.names, cas._session.js
    runner = make_runner()

    @runner.agent("large")
    async def large(ctx: TaskContext, _input: dict) -> dict:
        await ctx.output({"text": "x" * 500_000})
        await ctx.output({"text": "small"})
        return {}

    async with running(cas, runner):
        config: dict[str, Any] = (await js.stream_info(names.blobs)).config
        await js.call(f"STREAM.UPDATE.{names.blobs}", {**config, "max_bytes": 100_000})
        result = await asyncio.wait_for(cas.execute_task("large"), promised(30.0))

    assert result.status == "completed"
    said = [event.data async for event in cas.replay(task_id=result.task_id) if event.type == "cas.log"]
    assert [data["metadata"] for data in said] == [{"dropped": 1}]


async def test_large_values_are_hashed_while_agents_hold_every_thread(js: JetStream, deployment: str) -> None:
    await ensure_streams(js, deployment)
    blobs = BlobStore(js, Names(deployment).blob_bucket)
    loop, enough = asyncio.get_running_loop(), Event()
    with ThreadPoolExecutor(1) as pool:
        loop.set_default_executor(pool)
        held = loop.run_in_executor(None, enough.wait)
        try:
            name = await asyncio.wait_for(blobs.put(b"x" * 1_000_000), promised(20.0))
            data = await asyncio.wait_for(blobs.get(name, max_bytes=1_000_000), promised(20.0))
        finally:
            enough.set()
            await held
    assert len(data) == 1_000_000


async def test_no_tool_outlives_a_killed_runner(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with subprocess.Popen(
        [sys.executable, "-c", CALLER, TOOL.replace("sys.argv[-1]", repr(str(file)))]
    ) as caller:
        await until(lambda: bool(lines(file)), what="the tool runs")
        pid = int(lines(file)[0])
        assert is_alive(pid)
        caller.kill()
    assert gone_within(pid, 10.0)
