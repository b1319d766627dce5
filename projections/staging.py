"""A batch on its way into the tables: from messages to staged rows, with dead letters for what is neither event nor command.

Staging writes only temporary tables of the writer's connection, so it stands outside of the batch's transaction.
Every message ends up staged or as a dead letter, never both, whatever its bytes (promise 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cas_events.errors import WireError
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names
from projections import admission
from projections.arrow import Feed
from projections.statements import script, statements
from projections.store import Connection

_NO_COMMAND = "the subject is none of a command"
_DISAGREES = "the subject and the envelope disagree"


_TABLES = ("staged_command", "staged_event", "batch_task", "suspect", "switched", "batch_owner")


class Letter(NamedTuple):
    """An undecodable message as a row of `cas_dead_letters`, without its constant reason."""

    seq: int
    stream: str
    subject: str
    task_id: str | None
    agent_id: str | None
    detail: str
    raw: bytes
    time_us: int


class Stage:
    """Stages batches on the writer's connection, whose temporary tables it makes.

    Args:
        connection: the writer's.
        names: the deployment's subjects and streams.
    """

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._commands, self._events = Feed(), Feed()
        connection.register("incoming_commands", self._commands)
        connection.register("incoming_events", self._events)
        connection.execute(script("stage"))

    def stage_commands(self, messages: Sequence[StoredMessage]) -> list[Letter]:
        """Replace the staged commands."""
        self._connection.execute(statements("commands")["clear"])
        if not messages:
            return []
        plain = [m for m in messages if admission.has_plain_subject(m)]
        letters = [self._letter(m, _NO_COMMAND) for m in messages if not admission.has_plain_subject(m)]
        # What is no JSON object counts as no body: what a command asks for stands in its subject.
        payloads = [b"" if admission.problem_of(m.data) else m.data for m in plain]
        self._commands.put(plain, payloads, b"".join(payloads))
        self._connection.run("commands_parse")
        self._commands.clear()
        invalid = {row[0] for row in self._connection.run("commands_invalid")}
        return letters + [self._letter(m, _NO_COMMAND) for m in plain if m.seq in invalid]

    def stage_events(self, messages: Sequence[StoredMessage]) -> list[Letter]:
        """Replace the staged events; what the SQL finds invalid stays marked until `undecodable_events`."""
        self._connection.execute(statements("events")["clear"])
        if not messages:
            return []
        letters: list[Letter] = []
        payloads = [message.data for message in messages]
        joined = b"".join(payloads)
        subjects = "".join([message.subject for message in messages])
        if not (
            subjects.isascii()
            and admission.subjects_are_plain(subjects.encode())
            and admission.all_admissible(payloads, joined)
        ):
            messages, letters = self._sort_out(messages)
            payloads = [message.data for message in messages]
            joined = b"".join(payloads)
        self._events.put(messages, payloads, joined)
        self._connection.run("events_parse")
        self._events.clear()
        return letters

    def reclaim(self) -> None:
        """Empty the staging tables and give back their memory; outside of a transaction.

        Emptying alone does not: in memory, the rows that are gone take their place until a checkpoint.
        """
        for table in _TABLES:
            self._connection.execute(f"TRUNCATE {table}")
        self._connection.execute("CHECKPOINT temp")

    def undecodable_events(self, messages: Sequence[StoredMessage]) -> list[Letter]:
        """Dead letters for the staged events that are no envelopes of ours or disagree with their subject."""
        invalid = {row[0] for row in self._connection.run("events_invalid")}
        return [self._letter(m, _why_invalid(m)) for m in messages if m.seq in invalid]

    def _sort_out(self, messages: Sequence[StoredMessage]) -> tuple[list[StoredMessage], list[Letter]]:
        good: list[StoredMessage] = []
        letters: list[Letter] = []
        for message in messages:
            plain = admission.has_plain_subject(message)
            problem = admission.problem_of(message.data) if plain else "the subject is none of an event"
            if problem:
                letters.append(self._letter(message, problem))
            else:
                good.append(message)
        return good, letters

    def _letter(self, message: StoredMessage, detail: str) -> Letter:
        """An undecodable message; agent and task are what its subject says, as far as it is one of ours."""
        known = self._names.parse_task_event(message.subject) or self._names.parse_command(message.subject)
        return Letter(
            message.seq,
            message.stream,
            _text(message.subject),
            known.task if known else None,
            known.agent or None if known else None,
            _text(detail),
            message.data,
            message.time_ns // 1000,
        )


def _why_invalid(message: StoredMessage) -> str:
    try:
        decode_event(message.data, seq=message.seq, stream=message.stream)
    except WireError as error:
        return str(error)
    return _DISAGREES


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()
