"""What a deployment's streams recorded: commands, events, and how they belong together."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from cas_events.domain.events import Event
from cas_events.jetstream.messages import StoredMessage

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


def unfinished(history: History) -> list[str]:
    """Executed tasks without a terminal event yet."""
    return [
        task
        for task in history.executes
        if not any(r.event.type in TERMINAL for r in history.lifecycle_of(task))
    ]


def steps(history: History) -> Iterator[tuple[Recorded | None, Recorded]]:
    """Each lifecycle event with the one before it."""
    for lifecycle in history.lifecycles.values():
        yield from zip([None, *lifecycle], lifecycle, strict=False)


def telemetry(history: History) -> Iterator[Recorded]:
    return (recorded for recorded in history.events if recorded.class_ != "task")


def is_of(recorded: Recorded, command: Command) -> bool:
    return (recorded.event.agent_id, recorded.event.task_id) == (command.agent, command.task)


def body_of(data: bytes) -> dict[str, object] | None:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None
