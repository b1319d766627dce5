"""What becomes of a command: promises 1, 5 and 9."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from tests.harness.history.records import STARTED, TERMINAL, Complaints, History, body_of, is_of

# --- promise 1: nothing acknowledged is lost; one terminal event


def streams_are_whole(history: History) -> Complaints:
    """No sequence is missing, and every message is where it belongs."""
    return list(history.missing)


def acknowledged_are_stored(history: History, acknowledged: Iterable[tuple[str, int]]) -> Complaints:
    """Every command (subject, sequence) that the server acknowledged is in the stream, at that sequence."""
    stored = {command.seq: command.subject for command in history.commands}
    return [
        f"acknowledged and lost: {subject} at {seq}, where {stored.get(seq)} is"
        for subject, seq in acknowledged
        if stored.get(seq) != subject
    ]


def every_task_ends(history: History) -> Complaints:
    """Every executed task has exactly one terminal event. True only of a deployment at rest."""
    complaints = []
    for task, command in history.executes.items():
        ends = [r.event.type for r in history.lifecycle_of(task) if r.event.type in TERMINAL]
        if len(ends) != 1:
            complaints.append(f"{command.agent}/{task} has {len(ends)} terminal events: {ends}")
    return complaints


def repeated_ids_are_refused(history: History) -> Complaints:
    """The second agent that is given a task id refuses it, and runs nothing under it."""
    complaints = []
    refused = {(r.event.agent_id, r.event.task_id) for r in history.events if r.event.is_duplicate_rejection}
    for command in history.commands:
        if command.kind != "execute" or history.executes[command.task] is command:
            continue
        if (command.agent, command.task) not in refused:
            complaints.append(f"{command.subject} repeats an id and was not rejected")
        ran = [r.name for r in history.events if r.class_ != "task" and is_of(r, command)]
        complaints += [f"{command.subject} repeats an id and ran: {name}" for name in ran]
    return complaints


# --- promise 5: cancel is final


def cancels_are_final(history: History) -> Complaints:
    """A task with a stored cancel ends, and is cancelled unless it ended otherwise first. True only at rest."""
    complaints = []
    asked = {command.task: command for command in history.commands if command.kind == "cancel"}
    for task in asked.keys() & history.executes.keys():
        lifecycle = history.lifecycle_of(task)
        if not lifecycle or lifecycle[-1].event.type not in TERMINAL:
            complaints.append(f"{task} has a cancel and no end")
        after = [r for r in lifecycle if r.time_ns > asked[task].time_ns and r.event.type == STARTED]
        # A claim reads the cancel before or beside its append: one may cross it, a second one ignored it.
        complaints += [f"{r.name} was opened in spite of a cancel" for r in after[1:]]
    cancelled = [
        r
        for lifecycle in history.lifecycles.values()
        for r in lifecycle
        if r.event.type == "cas.task.cancelled"
    ]
    complaints += [f"{r.name} that nobody asked for" for r in cancelled if r.event.task_id not in asked]
    return complaints


# --- promise 9: bad input


def bad_commands_are_rejected(history: History) -> Complaints:
    """An execute that is no JSON object is rejected or was cancelled before; each rejection shows the raw bytes."""
    complaints = []
    for task, command in history.executes.items():
        lifecycle = history.lifecycle_of(task)
        if lifecycle and body_of(command.data) is None:
            end = lifecycle[-1].event.type
            if end != "cas.task.rejected" and not (end == "cas.task.cancelled" and task in history.cancelled):
                complaints.append(f"{command.subject} is no command, and became {end}")
        for recorded in lifecycle:
            data = recorded.event.data
            if recorded.event.type != "cas.task.rejected":
                continue
            if not data.get("reason") or base64.b64decode(data.get("raw", "")) not in {command.data, b""}:
                complaints.append(f"{recorded.name} lacks the reason or the raw bytes")
    return complaints
