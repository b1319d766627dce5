"""Fuzzing through a real server and a real runner (issue 3, item 10; promise 9): no crash, each case accounted for.

Method: `fuzzing` makes raw commands and envelopes; they are stored in one go, and the log says what became of each:
it ran, it was rejected, a `command_ignored` names it, or a foreign event that reads like one of ours governs the task.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from cas_events import Client
from cas_events.domain.events import AGENT_COMMAND_IGNORED, TERMINAL_TYPES, Event
from cas_events.errors import InvalidCommandError, WireError
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.publisher import PipelinedPublisher, PublishOutcome
from cas_events.jetstream.reader import StreamReader
from cas_events.wire.commands import decode_execute
from cas_events.wire.envelope import decode_event
from tests.faults.fuzzing import AGENT, Case, make_cases
from tests.faults.troublemakers import troubling
from tests.harness.patience import count, promised
from tests.harness.processes import settings
from tests.harness.wait import until_async

ROUND = 5_000
ROUNDS = count(1, 20)
SEED = 20261122


@pytest.fixture
async def cas(nats_server, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


class Round:
    """One round of cases: sent, and looked for in the log."""

    def __init__(self, cas: Client, cases: Sequence[Case], number: int) -> None:
        self._js, self._names = cas._session.js, cas._session.names
        self._connection = cas._session.connection
        self._cases = {f"{case.kind}-{number}-{n}": case for n, case in enumerate(cases)}
        self._command_seqs: dict[str, int] = {}
        self._last: dict[str, Event | None] = {}
        self._ignored: set[int] = set()
        self._scheduled: set[str] = set()

    async def send(self) -> None:
        """Store everything: first what has to be there when the execute comes."""
        async with asyncio.timeout(promised(60.0)):
            publisher = PipelinedPublisher(self._connection)
            for make in (self._before, self._command):
                for task_id, case in self._cases.items():
                    subject, body = make(task_id, case)
                    if subject:
                        await publisher.room()
                        publisher.send(subject, body, self._noter(task_id))
                assert await publisher.drain(promised(30.0))
            await publisher.close()

    def _noter(self, task_id: str) -> Any:
        def note(outcome: PublishOutcome) -> None:
            assert outcome.seq is not None, (task_id, outcome)
            self._command_seqs[task_id] = outcome.seq

        return note

    def _before(self, task_id: str, case: Case) -> tuple[str, bytes]:
        match case.kind:
            case "log":
                return self._names.lifecycle(AGENT, task_id), case.body
            case "cancelled":
                return self._names.cancel(task_id), case.body
        return "", b""

    def _command(self, task_id: str, case: Case) -> tuple[str, bytes]:
        match case.kind:
            case "execute" | "cancelled":
                return self._names.execute(AGENT, task_id), case.body
            case "log":
                return self._names.execute(AGENT, task_id), b"{}"
            case "odd-id":
                return self._names.execute(AGENT, f"{task_id}/{case.tail}"), case.body
            case "resume":
                return self._names.resume(AGENT, task_id, case.tail), case.body
            case "cancel":
                return self._names.cancel(task_id), case.body
            case "due":
                return self._names.due(AGENT, task_id, case.tail), case.body
        raise AssertionError(case.kind)

    async def look(self, from_seq: int) -> int:
        """Read what has come since; the next sequence to read."""
        end_seq = (await self._js.stream_info(self._names.events)).state.last_seq
        if end_seq < from_seq:
            return from_seq
        async with StreamReader(self._connection, self._names.events, from_seq=from_seq) as reader:
            async for batch in reader.batches():
                for message in batch.messages:
                    self._read(message)
                if reader.next_seq > end_seq:
                    return reader.next_seq
        raise AssertionError("the reader ended")

    def _read(self, message: StoredMessage) -> None:
        try:
            event = decode_event(message.data, seq=message.seq, stream=message.stream)
        except WireError:
            event = None
        subject = self._names.parse_task_event(message.subject)
        if subject is not None and subject.class_ == "task":
            self._last[subject.task] = event or self._last.get(subject.task)
        elif event is not None and event.type == AGENT_COMMAND_IGNORED:
            self._ignored.add(event.data["command_seq"])

    async def unaccounted(self) -> list[tuple[str, Case, Event | None]]:
        """Cases of which nothing says yet what became of them."""
        names = self._names
        for task_id, case in self._cases.items():
            may_wait = case.kind == "execute" and self._last.get(task_id) is None and is_valid(case.body)
            if may_wait and await self._js.last_message(names.timers, names.timer(AGENT, task_id)):
                self._scheduled.add(task_id)
        return [
            (task_id, case, self._last.get(task_id))
            for task_id, case in self._cases.items()
            if not self._outcome(task_id, case)
        ]

    def _outcome(self, task_id: str, case: Case) -> str:
        """What became of a case, in a word; empty for nothing yet."""
        if case.kind in {"cancel", "due"}:
            return "acknowledged"  # The consumers are looked at as a whole.
        if case.kind in {"odd-id", "resume"}:
            return "ignored" if self._command_seqs.get(task_id) in self._ignored else ""
        last = self._last.get(task_id)
        if last is not None and last.type in TERMINAL_TYPES:
            return last.type.rpartition(".")[2]
        if last is not None and case.kind == "log" and not last.source.startswith("cas/runner/0"):
            return "governed by a foreign event"
        return "scheduled" if task_id in self._scheduled else ""

    def outcomes(self) -> Counter[tuple[str, str]]:
        return Counter((case.kind, self._outcome(task_id, case)) for task_id, case in self._cases.items())

    def require_right(self) -> None:
        """What can be said of an outcome from the bytes alone."""
        for task_id, case in self._cases.items():
            outcome = self._outcome(task_id, case)
            if outcome == "rejected":
                assert raw_of(self._last[task_id]) in {case.body, None}, case
            if case.kind == "execute":
                allowed = (
                    {"completed", "failed", "scheduled", "rejected"} if is_valid(case.body) else {"rejected"}
                )
                assert outcome in allowed, (case, outcome)
            elif case.kind == "cancelled":
                assert outcome in {"cancelled", "rejected"}, (case, outcome)


def is_valid(body: bytes) -> bool:
    try:
        decode_execute(body)
    except InvalidCommandError:
        return False
    return True


def raw_of(rejected: Event | None) -> bytes | None:
    """The raw bytes that a rejection shows; None if it refers to them, or is about the input's claim check."""
    raw = rejected.data["raw"] if rejected else None
    return base64.b64decode(raw) if isinstance(raw, str) and raw else None


