"""Recurring schedules: one task for each due time, whatever dies, stops or writes nonsense (promises 1, 4 and 9).

Goal: the log and the server keep a schedule, and any runner carries it out. What is due every second is waited for, and
never counted against a clock; what must not be due within a test is due once a year.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from cas_events import Client, Runner
from cas_events.domain.cron import parse_cron
from cas_events.errors import (
    InvalidCommandError,
    InvalidNameError,
    InvalidScheduleError,
    NotJsonError,
    ScheduleExistsError,
    UnknownAgentError,
    UnknownScheduleError,
)
from cas_events.jetstream.patience import patiently
from cas_events.queue_depth import queue_depth
from tests.harness.own_runner import noop, running
from tests.harness.wait import until, until_async

YEARLY = "0 0 1 1 *"


@pytest.fixture
def serve(make_runner) -> Callable[[], Runner]:
    def make() -> Runner:
        runner = make_runner()
        runner.agent("noop")(noop)
        return runner

    return make


@pytest.fixture
async def known(cas: Client, serve) -> None:
    """The agent is in the log, and nobody serves it."""
    async with running(cas, serve()):
        pass


async def long_since_due(cas: Client, name: str) -> datetime:
    """Let a yearly schedule have been made years ago; one of its due times since."""
    await cas.update_agent_state("cron", {"since": "2020-01-01T00:00:00Z"}, name)
    return datetime(2026, 1, 1, tzinfo=UTC)


async def body_of(cas: Client, name: str, due: datetime) -> bytes:
    """What the server fires for a schedule."""
    state = await cas.get_agent_state("cron", name)
    return json.dumps({"schedule": state.state["id"], "due": due.isoformat()}).encode()


async def commands(cas: Client, name: str) -> dict[str, dict[str, Any]]:
    """The execute commands that a schedule has stored, by task id."""
    names, js = cas._session.names, cas._session.js
    page, _ = await js.direct_batch(names.commands, names.execute("*", "*"))
    found = {message.subject.rpartition(".")[2]: json.loads(message.data) for message in page}
    return {task: body for task, body in found.items() if body.get("metadata", {}).get("schedule") == name}


async def due_message(cas: Client, name: str) -> Any:
    return await cas._session.js.last_message(cas._session.names.timers, cas._session.names.cron_due(name))


async def next_due(cas: Client, name: str) -> datetime | None:
    return {schedule.name: schedule.next_due for schedule in await cas.list_schedules()}[name]


async def put(cas: Client, subject: str, body: bytes) -> None:
    """Store a message on a due subject, as anybody may, and wait until a runner has dealt with it."""
    js, names = cas._session.js, cas._session.names
    seq = (await js.append(subject, body)).seq

    async def is_gone() -> bool:
        return await js.message(names.timers, seq) is None

    await until_async(is_gone, what=f"somebody to take {body!r}")


# --- firing ----------------------------------------------------------------------------------------------------------------


async def test_each_due_time_starts_one_task_however_many_runners_there_are(cas: Client, serve) -> None:
    async with AsyncExitStack() as runners:
        for _ in range(3):
            await runners.enter_async_context(running(cas, serve()))
        await cas.create_schedule(
            "tick", "noop", {"x": 1}, "* * * * * *", metadata={"who": "us"}, priority="high"
        )

        async def has_ticked() -> bool:
            return len(await commands(cas, "tick")) >= 2

        await until_async(has_ticked, timeout_s=20.0, what="two runs")
        await cas.cancel_schedule("tick")
        found = await commands(cas, "tick")
        for task_id in found:
            assert (await (await cas.task(task_id)).result()).status == "completed"

    due = [datetime.fromisoformat(body["metadata"].pop("due")) for body in found.values()]
    assert len(set(due)) == len(found), "a due time has two tasks"
    assert all(moment.microsecond == 0 for moment in due)
    assert all(
        body == {"input": {"x": 1}, "metadata": {"who": "us", "schedule": "tick"}, "priority": "high"}
        for body in found.values()
    )


async def test_a_due_time_that_comes_twice_starts_one_task(cas: Client, serve) -> None:
    """As the server does after kill -9, and JetStream whenever an acknowledgement is lost."""
    js, names = cas._session.js, cas._session.names
    async with running(cas, serve()):
        made = await cas.create_schedule("twice", "noop", {"text": "x" * 300_000}, YEARLY)
        due = await long_since_due(cas, "twice")
        body, subject = await body_of(cas, "twice", due), names.cron_due("twice")
        await put(cas, subject, body)
        [task_id] = await commands(cas, "twice")
        assert (await (await cas.task(task_id)).result()).status == "completed"
        await put(cas, subject, body)
        # Its runner died when it had stored the execute, and not the next timer.
        await js.call(f"STREAM.PURGE.{names.timers}", {"filter": names.schedule("twice")})
        await put(cas, subject, body)
        assert list(await commands(cas, "twice")) == [task_id]
        assert await next_due(cas, "twice") == made.next_due

        await cas.cancel_schedule("twice")
        await put(cas, subject, body)
    assert list(await commands(cas, "twice")) == [task_id]


async def test_runs_that_were_missed_are_made_up_for_once_or_skipped(
    cas: Client, known, serve, nats_server
) -> None:
    """The server is killed before they are due, and no runner is there until more than one has been missed."""
    await until(lambda: datetime.now(UTC).microsecond < 300_000, what="the first part of a second")
    first = (await cas.create_schedule("made-up", "noop", {}, "* * * * * *")).next_due
    skip = await cas.create_schedule("skipped", "noop", {}, "* * * * * *", missed="skip", missed_after_s=1)
    await asyncio.to_thread(nats_server.kill)
    assert first is not None
    assert skip.next_due is not None
    late = skip.next_due + timedelta(seconds=1.5)
    await until(lambda: datetime.now(UTC) > late, what="more to be missed")
    await asyncio.to_thread(nats_server.start)
    await patiently(cas.last_seq)  # The client is back.

    async def is_waiting() -> bool:
        return bool(await due_message(cas, "made-up")) and bool(await due_message(cas, "skipped"))

    await until_async(is_waiting, what="both to be due")
    back = datetime.now(UTC)
    async with running(cas, serve()):

        async def are_both_at_it_again() -> bool:
            return bool(await commands(cas, "skipped")) and len(await commands(cas, "made-up")) >= 2

        await until_async(are_both_at_it_again, timeout_s=20.0, what="the next runs")
        for name in ("made-up", "skipped"):
            await cas.cancel_schedule(name)

    made_up = due_of(await commands(cas, "made-up"))
    assert made_up[0] == first, "the oldest one stands for all that were missed"
    assert all(due > back for due in made_up[1:])
    assert all(due > back for due in due_of(await commands(cas, "skipped")))


def due_of(found: dict[str, dict[str, Any]]) -> list[datetime]:
    return sorted(datetime.fromisoformat(body["metadata"]["due"]) for body in found.values())


async def test_a_run_is_left_out_while_the_queue_of_its_agent_is_full(cas: Client, make_runner) -> None:
    runner = make_runner()
    runner.agent("noop", max_queued=1)(noop)
    async with running(cas, runner):
        await cas.create_schedule("full", "noop", {}, YEARLY)
        body = await body_of(cas, "full", await long_since_due(cas, "full"))
        await cas.pause_agent("noop")
        task = await cas.submit_task("noop")
        session = cas._session

        async def is_full() -> bool:
            return await queue_depth(session.js, session.names, "noop") >= 1

        await until_async(is_full, what="the task to wait")
        await put(cas, session.names.cron_due("full"), body)
        assert await commands(cas, "full") == {}
        await cas.resume_agent("noop")
        await task.result()
        await put(cas, session.names.cron_due("full"), body)

    assert len(await commands(cas, "full")) == 1


# --- pausing, resuming, cancelling, listing ----------------------------------------------------------------------------------


async def test_a_schedule_is_listed_paused_resumed_and_cancelled(cas: Client, known) -> None:
    made = await cas.create_schedule("yearly", "noop", {}, YEARLY, "America/New_York", requested_by="Ada")
    rule = parse_cron(YEARLY)
    assert made.next_due == rule.next_after(made.created_at, ZoneInfo("America/New_York"))
    assert (made.created_by, made.missed, made.revision) == ("Ada", "fire_once", 1)
    assert await cas.list_schedules() == [made]

    assert await cas.pause_schedule("yearly", requested_by="Ben") == "paused"
    assert await cas.pause_schedule("yearly") == "already_paused"
    [paused] = await cas.list_schedules()
    assert (paused.is_paused, paused.next_due, paused.changed_by) == (True, None, "Ben")
    timers, names = cas._session.names.timers, cas._session.names
    assert await cas._session.js.last_message(timers, names.schedule("yearly")) is None

    assert await cas.resume_schedule("yearly") == "resumed"
    assert await cas.resume_schedule("yearly") == "not_paused"
    assert await next_due(cas, "yearly") == made.next_due

    await cas.cancel_schedule("yearly", requested_by="Eve")
    assert await cas.list_schedules() == []
    assert await cas._session.js.last_message(timers, names.schedule("yearly")) is None
    told = [state async for state in cas.agent_state_history("cron", "yearly")]
    assert [state.state.get("changed_by") for state in told] == ["Ada", "Ben", "", None]
    assert told[-1].state["cancelled_by"] == "Eve"


async def test_a_name_is_taken_until_its_schedule_is_cancelled(cas: Client, known) -> None:
    made = await cas.create_schedule("daily", "noop", {"a": 1}, "@yearly")

    assert await cas.create_schedule("daily", "noop", {"a": 1}, "@yearly", requested_by="again") == made
    with pytest.raises(ScheduleExistsError, match="'daily'"):
        await cas.create_schedule("daily", "noop", {"a": 2}, "@yearly")
    assert await cas.list_schedules() == [made]

    await cas.cancel_schedule("daily")
    again = await cas.create_schedule("daily", "noop", {"a": 2}, "@yearly")
    assert (again.input, again.revision) == ({"a": 2}, made.revision + 2)


async def test_of_many_who_make_a_schedule_at_once_one_wins_and_it_has_a_timer(cas: Client, known) -> None:
    answers = await asyncio.gather(
        *(cas.create_schedule("race", "noop", {"i": i % 2}, YEARLY) for i in range(8)), return_exceptions=True
    )

    made = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert all(isinstance(answer, ScheduleExistsError) for answer in answers if answer not in made)
    assert len(made) == 4, "those who want the same have it"
    assert await cas.list_schedules() == made[:1]


async def test_what_is_due_while_a_schedule_is_paused_is_not_started(cas: Client, known, serve) -> None:
    due = (await cas.create_schedule("paused", "noop", {}, "* * * * * *")).next_due
    assert due is not None
    await cas.pause_schedule("paused")
    body, subject = await body_of(cas, "paused", due), cas._session.names.cron_due("paused")
    await until(lambda: datetime.now(UTC) > due, what="the due time")

    async with running(cas, serve()):
        await put(cas, subject, body)
        assert await commands(cas, "paused") == {}
        await cas.resume_schedule("paused")
        await put(cas, subject, body)
        found = await until_async(lambda: commands(cas, "paused"), what="a run after the pause")
        await cas.cancel_schedule("paused")

    assert due not in due_of(found)


async def test_a_schedule_that_lost_its_timer_is_given_one_by_the_next_runner(
    cas: Client, known, serve
) -> None:
    made = await cas.create_schedule("lost", "noop", {}, YEARLY)
    js, names = cas._session.js, cas._session.names
    await js.call(f"STREAM.PURGE.{names.timers}", {"filter": names.schedule("lost")})
    assert await next_due(cas, "lost") is None

    async with running(cas, serve()):

        async def is_back() -> bool:
            return await next_due(cas, "lost") == made.next_due

        await until_async(is_back, what="the timer")


# --- bad input -----------------------------------------------------------------------------------------------------------------


NO_SCHEDULES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"name": "no token"}, InvalidNameError, "schedule"),
    ({"name": ""}, InvalidNameError, "schedule"),
    ({"name": "x" * 65}, InvalidNameError, "schedule"),
    ({"agent_id": "a.b"}, InvalidNameError, "agent"),
    ({"agent_id": "nobody"}, UnknownAgentError, "nobody"),
    ({"cron": "every day"}, InvalidScheduleError, "cron"),
    ({"cron": "61 * * * *"}, InvalidScheduleError, "minute"),
    ({"cron": "0 0 30 2 *"}, InvalidScheduleError, "never due"),
    ({"cron": None}, InvalidScheduleError, "cron"),
    ({"time_zone": "Europe/Nowhere"}, InvalidScheduleError, "time_zone"),
    ({"time_zone": "../etc/passwd"}, InvalidScheduleError, "time_zone"),
    ({"time_zone": "Europe"}, InvalidScheduleError, "time_zone"),
    ({"time_zone": ""}, InvalidScheduleError, "time_zone"),
    ({"time_zone": None}, InvalidScheduleError, "time_zone"),
    ({"missed": "twice"}, InvalidScheduleError, "missed"),
    ({"missed": []}, InvalidScheduleError, "missed"),
    ({"missed_after_s": -1}, InvalidScheduleError, "missed_after_s"),
    ({"missed_after_s": float("nan")}, InvalidScheduleError, "missed_after_s"),
    ({"input": {"x": float("inf")}}, NotJsonError, "input.x"),
    ({"metadata": {"x": object()}}, NotJsonError, "metadata.x"),
    ({"timeout_s": -1}, InvalidCommandError, "timeout_s"),
    ({"max_attempts": 0}, InvalidCommandError, "max_attempts"),
    ({"priority": "urgent"}, InvalidCommandError, "priority"),
    ({"not_before": 5}, TypeError, "not_before"),
]


async def test_what_is_no_schedule_is_refused_by_name_and_changes_nothing(cas: Client, known) -> None:
    before = await _last_seqs(cas)

    for said, error, named in NO_SCHEDULES:
        arguments = {"name": "bad", "agent_id": "noop", "input": {}, "cron": "@daily", **said}
        with pytest.raises(error) as caught:
            await cas.create_schedule(**arguments)
        assert named in str(caught.value)

    assert await _last_seqs(cas) == before
    assert await cas.list_schedules() == []


async def _last_seqs(cas: Client) -> list[int]:
    """Of what a schedule could have been stored in; the states, and not the rest of the log, which others write too."""
    js, names = cas._session.js, cas._session.names
    states = await js.direct_last(names.events, [names.state("cron", "*")])
    return [(await js.stream_info(names.timers)).state.last_seq, *(state.seq for state in states)]


async def test_what_is_not_there_cannot_be_changed(cas: Client) -> None:
    for change in (cas.pause_schedule, cas.resume_schedule, cas.cancel_schedule):
        with pytest.raises(UnknownScheduleError, match="'nothing'"):
            await change("nothing")
        with pytest.raises(InvalidNameError, match="schedule"):
            await change("no token")


async def test_due_messages_that_are_none_stop_no_runner(cas: Client, serve) -> None:
    names = cas._session.names
    async with running(cas, serve()):
        await cas.create_schedule("real", "noop", {}, YEARLY)
        timer = await cas._session.js.last_message(names.timers, names.schedule("real"))
        assert timer is not None
        real = json.loads(timer.data)
        now = datetime.now(UTC) + timedelta(seconds=1)
        bodies = [
            b"",
            b"\xff{",
            b"[]",
            b"{" * 100_000,
            b'{"schedule": 5}',
            json.dumps({**real, "due": "tomorrow"}).encode(),
            json.dumps({**real, "due": "2026-11-22T09:00:00"}).encode(),
            json.dumps(real).encode(),  # not due yet
            json.dumps({**real, "due": now.replace(microsecond=0).isoformat()}).encode(),  # never due
        ]
        for body in bodies:
            await put(cas, names.cron_due("real"), body)
        await put(cas, names.cron_due("unknown"), b"{}")
        await put(cas, names.cron_due("real"), json.dumps({**real, "schedule": "another"}).encode())
        result = await cas.execute_task("noop")

    assert result.status == "completed"
    assert await commands(cas, "real") == {}
    ignored = [event async for event in cas.replay(agent="noop", type="cas.agent.command_ignored")]
    assert {event.data["subject"] for event in ignored} == {names.cron_due("real")}
    assert len({event.data["raw"] for event in ignored}) == len(bodies)
    assert await next_due(cas, "real") == datetime.fromisoformat(real["due"])


async def test_a_state_that_is_no_schedule_is_none(cas: Client, serve) -> None:
    """Anybody may write to the subject: it is passed over, and mended by making or cancelling nothing."""
    async with running(cas, serve()):
        made = await cas.create_schedule("good", "noop", {}, YEARLY)
        names, js = cas._session.names, cas._session.js
        await js.append(names.state("cron", "junk"), b"junk")
        await js.append(names.state("cron", "good"), b"junk")
        await put(cas, names.cron_due("junk"), b"{}")

        assert (await cas.execute_task("noop")).status == "completed"
    assert await cas.pause_schedule("good") == "paused", "the newest state that is one counts"
    assert made.revision == 1


def test_no_agent_has_the_name_of_schedules(make_runner) -> None:
    with pytest.raises(ValueError, match="'cron'"):
        make_runner().agent("cron")(noop)
