"""The checker: what a deployment's streams recorded, and each promise as a function over it.

One history, one checker: every fault test and the torture read the streams back with `read_history` and hand the
result to the functions below. Each returns complaints, one line each, and an empty list when the promise holds.
`check` is all of those that need nothing but the log. Numbers are those of DESIGN.md; rules are PROTOCOL's.

It shares nothing with the code under test but the reading of streams and envelopes: the rules are written down here
a second time, on purpose. `tests/faults/test_history.py` shows every function a history that it must refuse.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cas_events.domain.events import Event
from cas_events.errors import WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.reader import StreamReader
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names

STARTED, RETRYING, INTERRUPTED, RESUMED = (
    f"cas.task.{name}" for name in ("started", "retrying", "interrupted", "resumed")
)
TERMINAL = frozenset(f"cas.task.{name}" for name in ("completed", "failed", "cancelled", "rejected"))
# What may follow what in a task's lifecycle; None is the beginning.
FOLLOWS: Mapping[str | None, frozenset[str]] = {
    None: TERMINAL - {"cas.task.completed"} | {STARTED},
    STARTED: TERMINAL | {STARTED, RETRYING, INTERRUPTED},
    RETRYING: TERMINAL - {"cas.task.completed"} | {STARTED},
    INTERRUPTED: TERMINAL - {"cas.task.completed"} | {RESUMED, INTERRUPTED},
    RESUMED: TERMINAL - {"cas.task.completed"} | {STARTED},
}
DEFAULT_MAX_ATTEMPTS = 3

Complaints = list[str]
TaskKey = tuple[str, str]  # (agent, task)


@dataclass(frozen=True)
class Command:
    """A stored command; ``agent`` is empty for a cancel."""

    seq: int
    subject: str
    kind: str
    agent: str
    task: str
    data: bytes = b"{}"
    time_ns: int = 0


@dataclass(frozen=True)
class Recorded:
    """A stored event of a task: log or output, with what only the stream knows."""

    event: Event
    class_: str
    raw: bytes = b""
    time_ns: int = 0

    @property
    def key(self) -> tuple[int, int]:
        return self.event.attempt, self.event.index

    @property
    def name(self) -> str:
        return f"{self.event.agent_id}/{self.event.task_id} {self.event.type} {self.key} at {self.event.stream} {self.event.seq}"


@dataclass
class History:
    """What the streams hold.

    Attributes:
        commands: in order.
        events: every event of a task in `CAS_EVENTS` and `CAS_OUTPUT`, each stream in order.
        foreign: messages that are no events of ours.
        missing: sequences that a stream should have and has not.
    """

    commands: list[Command] = field(default_factory=list)
    events: list[Recorded] = field(default_factory=list)
    foreign: list[StoredMessage] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @cached_property
    def lifecycles(self) -> dict[TaskKey, list[Recorded]]:
        """The lifecycle of each task, as stored, without rejected second uses of its id."""
        found: dict[TaskKey, list[Recorded]] = defaultdict(list)
        for recorded in self.events:
            if recorded.class_ == "task" and not recorded.event.is_duplicate_rejection:
                found[recorded.event.agent_id, recorded.event.task_id].append(recorded)
        return found

    @cached_property
    def executes(self) -> dict[str, Command]:
        """The first execute of each task id."""
        found: dict[str, Command] = {}
        for command in self.commands:
            if command.kind == "execute":
                found.setdefault(command.task, command)
        return found

    @cached_property
    def cancelled(self) -> frozenset[str]:
        """Ids for which a cancel is stored."""
        return frozenset(command.task for command in self.commands if command.kind == "cancel")

    def of_task(self, task: str) -> list[Recorded]:
        """Every stored event of a task that was not refused, in the order of their keys, repetitions included."""
        agent = self.executes[task].agent
        mine = [r for r in self.events if (r.event.agent_id, r.event.task_id) == (agent, task)]
        return sorted(
            (r for r in mine if not r.event.is_duplicate_rejection), key=lambda r: (r.key, r.time_ns)
        )

    def lifecycle_of(self, task: str) -> list[Recorded]:
        """The lifecycle under the agent that has the id."""
        return self.lifecycles.get((self.executes[task].agent, task), [])


# --- reading -------------------------------------------------------------------------------------------------------------


async def read_history(connection: Connection, deployment: str) -> History:
    """Read everything that a deployment's streams hold at this moment."""
    names, history = Names(deployment), History()
    for message in await _read(connection, names.commands, history):
        parsed = names.parse_command(message.subject)
        if parsed is None:
            history.foreign.append(message)
            continue
        history.commands.append(
            Command(
                message.seq,
                message.subject,
                parsed.kind,
                parsed.agent,
                parsed.task,
                message.data,
                message.time_ns,
            )
        )
    for stream in (names.events, names.output):
        for message in await _read(connection, stream, history):
            _record(history, names, message)
    return history


