"""Flow control (issue 6, item 6): slots per key and a rate for the fleet, classes, and the limit of a queue.

Goal: at most so many tasks of a key run at once, whoever runs them, in the order of arrival and of their classes; who
waits holds no place; a slot comes back after an end, a question and a long wait; a rate holds for starts; and what
somebody left half done who died is finished by the next one to look.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from cas_events import Client, Task, TaskContext
from cas_events.domain.flow import Lane
from cas_events.errors import InvalidCommandError, QueueFullError
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.flow import LaneSubjects, Waiter, decode_lane, decode_waiter
from tests.harness.cas import Cas
from tests.harness.own_runner import lifecycle, names_of, noop, running, send_raw
from tests.harness.patience import promised
from tests.harness.wait import until, until_async

LEASE_S = 30.0  # nobody is to take a task over because its runner had no processor


class Gauge:
    """An agent whose tasks run until they are let go; counts what runs at once, by customer."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.started: list[str] = []
        self.release = asyncio.Event()

    async def run(self, ctx: TaskContext, input: dict) -> dict:
        key = str(input.get("customer"))
        self.running[key] += 1
        self.most[key] = max(self.most[key], self.running[key])
        self.started.append(ctx.task_id)
        try:
            await self.release.wait()
        finally:
            self.running[key] -= 1
        return {}


async def submit(cas: Client, agent_id: str, input_: dict | None = None, **options: Any) -> Task:
    """A task, for whose runner is waited: on a slow machine one may not answer within a second."""
    return await cas.submit_task(agent_id, input_, wait_for_runner_s=promised(10.0), **options)


async def ends(*tasks: Task) -> list[str]:
    results = await asyncio.wait_for(asyncio.gather(*(task.result() for task in tasks)), promised(30.0))
    return [result.status for result in results]


async def waiting(cas: Client, agent_id: str) -> list[StoredMessage]:
    names = cas._session.names
    subject = f"{names.thread('~flow')}.wait.{agent_id}.>"
    messages, _ = await cas._session.js.direct_batch(names.checkpoints, subject)
    return messages


async def until_waiting(cas: Client, agent_id: str, number: int) -> None:
    async def is_so() -> bool:
        return len(await waiting(cas, agent_id)) == number

    await until_async(is_so, what=f"{number} tasks of {agent_id} wait")


@asynccontextmanager
async def one_slot(cas: Client, make_runner) -> AsyncIterator[tuple[Gauge, Task]]:
    """The agent "keyed" with one slot a key, and a task that holds the one of customer c7."""
    gauge, runner = Gauge(), make_runner(lease_s=LEASE_S)
    runner.agent("keyed", concurrency_per_key=1, key="customer")(gauge.run)
    async with running(cas, runner):
        holder = await submit(cas, "keyed", {"customer": "c7"}, task_id="holder")
        await until(lambda: gauge.started == ["holder"])
        yield gauge, holder


async def test_a_keys_tasks_run_so_many_at_once_on_two_runners_and_other_keys_beside_them(
    cas: Client, make_runner
) -> None:
    gauge, one, other = Gauge(), make_runner(lease_s=LEASE_S), make_runner(lease_s=LEASE_S)
    for runner in (one, other):
        runner.agent("keyed", concurrency_per_key=2, key="customer")(gauge.run)
    async with running(cas, one), running(cas, other):
        tasks = [await submit(cas, "keyed", {"customer": "c7"}) for _ in range(9)]
        await until_waiting(cas, "keyed", 7)
        apart = [await submit(cas, "keyed", {"customer": 8}, key="c8") for _ in range(2)]
        free = await submit(cas, "keyed")
        await until(lambda: len(gauge.started) == 5)
        gauge.release.set()
        assert set(await ends(*tasks, *apart, free)) == {"completed"}
        await until_waiting(cas, "keyed", 0)
    assert gauge.most == {"c7": 2, "8": 2, "None": 1}
    for task in tasks:
        assert names_of(await lifecycle(cas, "keyed", task.task_id)) == ["started", "completed"]


