"""Lifecycle events of tasks that this process does not hold: what stands in a claim's way, or ends a task over it.

Each is appended under the lock (PROTOCOL section 4), so whoever is faster decides.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

from cas_events.domain import events
from cas_events.domain.commands import Cancel, Execute
from cas_events.domain.decide import Claim, Last
from cas_events.errors import InvalidCommandError
from cas_events.jetstream.messages import StoredMessage
from cas_events.runner.descent import end_children
from cas_events.runner.facts import TaskFacts
from cas_events.runner.gate import leave, leave_by
from cas_events.runner.jobs import Job
from cas_events.runner.tracing import tell_end
from cas_events.runner.turns import has_ended
from cas_events.runner.workplace import Workplace
from cas_events.wire.commands import decode_cancel, decode_execute


async def duplicate_of(place: Workplace, job: Job) -> tuple[str, str] | None:
    """Why this command is a second use of a task id, if it is."""
    return duplicate(job, await place.first_command(place.names.execute("*", job.task_id)))


def duplicate(job: Job, first: StoredMessage | None) -> tuple[str, str] | None:
    """The same, given the first command that used the id."""
    if first is None or first.subject.split(".")[3] == job.spec.agent_id:
        return None
    return events.DUPLICATE_TASK, f"the id was first used by {first.subject} at sequence {first.seq}"


async def refuse(
    place: Workplace, job: Job, claim: Claim, why: tuple[str, str], *, lock_seq: int | None = None
) -> None:
    """Append `rejected` with the reason and the raw bytes, and settle the delivery."""
    reason, detail = why
    facts = await _facts(place, job)
    is_duplicate = reason == events.DUPLICATE_TASK
    members = {"reason": reason, "detail": detail, "raw": base64.b64encode(job.command).decode()}
    seq = await place.ledger.append(
        facts.encoder(place.source, 0 if is_duplicate else claim.attempt),
        events.REJECTED,
        agent_id=job.spec.agent_id,
        index=job.hint.command_seq if is_duplicate else 0,
        time_ns=time.time_ns(),
        members={**members, "tries": 0, "command_seq": job.hint.command_seq},
        expected_seq=claim.expected_seq if lock_seq is None else lock_seq,
    )
    tell_end(facts, events.REJECTED, seq)
    await leave_by(place, job)
    place.ack(job.delivery)


async def append_over(
    place: Workplace, job: Job, last: Last | None, type_: str, members: Mapping[str, Any]
) -> None:
    """Append a terminal event without holding the task: it opens the next attempt (PROTOCOL section 3)."""
    await append_for(place, await _facts(place, job), last, type_, members)


async def _facts(place: Workplace, job: Job) -> TaskFacts:
    """What is known of a job whose command may be unreadable."""
    try:
        return job.facts(await place.rooted(decode_execute(job.command)))
    except InvalidCommandError:
        return job.facts(Execute())


async def append_for(
    place: Workplace, facts: TaskFacts, last: Last | None, type_: str, members: Mapping[str, Any]
) -> None:
    """Append a terminal event of a task that this process does not hold, expecting the lock.

    Raises:
        LostRaceError: another writer was faster.
    """
    seq = await place.ledger.append(
        facts.encoder(place.source, last.attempt + 1 if last else 1),
        type_,
        agent_id=facts.agent_id,
        index=0,
        time_ns=time.time_ns(),
        members={**members, "tries": last.tries if last else 0, "command_seq": facts.command_seq},
        expected_seq=last.seq if last else 0,
    )
    tell_end(facts, type_, seq)
    has_ended(place, facts)
    if last is not None:
        await end_children(place, *facts.key, type_)
    await leave(place, facts, has_waited=True)


async def stored_cancel(place: Workplace, task_id: str) -> Cancel | None:
    """The task's stored cancel, by a leader read."""
    stored = await place.last_command(place.names.cancel(task_id))
    return None if stored is None else decode_cancel(stored.data)