async def _read(connection: Connection, stream: str, history: History) -> list[StoredMessage]:
    """Every message of a stream; what is missing between the first and the last is noted."""
    state = (await JetStream(connection).stream_info(stream)).state
    found: list[StoredMessage] = []
    if state.messages:
        async with StreamReader(connection, stream) as reader:
            async for batch in reader.batches():
                found += batch.messages
                if reader.next_seq > state.last_seq:
                    break
    sequences = {message.seq for message in found}
    absent = [seq for seq in range(1, state.last_seq + 1) if seq not in sequences]
    if absent:
        history.missing.append(f"{stream}: {len(absent)} of {state.last_seq}, such as {absent[:5]}")
    return found


def _record(history: History, names: Names, message: StoredMessage) -> None:
    subject = names.parse_task_event(message.subject)
    if subject is None:
        return  # An event of an agent or of a state.
    try:
        event = decode_event(message.data, seq=message.seq, stream=message.stream)
    except WireError:
        history.foreign.append(message)
        return
    recorded = Recorded(event, subject.class_, message.data, message.time_ns)
    history.events.append(recorded)
    if (event.agent_id, event.task_id) != (subject.agent, subject.task):
        history.missing.append(f"{recorded.name} stands on {message.subject}")


# --- promise 1: nothing acknowledged is lost; one terminal event ----------------------------------------------------------


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
        ran = [r.name for r in history.events if r.class_ != "task" and _is_of(r, command)]
        complaints += [f"{command.subject} repeats an id and ran: {name}" for name in ran]
    return complaints


# --- promise 2: one strict sequence ---------------------------------------------------------------------------------------


def lifecycles_are_strict(history: History) -> Complaints:
    """Types follow each other as the table says, attempts rise by one, indexes rise, nothing follows an end."""
    complaints = []
    for before, after in _steps(history):
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
            if command is None or command.kind == "cancel" or not _is_of(recorded, command):
                complaints.append(f"{recorded.name} names {command.subject if command else 'no command'}")
    return complaints


# --- promise 3: who lost a task adds nothing to it ------------------------------------------------------------------------


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


def telemetry_belongs_to_its_attempt(history: History) -> Complaints:
    """Telemetry carries an attempt that its writer opened before, so that late words of a zombie are known as such."""
    opened = {
        (r.event.agent_id, r.event.task_id, r.event.attempt): r
        for r in history.events
        if r.event.type == STARTED
    }
    complaints = []
    for recorded in _telemetry(history):
        event = recorded.event
        started = opened.get((event.agent_id, event.task_id, event.attempt))
        if started is None:
            complaints.append(f"{recorded.name} is of an attempt that nobody opened")
        elif event.source != started.event.source:
            complaints.append(f"{recorded.name} by {event.source} in an attempt of {started.event.source}")
        elif recorded.key < started.key or recorded.time_ns < started.time_ns:
            complaints.append(f"{recorded.name} precedes {started.name}")
    return complaints