async def test_who_waits_is_queued_without_a_place_and_comes_by_class_and_arrival(
    cas: Client, make_runner
) -> None:
    async with one_slot(cas, make_runner) as (gauge, holder):
        for n, word in enumerate(("low", "low", "normal", "normal", "high", "high"), start=1):
            body = msgspec.json.encode({"key": "c7", "priority": word})
            await send_raw(cas, "keyed", f"{word}-{n}", body)  # As any NATS client does.
            await until_waiting(cas, "keyed", n)
        await until_async(lambda: _shows(cas, running=1, queued=6), what="cas agents shows who waits")
        await until_async(lambda: _holds_one_place(cas), what="who waits has no place")
        gauge.release.set()
        await ends(holder, *[await cas.task(name) for name in ("low-1", "low-2", "normal-4", "high-6")])
    assert gauge.started[1:] == ["high-5", "normal-3", "high-6", "low-1", "normal-4", "low-2"]


async def _shows(cas: Client, *, running: int, queued: int) -> bool:
    [status] = [agent for agent in await cas.agents() if agent.agent_id == "keyed"]
    return (status.running, status.queued) == (running, queued)


async def _holds_one_place(cas: Client) -> bool:
    info = await cas._session.js.consumer_info(cas._session.names.commands, "agent-keyed")
    return info.num_ack_pending == 1


async def test_a_cancelled_task_gives_up_its_turn_and_its_slot(cas: Client, make_runner) -> None:
    async with one_slot(cas, make_runner) as (gauge, holder):
        gone = await submit(cas, "keyed", {"customer": "c7"})
        await until_waiting(cas, "keyed", 1)
        heir = await submit(cas, "keyed", {"customer": "c7"})
        await until_waiting(cas, "keyed", 2)
        assert await gone.cancel("not needed", wait=True) == "requested"
        [end] = await lifecycle(cas, "keyed", gone.task_id)
        assert (end.type, end.data["started"]) == ("cas.task.cancelled", False)
        await until_waiting(cas, "keyed", 1)
        assert await holder.cancel("nor this", wait=True) == "requested"
        await until(lambda: gauge.started == ["holder", heir.task_id])
        gauge.release.set()
        assert await ends(gone, holder, heir) == ["cancelled", "cancelled", "completed"]


async def test_a_task_that_waits_for_a_far_retry_has_no_slot(cas: Client, make_runner) -> None:
    runner = make_runner(lease_s=LEASE_S)

    class BusyError(RuntimeError):
        retry_after_s = 3_600.0

    @runner.agent("keyed", concurrency_per_key=1)
    async def keyed(_ctx: TaskContext, input: dict) -> dict:
        if input.get("busy"):
            raise BusyError
        return {}

    async with running(cas, runner):
        busy = await submit(cas, "keyed", {"busy": True}, key="c7")
        await until_async(lambda: _is_retrying(cas, busy), what="the retry is stored")
        heir = await submit(cas, "keyed", key="c7")
        assert await ends(heir) == ["completed"]
        assert await busy.cancel(wait=True) == "requested"
    assert names_of(await lifecycle(cas, "keyed", busy.task_id)) == ["started", "retrying", "cancelled"]


async def _is_retrying(cas: Client, task: Task) -> bool:
    return names_of(await lifecycle(cas, "keyed", task.task_id)) == ["started", "retrying"]


async def test_a_question_frees_the_slot_and_its_answer_waits_for_one(cas: Client, make_runner) -> None:
    runner, gauge = make_runner(lease_s=LEASE_S), Gauge()

    def ask(state: dict) -> dict:
        return {"answer": interrupt("go on?")} if state.get("asks") else {}

    async def work(_state: dict) -> dict:
        gauge.started.append("")
        await gauge.release.wait()
        return {}

    graph = StateGraph(dict)
    graph.add_node("ask", ask)
    graph.add_node("work", work)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "work")
    graph.add_edge("work", END)
    runner.register("keyed", graph, concurrency_per_key=1)
    async with running(cas, runner):
        asking = await submit(cas, "keyed", {"asks": True}, key="c7")
        question = await until_async(asking.interrupts)
        other = await submit(cas, "keyed", {"asks": False}, key="c7")
        await until(lambda: len(gauge.started) == 1)  # The slot is the other one's.
        assert await asking.resume(question[0].id, True) == "accepted"
        await until_waiting(cas, "keyed", 1)
        gauge.release.set()
        assert await ends(other, asking) == ["completed", "completed"]
    kinds = names_of(await lifecycle(cas, "keyed", asking.task_id))
    assert kinds == ["started", "interrupted", "resumed", "started", "completed"]


