"""A task that asks: from what its code waits on to a stored `interrupted`, and from an answer back to the task.

PROTOCOL sections 5 and 7: an interrupted task's command is acknowledged, so it holds no place; the answer comes as a
command of its own. An answer may be stored before its question: an attempt runs on with another answer, for example.
Its delivery is gone by then, so whoever appends `interrupted` looks for stored answers before it lets go of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from cas_events.domain import events
from cas_events.domain.commands import Cancel
from cas_events.domain.interrupts import LISTED_MAX, Question, dialogue_of, parse_wire_id, wire_id
from cas_events.domain.limits import CLAIM_CHECK_BYTES
from cas_events.errors import WireError
from cas_events.runner import agent_events
from cas_events.runner.gate import leave
from cas_events.runner.timers import store_wake
from cas_events.wire.claims import encode_members
from cas_events.wire.commands import parse_time
from cas_events.wire.envelope import format_time
from cas_events.wire.jsonvalue import decode_json

if TYPE_CHECKING:
    from cas_events.domain.decide import Last
    from cas_events.runner.attempts import Attempt
    from cas_events.runner.execution import Execution
    from cas_events.runner.facts import TaskFacts
    from cas_events.runner.workplace import Workplace

_log = logging.getLogger(__name__)


class TaskInterruptedError(Exception):
    """Agent code waits for answers; raised by adapters of agent frameworks, and no failure.

    Attributes:
        questions: what it waits on, one or more.
        refused: ids of those whose answer it was given and did not take.
        problem: an `error` object that says why; None if nothing was refused.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        *,
        refused: Collection[str] = (),
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"waits for answers to {len(questions)} questions")
        self.questions = questions
        self.refused = refused
        self.problem = problem


class DrainedError(Exception):
    """Agent code stopped at a safe point, because the process shuts down; it goes on from there elsewhere."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to an interrupt, not read yet.

    Attributes:
        interrupt: the interrupt's name.
        body: of its resume command, or of one that stands for the default answer.
        seq: sequence of the command; 0 for a default answer.
        subject: of the command.
    """

    interrupt: str
    body: bytes
    seq: int = 0
    subject: str = ""

    @property
    def command(self) -> tuple[int, str, bytes]:
        """Sequence, subject and body of the command."""
        return self.seq, self.subject, self.body

    def value(self) -> Any:
        """What was answered.

        Raises:
            WireError: the body is no JSON object.
        """
        body = decode_json(self.body)
        if not isinstance(body, dict):
            raise WireError('an answer is a JSON object such as {"value": true}')
        return body.get("value")


async def ask(execution: Execution, interruption: TaskInterruptedError) -> Cancel | None:
    """Append `interrupted` and let go of the task; or let it be decided anew, with the answer that is stored.

    Returns:
        The cancel that was stored meanwhile: the task is to be ended.

    Raises:
        NotJsonError: a question has no JSON form; nothing was appended.
        LostRaceError: another writer was faster.
    """
    place, facts = execution.place, execution.facts
    items = await _items(execution.attempt, interruption)
    members: dict[str, Any] = {"interrupts": items}
    if interruption.problem is not None:
        members["error"] = interruption.problem
    cancel = await execution.retire(events.INTERRUPTED, members)
    if cancel is not None:
        return cancel
    if await stored_answer(place, facts, [item["id"] for item in items]) is not None:
        execution.is_answered = True
        return None
    due_s = [parse_time(item["timeout_at"]) or 0.0 for item in items if "timeout_at" in item]
    if due_s:
        await store_wake(place, facts, attempt=execution.claim.attempt, delay_s=min(due_s) - time.time())
    await leave(place, facts, attempt=execution.claim.attempt)
    place.ack(execution.current_delivery())
    return None


