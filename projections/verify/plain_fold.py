"""The tables as plain Python says they must be: one message after the other, no batches and no SQL.

Independent of the projector's fold on purpose: the rules of PROTOCOL section 11 are written down a second time, each
in the simplest way. Commands come first, all of them; the result does not depend on how the streams interleave. Rows of
the tables that only grow are handed out at once; of tasks, agents and states the newest is kept, documents as
`values` has them, so that memory grows with the number of tasks and not with the log.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cas_events.domain import lifecycle
from cas_events.domain.events import DUPLICATE_TASK, TERMINAL_STATUSES
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.subjects import Names
from projections.verify.judge import Command, Fact, command_of, fact_of
from projections.verify.key_set import KeySet
from projections.verify.values import Row, number_of, shown_bytes, shown_json, text_of, whole

EVENTS, LOGS, COMMANDS, LETTERS = "cas_agent_events", "cas_agent_logs", "cas_commands", "cas_dead_letters"
REVISION_MAX = 2**53 - 1
ANY = "(any)"  # Stands for the words of a parser, which are not part of the contract.

_STATUS_OF_AGENT = {"cas.agent.registered": "registered", "cas.agent.deregistered": "deregistered"}
_BREAKER_OF_AGENT = {
    "cas.agent.breaker_opened": "open",
    "cas.agent.breaker_half_opened": "half_open",
    "cas.agent.breaker_closed": "closed",
}
_PAUSED_OF_AGENT = {"cas.agent.paused": True, "cas.agent.unpaused": False}


@dataclass(slots=True)
class Task:
    """What is known of a task: its owner's events, up to the end."""

    owner: str
    command: Command | None = None
    input: str | None = None
    metadata: str | None = None
    life_seq: int = 0
    newest: tuple[int, int] = (-1, -1)
    status: str = "queued"
    output: str | None = None
    error: str | None = None
    cancel_reason: str | None = None
    attempt: int | None = None
    first_start: tuple[int, int] | None = None
    started_us: int | None = None
    created_us: int | None = None
    finished_us: int | None = None
    correlation_id: str | None = None
    parent_id: str | None = None
    shown: dict[int, tuple[int, int, float, str | None]] = field(default_factory=dict)
    is_over: bool = False

    def row(self, task_id: str) -> Row | None:
        """As in `cas_tasks`; None if it has none."""
        if self.created_us is None and self.command is None:
            return None
        _, shown_seq, progress, message = self.shown.get(
            -1 if self.attempt is None else self.attempt, (0, 0, None, None)
        )
        body = (self.command.body or {}) if self.command else {}
        parent, correlation = body.get("parent_id"), body.get("correlation_id")
        return (
            task_id, self.owner, self.status, self.attempt, progress, message, self.input, self.output, self.error,
            self.metadata,
            parent if isinstance(parent, str) else self.parent_id,
            correlation if isinstance(correlation, str) else self.correlation_id,
            self.command.stored_us if self.command else self.created_us,
            self.started_us, self.finished_us, self.cancel_reason, max(self.life_seq, shown_seq),
        )  # fmt: skip


@dataclass(slots=True)
class Agent:
    """What is known of an agent."""

    status: str | None = None
    version: str | None = None
    schema: str | None = None
    registered_us: int | None = None
    breaker: str = "closed"
    is_paused: bool = False
    last_seq: int = 0