# --- what somebody left half done who died -----------------------------------------------------------------------------


async def put_lane(cas: Client, subjects: LaneSubjects, lane: Lane) -> None:
    await cas._session.js.append(subjects.lane, msgspec.json.encode(lane))


async def test_a_slot_that_was_given_and_not_told_of_is_told_of_by_the_next_one(
    cas: Client, make_runner
) -> None:
    async with one_slot(cas, make_runner) as (gauge, holder):
        await submit(cas, "keyed", {"customer": "c7"}, task_id="heir")
        await until_waiting(cas, "keyed", 1)
        subjects = LaneSubjects.of_key(cas._session.names, "keyed", "c7")
        # As if whoever ended an earlier task had died between the two steps of admitting the heir.
        await put_lane(cas, subjects, Lane().with_slot("holder", after=0).with_slot("heir", after=0))
        gauge.release.set()
        assert await ends(holder, await cas.task("heir")) == ["completed", "completed"]
        await until_waiting(cas, "keyed", 0)


async def test_a_slot_whose_holder_has_ended_is_found_by_who_looks_for_itself(
    cas: Client, make_runner
) -> None:
    async with one_slot(cas, make_runner) as (gauge, holder):
        gauge.release.set()
        assert await ends(holder) == ["completed"]
        names = cas._session.names
        subjects = LaneSubjects.of_key(names, "keyed", "c7")
        await until_async(lambda: _is_gone(cas, subjects.lane), what="the slot is free")
        await put_lane(cas, subjects, Lane().with_slot("holder", after=0))
        heir = await submit(cas, "keyed", {"customer": "c7"})
        await until_waiting(cas, "keyed", 1)
        # What its schedule says when its time has come.
        wake = msgspec.json.encode({"for": "look", "attempt": 0, "command_seq": heir.seq})
        await cas._session.js.append(names.due("keyed", heir.task_id, 0), wake)
        assert await ends(heir) == ["completed"]


async def _is_gone(cas: Client, subject: str) -> bool:
    return await cas._session.js.last_message(cas._session.names.checkpoints, subject) is None


# --- rates ---------------------------------------------------------------------------------------------------------------


async def test_a_rate_holds_for_the_starts_of_two_runners(cas: Client, make_runner) -> None:
    one, other = make_runner(lease_s=LEASE_S), make_runner(lease_s=LEASE_S)
    for runner in (one, other):
        runner.agent("rated", rate="20/s")(noop)
    async with running(cas, one), running(cas, other):
        began_s = time.time()
        tasks = [await submit(cas, "rated") for _ in range(30)]
        assert set(await ends(*tasks)) == {"completed"}
        await until_waiting(cas, "rated", 0)
    stories = [await lifecycle(cas, "rated", task.task_id) for task in tasks]
    assert {tuple(names_of(story)) for story in stories} == {("started", "completed")}
    starts_s = sorted(story[0].time.timestamp() - began_s for story in stories)
    # A start comes at its time or later, however slow the machine is: so the n-th of them never before n intervals.
    early = [(n, start_s) for n, start_s in enumerate(starts_s) if start_s < n / 20 - 0.03]
    assert early == []


async def test_a_cancelled_task_leaves_its_start_time_to_who_waits(cas: Client, make_runner) -> None:
    runner = make_runner(lease_s=LEASE_S)
    runner.agent("rated", rate="1/h")(noop)
    async with running(cas, runner):
        first = await submit(cas, "rated")
        assert await ends(first) == ["completed"]
        # Now the next hour's start is given out, and the third task waits without one.
        next_ = await submit(cas, "rated", priority="low")
        subjects = LaneSubjects.of_rate(cas._session.names, "rated")
        await until_async(lambda: _gave(cas, subjects, 2))
        late = await submit(cas, "rated", priority="low")
        await until_waiting(cas, "rated", 1)
        assert [await task.cancel(wait=True) for task in (late, next_)] == ["requested"] * 2
        await until_waiting(cas, "rated", 0)


