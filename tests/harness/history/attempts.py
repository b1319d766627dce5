"""The lifecycle of a task: promises 2, 3 and 4."""

from __future__ import annotations

from collections.abc import Mapping

from tests.harness.history.records import (
    DEFAULT_MAX_ATTEMPTS,
    FOLLOWS,
    RESUMED,
    RETRYING,
    STARTED,
    TERMINAL,
    Complaints,
    History,
    Recorded,
    body_of,
    is_of,
    steps,
)

# --- promise 2: one strict sequence


def lifecycles_are_strict(history: History) -> Complaints:
    """Types follow each other as the table says, attempts rise by one, indexes rise, nothing follows an end."""
    complaints = []
    for before, after in steps(history):
        last = before.event.type if before else None
        if last in TERMINAL:
            complaints.append(f"{after.name} follows an end")
        elif after.event.type not in FOLLOWS[last]:
            complaints.append(f"{after.name} follows {last}")
        elif not _key_follows(before, after):
            complaints.append(f"{after.name} follows {before.key if before else 'nothing'}")
    return complaints


def _key_follows(before: Recorded | None, after: Recorded) -> bool:
    attempt, index = before.key if before else (0, 0)
    opens = after.key == (attempt + 1, 0)
    if before is None or after.event.type == RESUMED:
        return opens
    if after.event.type == STARTED:
        return after.key == (attempt, index + 1) if before.event.type == RESUMED else opens
    return opens or (after.event.attempt == attempt and after.event.index > index)


def indexes_are_unique(history: History) -> Complaints:
    """(agent, task, attempt, index) names one event; a repetition has the same bytes."""
    seen: dict[tuple[str, str, int, int], Recorded] = {}
    complaints = []
    for recorded in history.events:
        key = (recorded.event.agent_id, recorded.event.task_id, *recorded.key)
        first = seen.setdefault(key, recorded)
        if first.raw != recorded.raw:
            complaints.append(f"{recorded.name} has the key of {first.name}")
        elif recorded.class_ == "task" and first is not recorded:
            complaints.append(f"{recorded.name} is stored twice")
    return complaints


def events_name_their_command(history: History) -> Complaints:
    """`command_seq` of every lifecycle event is a stored execute or resume of that task."""
    commands = {command.seq: command for command in history.commands}
    complaints = []
    for recorded in history.events:
        if recorded.class_ == "task":
            command = commands.get(recorded.event.data.get("command_seq", 0))
            if command is None or command.kind == "cancel" or not is_of(recorded, command):
                complaints.append(f"{recorded.name} names {command.subject if command else 'no command'}")
    return complaints


# --- promise 3: who lost a task adds nothing to it


def fenced_writers_are_silent(history: History) -> Complaints:
    """Within an attempt only the writer of its `started` appends; anybody else opens the next attempt."""
    complaints = []
    for lifecycle in history.lifecycles.values():
        holder, open_attempt = "", 0
        for recorded in lifecycle:
            event = recorded.event
            if event.type == STARTED:
                holder, open_attempt = event.source, event.attempt
                if event.source != f"cas/runner/{event.data.get('runner')}":
                    complaints.append(
                        f"{recorded.name} names runner {event.data.get('runner')}, not {event.source}"
                    )
            elif event.attempt <= open_attempt and event.source != holder:
                complaints.append(f"{recorded.name} by {event.source} in an attempt of {holder}")
    return complaints


# --- promise 4: at most max_attempts tries


def tries_are_counted(history: History) -> Complaints:
    """`tries` rises with a crash and with an error's retry, not with a hand-over; an answer starts it anew."""
    complaints = []
    for before, after in steps(history):
        tries, due = after.event.data.get("tries"), _tries_due(before, after)
        if tries != due and after.event.type != "cas.task.rejected":
            complaints.append(f"{after.name} has tries {tries}, not {due}")
    return complaints


def _tries_due(before: Recorded | None, after: Recorded) -> int:
    if after.event.type == RESUMED or (before is not None and before.event.type == RESUMED):
        return 1
    if before is None:
        return int(after.event.type == STARTED)
    tries = int(before.event.data["tries"])
    if after.event.type != STARTED:
        return tries
    is_handover = before.event.type == RETRYING and before.event.data["error"]["type"] == "handover"
    return tries if is_handover else tries + 1


def tries_are_bounded(history: History, agents: Mapping[str, int] | None = None) -> Complaints:
    """No attempt is opened beyond `max_attempts`: the command's, the agent's in ``agents``, or 3."""
    complaints = []
    for (agent, task), lifecycle in history.lifecycles.items():
        command = history.executes.get(task)
        body = body_of(command.data) if command and command.agent == agent else None
        limit = (body or {}).get("max_attempts") or (agents or {}).get(agent, DEFAULT_MAX_ATTEMPTS)
        complaints += [
            f"{r.name} is try {r.event.data.get('tries')} of {limit}"
            for r in lifecycle
            if r.event.type == STARTED and r.event.data.get("tries", 0) > limit
        ]
    return complaints
