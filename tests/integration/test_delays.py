"""Tasks that start later: `not_before`, in every form, across restarts, and cancelled before they are due.

Goal: a delay is the server's schedule, so it needs no process of ours while it lasts (promises 1, 4 and 5).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from cas_events import Client
from cas_events.jetstream.patience import patiently
from tests.harness import own_runner
from tests.harness.own_runner import lifecycle, names_of, noop, running
from tests.harness.patience import promised
from tests.harness.wait import until_async

SOON_S = 1.5


async def put_off(cas: Client, task_id: str) -> None:
    """Wait until a runner has stored the task's schedule; on a slow machine it may have fired since."""
    names, js = cas._session.names, cas._session.js

    async def is_put_off() -> bool:
        timer = await js.last_message(names.timers, names.timer("noop", task_id))
        return timer is not None or bool(await lifecycle(cas, "noop", task_id))

    await until_async(is_put_off, what="the schedule of the task")


async def test_a_delay_is_kept_in_every_form_from_any_client(cas: Client, make_runner) -> None:
    runner = make_runner()
    runner.agent("noop")(noop)
    due = datetime.now(UTC) + timedelta(seconds=SOON_S)

    forms = {"seconds": SOON_S, "time": due, "text": due.isoformat(), "past": due - timedelta(days=1)}

    async with running(cas, runner):
        tasks = [
            await cas.submit_task("noop", task_id=form, not_before=not_before)
            for form, not_before in forms.items()
        ]
        await own_runner.send_raw(cas, "noop", "raw", b'{"not_before": "%b"}' % due.isoformat().encode())
        tasks.append(await cas.task("raw"))
        results = [await asyncio.wait_for(task.result(), promised(15.0)) for task in tasks]

    assert [result.status for result in results] == ["completed"] * 5
    for task_id in ("seconds", "time", "text", "raw"):
        [started, _] = await lifecycle(cas, "noop", task_id)
        assert started.time >= due - timedelta(milliseconds=10), "it started early"


async def test_a_delay_survives_the_runner_and_a_crash_of_the_server(
    cas: Client, make_runner, nats_server
) -> None:
    def make():
        runner = make_runner()
        runner.agent("noop")(noop)
        return runner

    due = datetime.now(UTC) + timedelta(seconds=SOON_S)
    async with running(cas, make()):
        task = await cas.submit_task("noop", task_id="later", not_before=due)
        await put_off(cas, "later")
    await asyncio.to_thread(nats_server.restart)
    await patiently(cas.last_seq)  # The client is back.
    async with running(cas, make()):
        result = await asyncio.wait_for(task.result(), promised(20.0))

    assert result.status == "completed"
    told = await lifecycle(cas, "noop", "later")
    assert names_of(told) == ["started", "completed"]
    assert told[0].time >= due - timedelta(milliseconds=10)


async def test_a_delayed_task_is_cancelled_before_it_is_due(cas: Client, make_runner) -> None:
    runner = make_runner()
    runner.agent("noop")(noop)

    async with running(cas, runner):
        task = await cas.submit_task("noop", task_id="never", not_before=86_400)
        await put_off(cas, "never")
        answer = await asyncio.wait_for(task.cancel("no need", wait=True), promised(15.0))

    assert answer == "requested"
    [cancelled] = await lifecycle(cas, "noop", "never")
    assert (cancelled.type, cancelled.data["started"], cancelled.data["reason"]) == (
        "cas.task.cancelled",
        False,
        "no need",
    )