async def _gave(cas: Client, subjects: LaneSubjects, hours: int) -> bool:
    found = await cas._session.js.last_message(cas._session.names.checkpoints, subjects.lane)
    ahead_s = 0.0 if found is None else decode_lane(found.data).free_at_ns / 1e9 - time.time()
    return ahead_s > (hours - 1) * 3_600


# --- classes among those that wait for a place ------------------------------------------------------------------------------


async def test_an_agents_concurrency_holds_for_two_runners(cas: Client, make_runner) -> None:
    gauge, one, other = Gauge(), make_runner(lease_s=LEASE_S), make_runner(lease_s=LEASE_S)
    for runner in (one, other):
        runner.agent("bound")(gauge.run)
    async with running(cas, one), running(cas, other):
        assert (await cas.set_agent("bound", concurrency=3))["concurrency"] == 3
        tasks = [await submit(cas, "bound") for _ in range(12)]
        await until(lambda: gauge.running["None"] == 3)
        gauge.release.set()
        assert set(await ends(*tasks)) == {"completed"}
    assert gauge.most["None"] == 3


async def test_a_high_task_overtakes_and_the_low_ones_go_on(cas: Client, make_runner) -> None:
    runner, started, release = make_runner(places=2), [], asyncio.Event()

    @runner.agent("classed", priorities=True)
    async def classed(_ctx: TaskContext, input: dict) -> dict:
        started.append(input["class"])
        await release.wait()
        return {}

    async def send(word: str, number: int) -> list[Task]:
        body = msgspec.json.encode({"input": {"class": word}, "priority": word})
        names = [f"{word}-{n}" for n in range(number)]
        await asyncio.gather(*(send_raw(cas, "classed", name, body) for name in names))
        return [await cas.task(name) for name in names]

    async with running(cas, runner):
        low = await send("low", 200)
        await until(lambda: len(started) == 2, what="all places are taken")
        high = await send("high", 20)
        await until_async(lambda: _are_woken(cas, "classed", 20), what="the high ones are seen")
        release.set()
        assert set(await ends(*low, *high)) == {"completed"}
    # All high ones start long before their turn by arrival, and low ones all the while.
    last_high = max(n for n, word in enumerate(started) if word == "high")
    assert len(started) == 220
    assert last_high < 150
    assert started[2:last_high].count("low") >= 1


async def _are_woken(cas: Client, agent_id: str, number: int) -> bool:
    names = cas._session.names
    return await cas._session.js.count(names.timers, names.due(agent_id, "*", "*")) == number


# --- the limit of a queue, and bad input ---------------------------------------------------------------------------------


async def test_a_full_queue_refuses_by_name_and_stores_nothing(cas: Client, make_runner) -> None:
    runner = make_runner(lease_s=LEASE_S)
    runner.agent("small", max_queued=2)(noop)
    async with running(cas, runner):
        assert await ends(await submit(cas, "small")) == ["completed"]
        await cas.pause_agent("small")
        tasks = [await submit(cas, "small") for _ in range(2)]
        with pytest.raises(QueueFullError, match=r"2 tasks of agent 'small' .* \(max_queued\) is 2") as full:
            await submit(cas, "small", task_id="refused")
        assert (full.value.agent_id, full.value.depth, full.value.limit) == ("small", 2, 2)
        names = cas._session.names
        refused = names.execute("small", "refused")
        assert await cas._session.js.last_message(names.commands, refused) is None
        await cas.resume_agent("small")
        assert await ends(*tasks) == ["completed", "completed"]


