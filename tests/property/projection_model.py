"""The tables as plain Python says they must be: an independent fold of a whole log, with no batches and no SQL.

It is given events as values (`Fact`), not as bytes, and says the rows of `cas_tasks`, `cas_agent_events`,
`cas_agent_logs` and `cas_commands` by the rules of PROTOCOL section 11, each written down in the simplest way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cas_events.jetstream.messages import StoredMessage

STATUS = {
    "cas.task.started": "running",
    "cas.task.resumed": "running",
    "cas.task.retrying": "retrying",
    "cas.task.interrupted": "interrupted",
    "cas.task.completed": "completed",
    "cas.task.failed": "failed",
    "cas.task.cancelled": "cancelled",
    "cas.task.rejected": "rejected",
}
TERMINAL = ("completed", "failed", "cancelled", "rejected")
EPOCH = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Fact:
    """An event before it has a sequence."""

    type: str
    agent: str
    task: str
    attempt: int
    index: int
    data: dict[str, Any]
    dataversion: int = 1
    correlation: str | None = None
    parent: str | None = None

    @property
    def class_(self) -> str:
        return self.type.split(".")[1] if self.type.startswith("cas.") else "task"

    @property
    def status(self) -> str | None:
        return STATUS.get(self.type)

    @property
    def is_duplicate_rejection(self) -> bool:
        return self.status == "rejected" and self.data.get("reason") == "duplicate_task"


@dataclass(frozen=True)
class Command:
    """A command before it has a sequence."""

    kind: str
    agent: str
    task: str
    body: dict[str, Any] = field(default_factory=dict)


def event_time(seq: int) -> datetime:
    return EPOCH + timedelta(microseconds=seq)


def stored_time(seq: int) -> datetime:
    return EPOCH + timedelta(seconds=100, microseconds=seq)


def _ns(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def event_message(seq: int, fact: Fact) -> StoredMessage:
    body = {
        "specversion": "1.0",
        "id": f"{fact.task}.{fact.attempt}.{fact.index}",
        "source": "cas/runner/r1",
        "type": fact.type,
        "subject": fact.task,
        "time": event_time(seq).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "agentid": fact.agent,
        "attempt": fact.attempt,
        "index": fact.index,
        "dataversion": fact.dataversion,
        "data": fact.data,
    }
    body |= {"correlationid": fact.correlation} if fact.correlation else {}
    body |= {"parentid": fact.parent} if fact.parent else {}
    subject = f"cas.evt.{fact.class_}.{fact.agent}.{fact.task}"
    return StoredMessage("CAS_EVENTS", seq, subject, _ns(stored_time(seq)), json.dumps(body).encode())


def command_message(seq: int, command: Command) -> StoredMessage:
    subject = {
        "execute": f"cas.cmd.execute.{command.agent}.{command.task}",
        "cancel": f"cas.cmd.cancel.{command.task}",
        "resume": f"cas.cmd.resume.{command.agent}.{command.task}.i1-1",
    }[command.kind]
    return StoredMessage(
        "CAS_COMMANDS", seq, subject, _ns(stored_time(seq)), json.dumps(command.body).encode()
    )


def stored_facts(facts: Sequence[Fact]) -> list[tuple[int, Fact]]:
    """With their sequences from 1; of the same key, the lowest sequence."""
    seen: set[tuple[str, str, int, int]] = set()
    kept = []
    for seq, fact in enumerate(facts, 1):
        key = (fact.agent, fact.task, fact.attempt, fact.index)
        if key not in seen:
            seen.add(key)
            kept.append((seq, fact))
    return kept


def expected_events(facts: Sequence[Fact]) -> list[tuple[Any, ...]]:
    return [
        (
            seq,
            f"{f.task}.{f.attempt}.{f.index}",
            f.type,
            f.task,
            f.agent,
            f.attempt,
            f.index,
            event_time(seq),
            f.data,
        )
        for seq, f in stored_facts(facts)
    ]


def expected_logs(facts: Sequence[Fact]) -> list[tuple[Any, ...]]:
    return [
        (
            seq, f.task, f.agent, f.attempt, _text(f.data.get("level")), _text(f.data.get("message")),
            f.data.get("metadata"), event_time(seq),
        )
        for seq, f in stored_facts(facts)
        if f.type == "cas.log" and f.dataversion == 1
    ]  # fmt: skip


def expected_commands(commands: Sequence[Command]) -> list[tuple[Any, ...]]:
    return [
        (seq, c.kind, None if c.kind == "cancel" else c.agent, c.task, stored_time(seq), c.body)
        for seq, c in enumerate(commands, 1)
    ]


def expected_tasks(commands: Sequence[Command], facts: Sequence[Fact]) -> dict[str, dict[str, Any]]:
    """Rows of `cas_tasks` by task id."""
    executes: dict[str, tuple[int, Command]] = {}
    for seq, command in enumerate(commands, 1):
        if command.kind == "execute":
            executes.setdefault(command.task, (seq, command))
    kept = [(seq, fact) for seq, fact in stored_facts(facts) if not fact.is_duplicate_rejection]
    rows = {}
    for task in {fact.task for _, fact in kept} | executes.keys():
        of_task = [(seq, fact) for seq, fact in kept if fact.task == task]
        execute = executes.get(task)
        owner = execute[1].agent if execute else of_task[0][1].agent
        row = _expected_task(owner, execute, [(seq, fact) for seq, fact in of_task if fact.agent == owner])
        if row is not None:
            rows[task] = {"task_id": task, **row}
    return rows


def _expected_task(
    owner: str, execute: tuple[int, Command] | None, facts: list[tuple[int, Fact]]
) -> dict[str, Any] | None:
    ends = [seq for seq, fact in facts if fact.status in TERMINAL]
    facts = [(seq, fact) for seq, fact in facts if not ends or seq <= ends[0]]
    life = [(seq, fact) for seq, fact in facts if fact.status]
    if not life and not execute:
        return None
    row: dict[str, Any] = dict.fromkeys((
        "status", "attempt", "progress", "message", "input", "output", "error", "metadata", "parent_id",
        "correlation_id", "created_at", "started_at", "finished_at", "cancel_reason",
    ))  # fmt: skip
    row |= {"agent_id": owner, "status": "queued", "last_seq": 0}
    if life:
        _add_lifecycle(row, life)
        shown = [
            (fact.index, seq, fact)
            for seq, fact in facts
            if fact.type == "cas.progress"
            and fact.dataversion == 1
            and fact.attempt == row["attempt"]
            and isinstance(fact.data.get("progress"), (int, float))
            and not isinstance(fact.data.get("progress"), bool)
        ]
        if shown:
            _, seq, fact = max(shown, key=lambda item: item[0])
            row |= {"progress": float(fact.data["progress"]), "message": _text(fact.data.get("message"))}
            row["last_seq"] = max(row["last_seq"], seq)
    if execute:
        seq, command = execute
        row["created_at"] = stored_time(seq)
        row["input"], row["metadata"] = command.body.get("input"), command.body.get("metadata")
        for column in ("parent_id", "correlation_id"):
            row[column] = _string(command.body.get(column)) or row[column]
    return row


def _add_lifecycle(row: dict[str, Any], life: list[tuple[int, Fact]]) -> None:
    ended = [(seq, fact) for seq, fact in life if fact.status in TERMINAL]
    seq, newest = ended[0] if ended else max(life, key=lambda item: (item[1].attempt, item[1].index))
    data = newest.data if newest.dataversion == 1 else {}
    starts = [(fact.attempt, fact.index, s, fact) for s, fact in life if fact.type == "cas.task.started"]
    row["status"] = newest.status
    row["last_seq"] = max(s for s, _ in life)
    row["created_at"] = event_time(life[0][0])
    row["correlation_id"] = next((fact.correlation for _, fact in life if fact.correlation), None)
    row["parent_id"] = next((fact.parent for _, fact in life if fact.parent), None)
    if starts:
        row["attempt"] = max(start[0] for start in starts)
        first = min(starts, key=lambda start: start[:2])
        row["started_at"] = event_time(first[2])
        row["input"] = first[3].data.get("input") if first[3].dataversion == 1 else None
    if ended:
        row["finished_at"] = event_time(seq)
    if newest.status == "completed":
        row["output"] = data.get("output")
    elif newest.status == "cancelled":
        row["cancel_reason"] = _text(data.get("reason"))
    elif newest.status == "rejected" and newest.dataversion == 1:
        row["error"] = {"type": _text(data.get("reason")) or "rejected", "message": _text(data.get("detail"))}
    if newest.status in ("retrying", "interrupted", "failed", "cancelled"):
        row["error"] = data.get("error")


def _text(value: Any) -> str | None:
    """Text columns show a string as it is and any other value as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None
