"""What an attempt says beside its lifecycle, and who hears it: promises 3, 6 and 8."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Sequence

from cas_events.domain.events import Event
from tests.harness.history.records import RESUMED, STARTED, Complaints, History, Recorded, telemetry

CLAIM_CHECK_BYTES = 256 * 1024
# At once, and a second from then on, of one attempt. A runner may be given less by a test, and never more.
RATES = {"progress": (10, 100), "log": (1_000, 500)}

# --- promise 3: an attempt's words are its own


def telemetry_belongs_to_its_attempt(history: History) -> Complaints:
    """Telemetry carries an attempt that its writer opened before, so that late words of a zombie are known as such."""
    opened = {
        (r.event.agent_id, r.event.task_id, r.event.attempt): r
        for r in history.events
        if r.event.type == STARTED
    }
    complaints = []
    for recorded in telemetry(history):
        event = recorded.event
        started = opened.get((event.agent_id, event.task_id, event.attempt))
        if started is None:
            complaints.append(f"{recorded.name} is of an attempt that nobody opened")
        elif event.source != started.event.source:
            complaints.append(f"{recorded.name} by {event.source} in an attempt of {started.event.source}")
        elif recorded.key < started.key or recorded.time_ns < started.time_ns:
            complaints.append(f"{recorded.name} precedes {started.name}")
    return complaints


# --- promise 6: followers see everything before the end


def telemetry_precedes_the_end(history: History) -> Complaints:
    """What its writer ends an attempt with comes after everything of that attempt (PROTOCOL sections 4 and 10)."""
    ends = {
        (r.event.agent_id, r.event.task_id, r.event.attempt): r
        for lifecycle in history.lifecycles.values()
        for r in lifecycle
        if r.event.type not in {STARTED, RESUMED}
    }
    complaints, seen = [], set()
    for recorded in telemetry(history):
        event = recorded.event
        attempt = (event.agent_id, event.task_id, event.attempt)
        end = ends.get(attempt)
        is_repetition = (*attempt, event.index) in seen
        seen.add((*attempt, event.index))
        if end is None or is_repetition or recorded.class_ == "output":
            continue
        if event.index > end.event.index or event.seq > end.event.seq:
            complaints.append(f"{recorded.name} comes after {end.name}")
    return complaints


def follower_saw_everything(history: History, task: str, seen: Sequence[Event]) -> Complaints:
    """A follower saw each stored event once and in order.

    What may lack is the tail of an overtaken attempt, and outputs stored only after the task's end, which waits 5 s for
    them at most (PROTOCOL section 4).
    """
    keys = [(event.attempt, event.index) for event in seen]
    complaints = [
        f"follower of {task}: {after} after {before}"
        for before, after in itertools.pairwise(keys)
        if after <= before
    ]
    stored: dict[tuple[int, int], Recorded] = {}
    for recorded in history.of_task(task):
        stored.setdefault(recorded.key, recorded)
    complaints += [f"follower of {task}: {key} is not in the log" for key in keys if key not in stored]
    overtaken = _overtaken(history.lifecycle_of(task))
    end = max((key for key, r in stored.items() if r.event.is_terminal), default=None)
    for key in sorted(stored.keys() - set(keys)):
        is_tail = key[0] in overtaken and stored[key].time_ns > overtaken[key[0]]
        is_late = (
            end is not None and stored[key].class_ == "output" and stored[key].time_ns > stored[end].time_ns
        )
        if not (is_tail or is_late) and (end is None or key <= end):
            complaints.append(f"follower of {task}: {stored[key].name} was not seen")
    return complaints


def _overtaken(lifecycle: Sequence[Recorded]) -> dict[int, int]:
    """The attempts that another writer closed, and when."""
    overtaken: dict[int, int] = {}
    for before, after in itertools.pairwise(lifecycle):
        if before.event.type in {STARTED, RESUMED} and after.event.attempt > before.event.attempt:
            overtaken[before.event.attempt] = after.time_ns
    return overtaken


# --- promise 8: nobody's noise is anybody else's trouble


def floods_are_bounded(history: History) -> Complaints:
    """Of no attempt, overtaken or not, is more stored than its rates allow for the time that it spoke.

    The newest progress of each node is stored at the end whatever the rate says, and so is the count of what was
    dropped; what is stored twice counts once.
    """
    said: dict[tuple[str, str, int, str], dict[int, Recorded]] = defaultdict(dict)
    for recorded in telemetry(history):
        event = recorded.event
        if recorded.class_ in RATES and "dropped" not in event.data.get("metadata", {}):
            key = (event.agent_id, event.task_id, event.attempt, recorded.class_)
            said[key].setdefault(event.index, recorded)
    complaints = []
    for (agent, task, attempt, class_), events in said.items():
        first_ns = _opened_ns(history, agent, task, attempt)
        last_ns = max(r.time_ns for r in events.values())
        origins = {(r.event.data.get("node"), r.event.data.get("agent")) for r in events.values()}
        burst, per_s = RATES[class_]
        allowed = burst + per_s * max(0, last_ns - first_ns) / 1e9 + len(origins) + 1
        if len(events) > allowed:
            complaints.append(
                f"{agent}/{task} {attempt}: {len(events)} {class_} events, {allowed:.0f} allowed"
            )
    return complaints


def _opened_ns(history: History, agent: str, task: str, attempt: int) -> int:
    """When an attempt was opened; 0 if it was not, which is another function's complaint."""
    lifecycle = history.lifecycles.get((agent, task), [])
    opened = (r.time_ns for r in lifecycle if r.event.type == STARTED and r.event.attempt == attempt)
    return next(opened, 0)


def large_values_are_elsewhere(history: History) -> Complaints:
    """No event carries a value over 256 KiB: readers of one task never pay for the size of another's output."""
    complaints = []
    for recorded in history.events:
        if len(recorded.raw) <= CLAIM_CHECK_BYTES:
            continue
        members = json.loads(recorded.raw).get("data") or {}
        sizes = {name: len(json.dumps(value, ensure_ascii=False).encode()) for name, value in members.items()}
        complaints += [
            f"{recorded.name} has {size} bytes in {name!r}"
            for name, size in sizes.items()
            if size > CLAIM_CHECK_BYTES * 1.25  # as compact as ours, whatever spaces it was stored with
        ]
    return complaints