async def test_who_waits_before_a_lane_counts_as_queued(cas: Client, make_runner) -> None:
    runner, gauge = make_runner(lease_s=LEASE_S), Gauge()
    runner.agent("small", max_queued=1, concurrency_per_key=1)(gauge.run)
    async with running(cas, runner):
        tasks = [await submit(cas, "small", key="c7")]
        await until(lambda: len(gauge.started) == 1)
        tasks.append(await submit(cas, "small", key="c7"))
        await until_waiting(cas, "small", 1)
        with pytest.raises(QueueFullError):
            await submit(cas, "small", key="c7")
        gauge.release.set()
        assert await ends(*tasks) == ["completed", "completed"]


async def test_limits_are_published_with_the_registration(cas: Client, make_runner) -> None:
    runner = make_runner(lease_s=LEASE_S)
    limits = {"concurrency_per_key": 3, "key": "customer", "rate": "100/m", "max_queued": 50}
    runner.agent("told", **limits, priorities=True)(noop)
    async with running(cas, runner):
        [event] = [event async for event in cas.replay(agent="told", type="cas.agent.registered")]
    assert event.data["limits"] == {"max_attempts": 3, **limits, "priorities": True}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"concurrency_per_key": 0}, "concurrency_per_key"),
        ({"concurrency_per_key": -1}, "concurrency_per_key"),
        ({"concurrency_per_key": True}, "concurrency_per_key"),
        ({"concurrency_per_key": 1_001}, "concurrency_per_key"),
        ({"concurrency_per_key": 1, "key": ""}, "key"),
        ({"key": "customer"}, "key"),
        ({"rate": "0/s"}, "rate"),
        ({"rate": "-1/s"}, "rate"),
        ({"rate": "fast"}, "rate"),
        ({"rate": 10}, "rate"),
        ({"max_queued": -5}, "max_queued"),
        ({"max_queued": 1.5}, "max_queued"),
    ],
)
def test_options_out_of_range_are_refused_by_name(make_runner, options: dict[str, Any], field: str) -> None:
    runner = make_runner(lease_s=LEASE_S)
    with pytest.raises(ValueError, match=f"agent 'bad': {field} "):
        runner.agent("bad", **options)(noop)
    assert runner.agent_ids == ()


@pytest.mark.parametrize(
    ("options", "field"),
    [({"priority": "urgent"}, "priority"), ({"key": ""}, "key"), ({"key": "k" * 257}, "key")],
)
async def test_a_task_with_a_wrong_class_or_key_is_not_sent(
    cas: Client, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidCommandError) as wrong:
        await cas.submit_task("any", **options)
    assert wrong.value.field == field


async def test_the_command_line_names_class_and_key(
    cas: Client, make_runner, nats_url: str, deployment: str, tmp_path: Path
) -> None:
    command = Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})
    runner = make_runner(lease_s=LEASE_S)
    runner.agent("keyed", concurrency_per_key=1)(noop)
    said = (
        "run",
        "keyed",
        "--priority",
        "high",
        "--key",
        "c7",
        "--task-id",
        "t1",
        "--detach",
        "--wait-for-runner",
        "30",
    )
    async with running(cas, runner):
        assert (await asyncio.to_thread(command, *said)).code == 0
        names = cas._session.names
        stored = await cas._session.js.last_message(names.commands, names.execute("keyed", "t1"))
        assert msgspec.json.decode(stored.data) == {"input": {}, "priority": "high", "key": "c7"}
        wrong = await asyncio.to_thread(command, "run", "keyed", "--priority", "urgent")
    assert wrong.code != 0
    assert "--priority" in wrong.error
    assert "'urgent'" in wrong.error


async def test_a_raw_command_with_a_wrong_class_is_rejected(cas: Client, make_runner) -> None:
    runner = make_runner(lease_s=LEASE_S)
    runner.agent("keyed", concurrency_per_key=1)(noop)
    async with running(cas, runner):
        await send_raw(cas, "keyed", "bad", b'{"priority": "urgent"}')
        result = await asyncio.wait_for((await cas.task("bad")).result(), promised(10.0))
    assert (result.status, result.reason) == ("rejected", "bad_body")


def test_a_waiting_task_that_cannot_be_read_waits_for_its_first_start() -> None:
    assert decode_waiter(b"\xff[") == Waiter()