class PlainFold:
    """Folds a log.

    Attributes:
        tasks: by task id.
        agents: by agent id.
        states: revision, state, time and sequence by agent and key.
        complaints: lifecycles that the state machine does not allow, with their sequence.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._keys: dict[tuple[str, str], KeySet] = {}
        self._steps: dict[tuple[str, str], lifecycle.Step] = {}
        self.tasks: dict[str, Task] = {}
        self.agents: dict[str, Agent] = {}
        self.states: dict[tuple[str, str], Row] = {}
        self.complaints: list[tuple[int, str]] = []

    def command(self, message: StoredMessage) -> tuple[str, Row]:
        """Fold a command; the table and the row that it makes."""
        command = command_of(message)
        if command is None:
            return LETTERS, self._undecodable(message)
        if command.kind == "execute" and command.task_id not in self.tasks:
            assert command.agent_id is not None
            body = command.body or {}
            self.tasks[command.task_id] = Task(
                command.agent_id,
                # Only what the row needs: an input may be large.
                Command(
                    seq=command.seq, kind=command.kind, agent_id=command.agent_id, task_id=command.task_id,
                    stored_us=command.stored_us,
                    body={name: body[name] for name in ("parent_id", "correlation_id") if name in body},
                ),
                _json_or_none(body.get("input")),
                _json_or_none(body.get("metadata")),
            )  # fmt: skip
        shown = None if command.body is None else shown_json(command.body)
        return COMMANDS, (
            command.seq, command.kind, command.agent_id, command.task_id, command.stored_us, shown
        )  # fmt: skip

    def event(self, message: StoredMessage) -> Iterator[tuple[str, Row]]:
        """Fold an event; the tables and rows that it makes."""
        fact = fact_of(message)
        if fact is None:
            yield LETTERS, self._undecodable(message)
            return
        if fact.key is not None and not self._is_new(fact):
            return
        yield EVENTS, (
            fact.seq, fact.id, fact.type, fact.task_id, fact.agent_id, fact.attempt, fact.index, fact.time_us,
            shown_json(fact.data),
        )  # fmt: skip
        if fact.type == "cas.log" and fact.dataversion == 1:
            data = fact.data
            yield LOGS, (
                fact.seq, fact.task_id, fact.agent_id, fact.attempt, text_of(data.get("level")),
                text_of(data.get("message")), _json_or_none(data.get("metadata")), fact.time_us,
            )  # fmt: skip
        letter = _letter(message, fact)
        if letter is not None:
            yield LETTERS, letter
        self._fold(fact)

    def knows_whole(self, task_id: str) -> bool:
        """Whether the log still had the task's first event."""
        task = self.tasks.get(task_id)
        keys = self._keys.get((task.owner, task_id)) if task else None
        return keys is not None and keys.has_beginning

    # --- what is kept ------------------------------------------------------------------------------------------------

    def _is_new(self, fact: Fact) -> bool:
        assert fact.key is not None
        agent, task, attempt, index = fact.key
        return self._keys.setdefault((agent, task), KeySet()).add(attempt, index)

    def _fold(self, fact: Fact) -> None:
        if fact.class_ == "agent":
            self._fold_agent(fact)
        elif fact.class_ == "state":
            self._fold_state(fact)
        elif fact.key is not None and not _is_duplicate(fact):
            if fact.status:
                self._check(fact)
            assert fact.agent_id is not None
            assert fact.task_id is not None
            task = self.tasks.setdefault(fact.task_id, Task(fact.agent_id))
            if task.owner == fact.agent_id and not task.is_over:
                _fold_task(task, fact)

    def _check(self, fact: Fact) -> None:
        """Ask the state machine."""
        assert fact.key is not None
        agent, task, attempt, index = fact.key
        data = fact.known_data
        tries = data.get("tries")
        step = lifecycle.Step(
            type=fact.type,
            attempt=attempt,
            index=index,
            tries=tries if isinstance(tries, int) and not isinstance(tries, bool) else None,
            is_handover=fact.status == "retrying" and lifecycle.is_handover(data.get("error")),
        )
        before = self._steps.get((agent, task), lifecycle.BEGINNING)
        problem = lifecycle.complaint(before, step)
        if problem:
            self.complaints.append((fact.seq, f"task {task} of {agent}: {problem}"))
        self._steps[agent, task] = step

    def _fold_agent(self, fact: Fact) -> None:
        type_ = fact.type
        if type_ not in _STATUS_OF_AGENT and type_ not in _BREAKER_OF_AGENT and type_ not in _PAUSED_OF_AGENT:
            return
        assert fact.agent_id is not None
        agent = self.agents.setdefault(fact.agent_id, Agent())
        agent.status = _STATUS_OF_AGENT.get(type_, agent.status)
        agent.breaker = _BREAKER_OF_AGENT.get(type_, agent.breaker)
        agent.is_paused = _PAUSED_OF_AGENT.get(type_, agent.is_paused)
        agent.last_seq = fact.seq
        if type_ == "cas.agent.registered":
            agent.version = text_of(fact.data.get("version"))
            agent.schema = _json_or_none(fact.data.get("schema"))
            agent.registered_us = fact.time_us

    def _fold_state(self, fact: Fact) -> None:
        revision = whole(fact.data.get("revision"), REVISION_MAX)
        if (
            revision is None
            or fact.dataversion != 1
            or fact.type not in ("cas.state.updated", "cas.state.reset")
        ):
            return
        assert fact.agent_id is not None
        key = (fact.agent_id, fact.state_key)
        if key not in self.states or revision > self.states[key][2]:
            self.states[key] = (*key, revision, _json_or_none(fact.data.get("state")), fact.time_us, fact.seq)

    def _undecodable(self, message: StoredMessage) -> Row:
        known = self._names.parse_task_event(message.subject) or self._names.parse_command(message.subject)
        return (
            message.seq, message.stream, message.subject.encode("utf-8", "replace").decode(),
            known.task if known else None, (known.agent or None) if known else None,
            "undecodable", ANY, shown_bytes(message.data), message.time_ns // 1000,
        )  # fmt: skip


