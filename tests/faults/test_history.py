"""The checker itself: a good history passes every function, and each function refuses the histories that it must.

A check that cannot fail proves nothing, so every one is shown at least one bad history here.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from cas_events.domain.events import Event
from cas_events.jetstream.topology import ensure_streams
from cas_events.wire.subjects import Names
from tests.harness import history as promises
from tests.harness.history import Command, History, Recorded

A, B, C = ("cas/runner/a", "cas/runner/b", "cas/runner/c")
LIFECYCLE = {"started", "retrying", "interrupted", "resumed", "completed", "failed", "cancelled", "rejected"}


def command(
    seq: int = 1, kind: str = "execute", agent: str = "x", task: str = "t", data: bytes = b"{}"
) -> Command:
    subject = f"cas.cmd.cancel.{task}" if kind == "cancel" else f"cas.cmd.{kind}.{agent}.{task}"
    return Command(seq, subject, kind, "" if kind == "cancel" else agent, task, data, time_ns=seq)


def event(
    type_: str,
    attempt: int,
    index: int,
    *,
    source: str = A,
    tries: int = 1,
    at: int = 0,
    agent: str = "x",
    **data: Any,
) -> Recorded:
    """One stored event; ``at`` is its sequence, and its time 100 later."""
    is_lifecycle = type_ in LIFECYCLE
    class_ = "task" if is_lifecycle else type_
    if is_lifecycle:
        data = {"tries": tries, "command_seq": 1, "runner": source.rpartition("/")[2], **data}
    made = Event(
        type=f"cas.{'task.' if is_lifecycle else ''}{type_}",
        task_id="t",
        agent_id=agent,
        attempt=attempt,
        index=index,
        time=datetime.now(UTC),
        data=data,
        seq=at,
        stream="CAS_EVENTS",
        source=source,
    )
    return Recorded(made, class_, f"{type_} {attempt} {index} {source}".encode(), time_ns=100 + at)


def history(*events: Recorded, commands: tuple[Command, ...] = (command(),)) -> History:
    """A history with the events in this order."""
    stored = [r if r.event.seq else at_(r, seq) for seq, r in enumerate(events, start=1)]
    return History(commands=list(commands), events=stored)


def at_(recorded: Recorded, seq: int) -> Recorded:
    return Recorded(
        msgspec.structs.replace(recorded.event, seq=seq), recorded.class_, recorded.raw, time_ns=100 + seq
    )


def large(length: int) -> Recorded:
    """An output that carries its value itself."""
    raw = json.dumps({"data": {"kind": "partial", "value": "x" * length}}).encode()
    return Recorded(event("output", 1, 1).event, "output", raw, time_ns=101)


HANDOVER = {"error": {"type": "handover"}}
FAULT = {"error": {"type": "ValueError"}}
CANCEL = command(2, "cancel")

GOOD = {
    "plain": history(event("started", 1, 0), event("log", 1, 1), event("completed", 1, 2)),
    "crash": history(
        event("started", 1, 0), event("log", 1, 1), event("started", 2, 0, source=B, tries=2),
        event("log", 1, 2), event("completed", 2, 1, source=B, tries=2),
    ),
    "resent": history(
        event("started", 1, 0), event("log", 1, 1), event("completed", 1, 2), event("log", 1, 1)
    ),
    "retry": history(
        event("started", 1, 0), event("retrying", 1, 1, **FAULT), event("started", 2, 0, source=B, tries=2),
        event("failed", 2, 1, source=B, tries=2),
    ),
    "handover": history(
        event("started", 1, 0), event("retrying", 1, 1, **HANDOVER), event("started", 2, 0, source=B),
        event("completed", 2, 1, source=B),
    ),
    "interrupt": history(
        event("started", 1, 0), event("interrupted", 1, 1), event("resumed", 2, 0, source=B, command_seq=2),
        event("started", 2, 1, source=C, command_seq=2), event("completed", 2, 2, source=C, command_seq=2),
        commands=(command(), command(2, "resume")),
    ),
    "cancelled over the owner": history(
        event("started", 1, 0), event("cancelled", 2, 0, source=B), commands=(command(), CANCEL)
    ),
    "cancelled before": history(event("cancelled", 1, 0, tries=0), commands=(command(), CANCEL)),
    "rejected": history(
        event("rejected", 1, 0, tries=0, reason="bad_body", raw="WzFd"), commands=(command(data=b"[1]"),)
    ),
    "repeated id": history(
        event("started", 1, 0), event("rejected", 0, 2, agent="y", tries=0, command_seq=2, reason="duplicate_task", raw="e30="),
        event("completed", 1, 1), commands=(command(), command(2, agent="y")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_passes(name: str) -> None:
    assert promises.check(GOOD[name], [("cas.cmd.execute.x.t", 1)]) == []


def test_a_flood_within_its_rates_passes() -> None:
    """A second is a hundred events of progress; what is stored twice counts once."""
    last = event("progress", 1, 200, at=1_000_000_000)
    few = [event("progress", 1, n) for n in range(1, 100)]
    assert promises.floods_are_bounded(history(START, *few, *few, last)) == []
    assert promises.large_values_are_elsewhere(history(START, large(256 * 1024 - 2))) == []


DONE = event("completed", 1, 1)
START = event("started", 1, 0)
BAD = [
    (promises.streams_are_whole, History(missing=["CAS_EVENTS: 1 of 2"])),
    (promises.every_task_ends, history(START)),
    (promises.every_task_ends, history()),
    (promises.every_task_ends, history(START, DONE, event("failed", 1, 2))),
    (promises.repeated_ids_are_refused, history(START, DONE, commands=(command(), command(2, agent="y")))),
    (promises.lifecycles_are_strict, history(DONE)),
    (promises.lifecycles_are_strict, history(START, DONE, event("started", 2, 0))),
    (promises.lifecycles_are_strict, history(START, event("resumed", 2, 0))),
    (promises.lifecycles_are_strict, history(event("started", 2, 0))),
    (promises.lifecycles_are_strict, history(event("started", 1, 1))),
    (promises.lifecycles_are_strict, history(START, event("started", 3, 0))),
    (promises.lifecycles_are_strict, history(START, event("started", 1, 1))),
    (promises.lifecycles_are_strict, history(START, event("completed", 1, 0))),
    (promises.lifecycles_are_strict, history(START, event("retrying", 1, 1), event("completed", 1, 2))),
    (promises.indexes_are_unique, history(START, event("log", 1, 1, source=A), event("log", 1, 1, source=B))),
    (promises.indexes_are_unique, history(START, event("log", 1, 1), event("completed", 1, 1))),
    (promises.indexes_are_unique, history(START, START)),
    (promises.events_name_their_command, history(event("started", 1, 0, command_seq=7))),
    (
        promises.events_name_their_command,
        history(event("started", 1, 0, command_seq=2), commands=(command(), CANCEL)),
    ),
    (promises.fenced_writers_are_silent, history(START, event("completed", 1, 1, source=B))),
    (
        promises.fenced_writers_are_silent,
        history(START, event("started", 2, 0, source=B), event("completed", 2, 1, source=A)),
    ),
    (
        promises.fenced_writers_are_silent,
        history(START, event("started", 2, 0, source=B), event("completed", 1, 1, source=A)),
    ),
    (promises.fenced_writers_are_silent, history(event("started", 1, 0, runner="somebody"))),
    (promises.telemetry_belongs_to_its_attempt, history(START, event("log", 2, 1))),
    (promises.telemetry_belongs_to_its_attempt, history(START, event("log", 1, 1, source=B))),
    (promises.telemetry_belongs_to_its_attempt, history(event("log", 1, 1), START)),
    (promises.telemetry_precedes_the_end, history(START, event("completed", 1, 2), event("log", 1, 1))),
    (promises.telemetry_precedes_the_end, history(START, event("log", 1, 2), event("completed", 1, 1))),
    (promises.tries_are_counted, history(event("started", 1, 0, tries=2))),
    (promises.tries_are_counted, history(START, event("started", 2, 0))),
    (promises.tries_are_counted, history(START, event("completed", 1, 1, tries=2))),
    (
        promises.tries_are_counted,
        history(START, event("retrying", 1, 1, **HANDOVER), event("started", 2, 0, tries=2)),
    ),
    (promises.tries_are_bounded, history(event("started", 1, 0, tries=4))),
    (
        promises.tries_are_bounded,
        history(event("started", 1, 0, tries=2), commands=(command(data=b'{"max_attempts":1}'),)),
    ),
    (promises.cancels_are_final, history(START, commands=(command(), CANCEL))),
    (promises.cancels_are_final, history(START, event("cancelled", 1, 1))),
    (
        promises.cancels_are_final,
        history(START, event("started", 2, 0), event("cancelled", 2, 1), commands=(command(), CANCEL)),
    ),
    (promises.bad_commands_are_rejected, history(START, DONE, commands=(command(data=b"[1]"),))),
    (
        promises.bad_commands_are_rejected,
        history(event("rejected", 1, 0, reason="bad_body", raw="e30="), commands=(command(data=b"[1]"),)),
    ),
    (promises.bad_commands_are_rejected, history(event("rejected", 1, 0))),
    (promises.floods_are_bounded, history(START, *(event("progress", 1, n) for n in range(1, 14)))),
    (promises.floods_are_bounded, history(START, *(event("log", 1, n) for n in range(1, 1_004)))),
    (promises.large_values_are_elsewhere, history(START, large(400 * 1024))),
]


@pytest.mark.parametrize(("function", "bad"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_history_is_refused(function, bad: History) -> None:
    assert function(bad)


def test_every_function_is_shown_a_bad_history() -> None:
    assert {function for function, _ in BAD} == set(promises.CHECKS.values())


def test_a_lost_command_is_noticed() -> None:
    stored = GOOD["plain"]
    assert promises.acknowledged_are_stored(stored, [("cas.cmd.execute.x.t", 2)])
    assert promises.acknowledged_are_stored(stored, [("cas.cmd.execute.x.other", 1)])


FOLLOWED = GOOD["crash"]
SEEN = [recorded.event for recorded in sorted(FOLLOWED.events, key=lambda r: r.key)]


def test_a_follower_may_lack_only_an_overtaken_tail() -> None:
    without_tail = [seen for seen in SEEN if (seen.attempt, seen.index) != (1, 2)]
    assert promises.follower_saw_everything(FOLLOWED, "t", SEEN) == []
    assert promises.follower_saw_everything(FOLLOWED, "t", without_tail) == []


@pytest.mark.parametrize(
    "seen",
    [
        SEEN[:-1],
        SEEN[1:],
        [SEEN[0], *SEEN[2:]],
        [*SEEN, SEEN[-1]],
        [SEEN[1], SEEN[0], *SEEN[2:]],
        [*SEEN, event("log", 9, 9).event],
    ],
    ids=["no end", "no start", "a hole", "twice", "out of order", "invented"],
)
def test_a_follower_that_missed_something_is_noticed(seen: list[Event]) -> None:
    assert promises.follower_saw_everything(FOLLOWED, "t", seen)


def test_an_unfinished_task_is_named() -> None:
    assert promises.unfinished(history(START)) == ["t"]
    assert promises.unfinished(GOOD["plain"]) == []


async def test_a_history_is_read_from_the_streams(connection, js, deployment: str) -> None:
    names = Names(deployment)
    await ensure_streams(js, deployment)
    ack = await js.append(names.execute("x", "t"), b"{}")
    started = {
        "specversion": "1.0", "id": "t.1.0", "source": A, "type": "cas.task.started", "subject": "t",
        "time": "2026-11-22T09:00:00Z", "agentid": "x", "attempt": 1, "index": 0, "data": {"tries": 1},
    }  # fmt: skip
    await js.append(names.lifecycle("x", "t"), json.dumps(started).encode())
    await js.append(names.lifecycle("x", "t"), b"nonsense")

    read = await promises.read_history(connection, deployment)

    assert [(stored.seq, stored.subject) for stored in read.commands] == [(ack.seq, names.execute("x", "t"))]
    assert [r.event.type for r in read.events] == ["cas.task.started"]
    assert len(read.foreign) == 1
    assert read.missing == []
    assert promises.unfinished(read) == ["t"]