def telemetry_precedes_the_end(history: History) -> Complaints:
    """What its writer ends an attempt with comes after everything of that attempt (PROTOCOL sections 4 and 10)."""
    ends = {
        (r.event.agent_id, r.event.task_id, r.event.attempt): r
        for lifecycle in history.lifecycles.values()
        for r in lifecycle
        if r.event.type not in {STARTED, RESUMED}
    }
    complaints, seen = [], set()
    for recorded in _telemetry(history):
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


# --- promise 4: at most max_attempts tries --------------------------------------------------------------------------------


def tries_are_counted(history: History) -> Complaints:
    """`tries` rises with a crash and with an error's retry, not with a hand-over; an answer starts it anew."""
    complaints = []
    for before, after in _steps(history):
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
        body = _body(command.data) if command and command.agent == agent else None
        limit = (body or {}).get("max_attempts") or (agents or {}).get(agent, DEFAULT_MAX_ATTEMPTS)
        complaints += [
            f"{r.name} is try {r.event.data.get('tries')} of {limit}"
            for r in lifecycle
            if r.event.type == STARTED and r.event.data.get("tries", 0) > limit
        ]
    return complaints


# --- promise 5: cancel is final -------------------------------------------------------------------------------------------


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


# --- promise 6: followers -------------------------------------------------------------------------------------------------


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


# --- promise 9: bad input -------------------------------------------------------------------------------------------------


def bad_commands_are_rejected(history: History) -> Complaints:
    """An execute that is no JSON object is rejected or was cancelled before; each rejection shows the raw bytes."""
    complaints = []
    for task, command in history.executes.items():
        lifecycle = history.lifecycle_of(task)
        if lifecycle and _body(command.data) is None:
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


# --- all of them ----------------------------------------------------------------------------------------------------------

CHECKS: Mapping[str, Callable[[History], Complaints]] = {
    "1 streams whole": streams_are_whole,
    "1 every task ends once": every_task_ends,
    "1 repeated ids refused": repeated_ids_are_refused,
    "2 lifecycle strict": lifecycles_are_strict,
    "2 indexes unique": indexes_are_unique,
    "2 commands named": events_name_their_command,
    "3 fenced writers silent": fenced_writers_are_silent,
    "3 telemetry in its attempt": telemetry_belongs_to_its_attempt,
    "6 telemetry before the end": telemetry_precedes_the_end,
    "4 tries counted": tries_are_counted,
    "4 tries bounded": tries_are_bounded,
    "5 cancels final": cancels_are_final,
    "9 bad commands rejected": bad_commands_are_rejected,
}


def check(history: History, acknowledged: Iterable[tuple[str, int]] = ()) -> Complaints:
    """Every check that the log alone answers; empty when every promise holds."""
    complaints = [
        f"1 acknowledged are stored: {text}" for text in acknowledged_are_stored(history, acknowledged)
    ]
    for name, function in CHECKS.items():
        complaints += [f"{name}: {text}" for text in function(history)]
    return complaints


def unfinished(history: History) -> list[str]:
    """Executed tasks without a terminal event yet."""
    return [
        task
        for task in history.executes
        if not any(r.event.type in TERMINAL for r in history.lifecycle_of(task))
    ]


def _steps(history: History) -> Iterator[tuple[Recorded | None, Recorded]]:
    """Each lifecycle event with the one before it."""
    for lifecycle in history.lifecycles.values():
        yield from zip([None, *lifecycle], lifecycle, strict=False)


def _telemetry(history: History) -> Iterator[Recorded]:
    return (recorded for recorded in history.events if recorded.class_ != "task")


def _is_of(recorded: Recorded, command: Command) -> bool:
    return (recorded.event.agent_id, recorded.event.task_id) == (command.agent, command.task)


def _body(data: bytes) -> dict[str, object] | None:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None