async def test_whatever_is_sent_it_is_accounted_for_and_nothing_crashes(
    cas: Client, nats_server, deployment: str, record_property
) -> None:
    record_property("cases", f"{ROUND * ROUNDS} cases")
    totals: Counter[tuple[str, str]] = Counter()
    async with troubling(nats_server.url, deployment, AGENT, lease_s=2.0, grace_s=1.0) as runner:
        for number in range(ROUNDS):
            # Not in a thread: Hypothesis sets the recursion limit, of all threads, and deep bodies are read in this one.
            cases = make_cases(ROUND, SEED + number)
            totals += await run_round(Round(cas, cases, number), (await cas.last_seq()) + 1)
            assert runner.is_alive
            assert (await cas.execute_task(AGENT, {"still": "there"})).output == {"got": {"still": "there"}}
        await until_async(lambda: consumers_are_empty(cas), timeout_s=20, what="nothing left to deliver")

    assert sum(totals.values()) == ROUND * ROUNDS
    table = json.dumps({" ".join(key): total for key, total in sorted(totals.items())}, indent=1)
    logging.getLogger(__name__).info("what became of the cases: %s", table)
    assert totals["execute", "scheduled"] > 0
    assert totals["execute", "completed"] > ROUND / 20
    assert totals["execute", "rejected"] > ROUND / 20
    assert runner.errors == []


async def run_round(cases: Round, from_seq: int) -> Counter[tuple[str, str]]:
    """Send, and wait until each case is accounted for."""
    await cases.send()
    position = from_seq

    async def is_over() -> bool:
        nonlocal position
        position = await cases.look(position)
        return not await cases.unaccounted()

    try:
        await until_async(is_over, timeout_s=40)
    except AssertionError:
        left = await cases.unaccounted()
        raise AssertionError(f"{len(left)} unaccounted for, such as {left[:5]}") from None
    cases.require_right()
    return cases.outcomes()


async def consumers_are_empty(cas: Client) -> bool:
    """Whether no cancel, no wake and no command waits; foreign events of unknown types hold some for good."""
    names, js = cas._session.names, cas._session.js
    for stream, consumer in ((names.commands, "cancel"), (names.timers, f"wake-{AGENT}")):
        info = await js.consumer_info(stream, consumer)
        if info.num_pending or info.num_ack_pending:
            return False
    return (await js.consumer_info(names.commands, f"agent-{AGENT}")).num_pending == 0