async def _items(attempt: Attempt, interruption: TaskInterruptedError) -> list[dict[str, Any]]:
    """The list of an `interrupted` event; large values are claim checks, already put."""
    questions = interruption.questions[:LISTED_MAX]
    dialogue = await attempt.dialogue()
    names = dialogue.names(questions, refused=interruption.refused)
    timeout_s = attempt.spec.interrupt_timeout_s
    # The list as a whole must stay below the size of a claim check: runners decide by its ids.
    limit_bytes = CLAIM_CHECK_BYTES // (3 * len(questions))
    items = []
    for question in questions:
        name = names[question.id]
        members = {"value": question.value}
        if question.schema is not None:
            members["schema"] = question.schema
        encoded, blobs = encode_members(members, limit_bytes=limit_bytes)
        await attempt.place.ledger.put_blobs(blobs)
        item = {"id": name, **msgspec.json.decode(encoded)}
        if timeout_s is not None:
            at_ns = time.time_ns() + int(timeout_s * 1e9)
            item["timeout_at"] = dialogue.timeouts.get(name) or format_time(at_ns)
        items.append(item)
    return items


async def stored_answer(place: Workplace, facts: TaskFacts, names: Sequence[str]) -> Answer | None:
    """The oldest stored answer to one of the interrupts, as the leader has it."""
    subjects = {place.names.resume(facts.agent_id, facts.task_id, name): name for name in names}
    stored = await asyncio.gather(*(place.last_command(subject) for subject in subjects))
    found = min((message for message in stored if message is not None), key=lambda m: m.seq, default=None)
    if found is None:
        return None
    return Answer(subjects[found.subject], found.data, found.seq, found.subject)


async def is_readable(place: Workplace, facts: TaskFacts, last: Last, answer: Answer | None) -> bool:
    """Whether an answer can be taken; if not, the interrupts are listed again, with the reason.

    Raises:
        LostRaceError: another writer was faster.
    """
    assert answer is not None
    try:
        answer.value()
    except WireError as problem:
        if await place.last_command(place.names.cancel(facts.task_id)) is not None:
            return True  # The claim ends the task.
        await _ask_again(place, facts, last, answer, str(problem))
        await ignore(place, facts.agent_id, answer.command, f"the answer cannot be read: {problem}")
        return False
    return True


async def ignore(place: Workplace, agent_id: str, command: tuple[int, str, bytes], reason: str) -> None:
    """Leave a trace of a command (sequence, subject, body) that answers nothing."""
    await agent_events.ignore(
        place.js, place.names, agent_id=agent_id, source=place.source, command=command, reason=reason
    )


async def _ask_again(place: Workplace, facts: TaskFacts, last: Last, answer: Answer, problem: str) -> None:
    """List the same interrupts, the one whose answer cannot be read under a fresh name."""
    lifecycle = await place.ledger.history(facts.agent_id, facts.task_id, until_seq=last.seq)
    dialogue = dialogue_of((event.type, event.data) for event in lifecycle if event.seq <= last.seq)
    id_, n = parse_wire_id(answer.interrupt)
    items = [
        {**item, "id": wire_id(id_, n + 1)} if name == answer.interrupt else item
        for name, item in dialogue.open.items()
    ]
    error = {"type": "InvalidAnswerError", "message": f"the answer to {answer.interrupt}: {problem}"}
    await place.ledger.append(
        facts.encoder(place.source, last.attempt + 1),
        events.INTERRUPTED,
        agent_id=facts.agent_id,
        index=0,
        time_ns=time.time_ns(),
        members={
            "interrupts": items,
            "error": error,
            "tries": last.tries,
            "command_seq": facts.command_seq,
        },
        expected_seq=last.seq,
    )


async def was_answered(place: Workplace, agent_id: str, task_id: str, interrupt: str, last: Last) -> bool:
    """Whether the log shows that the answer to an interrupt was taken, so that its delivery is only a repetition."""
    lifecycle = await place.ledger.history(agent_id, task_id, until_seq=last.seq)
    dialogue = dialogue_of((event.type, event.data) for event in lifecycle)
    id_, n = parse_wire_id(interrupt)
    return interrupt in dialogue.answered or 0 < n < dialogue.listed.get(id_, 0)