def _fold_task(task: Task, fact: Fact) -> None:
    """An event of the owner, in the order of the log."""
    assert fact.attempt is not None
    assert fact.index is not None
    place, data = (fact.attempt, fact.index), fact.known_data
    if fact.type == "cas.progress" and fact.class_ == "progress" and fact.dataversion == 1:
        progress = number_of(data.get("progress"))
        if progress is not None and fact.index >= task.shown.get(fact.attempt, (-1,))[0]:
            task.shown[fact.attempt] = (fact.index, fact.seq, progress, text_of(data.get("message")))
        return
    if fact.status is None:
        return
    task.life_seq = fact.seq
    task.created_us = fact.time_us if task.created_us is None else task.created_us
    task.correlation_id = fact.correlation_id if task.correlation_id is None else task.correlation_id
    task.parent_id = fact.parent_id if task.parent_id is None else task.parent_id
    if fact.type == "cas.task.started":
        _fold_start(task, fact)
    task.is_over = fact.status in TERMINAL_STATUSES
    if task.is_over or place > task.newest:
        task.newest = place
        _show(task, fact)


def _fold_start(task: Task, fact: Fact) -> None:
    assert fact.attempt is not None
    assert fact.index is not None
    task.attempt = max(task.attempt or 0, fact.attempt)
    place = (fact.attempt, fact.index)
    if task.first_start is None or place < task.first_start:
        task.first_start, task.started_us = place, fact.time_us
        if task.command is None:
            task.input = _json_or_none(fact.known_data.get("input"))
    for attempt in [attempt for attempt in task.shown if attempt < task.attempt]:
        del task.shown[attempt]  # Never shown again.


def _show(task: Task, fact: Fact) -> None:
    """What the row shows of the newest lifecycle event."""
    data, status = fact.known_data, fact.status
    assert status is not None
    task.status = status
    task.finished_us = fact.time_us if task.is_over else None
    task.output = _json_or_none(data.get("output")) if status == "completed" else None
    task.cancel_reason = text_of(data.get("reason")) if status == "cancelled" else None
    task.error = None
    if status == "rejected" and fact.dataversion == 1:
        error = {"type": text_of(data.get("reason")) or "rejected", "message": text_of(data.get("detail"))}
        task.error = shown_json(error)
    elif status in ("retrying", "interrupted", "failed", "cancelled"):
        task.error = _json_or_none(data.get("error"))


def _letter(message: StoredMessage, fact: Fact) -> Row | None:
    """The dead letter that an event says of another message, or of its task."""
    data, ignored = fact.data, fact.type == "cas.agent.command_ignored"
    reason = text_of(data.get("reason"))
    failed = fact.status == "failed"
    if not (ignored or fact.status == "rejected" or (failed and reason == "attempts_exhausted")):
        return None
    subject, error = data.get("subject"), data.get("error")
    if failed:
        detail = text_of(error.get("message")) if isinstance(error, dict) else None
    else:
        detail = text_of(subject if ignored else data.get("detail"))
    tokens = subject.split(".") if isinstance(subject, str) else []
    task = (tokens[4] if len(tokens) > 4 else None) if ignored else fact.task_id
    raw = None if failed else _decoded(data.get("raw"))
    return (
        fact.seq, message.stream, message.subject, task, fact.agent_id,
        reason or ("command_ignored" if ignored else "rejected"), detail,
        None if raw is None else shown_bytes(raw), fact.stored_us,
    )  # fmt: skip


def _decoded(text: Any) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        return None


def _is_duplicate(fact: Fact) -> bool:
    return fact.status == "rejected" and fact.data.get("reason") == DUPLICATE_TASK


def _json_or_none(value: Any) -> str | None:
    return None if value is None else shown_json(value)
