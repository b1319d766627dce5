"""Claiming a task: from the table's `Claim` to a running attempt, or to what stands in its way.

PROTOCOL section 4: a claim appends `started` expecting the lock. A stored cancel wins over it; duplicates are
checked before the body; the append comes before claim checks are fetched or user code sees the input, so an input
that kills its runner costs tries. On a first delivery the append goes out at once, with the reads beside it.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from msgspec import structs

from cas_events.domain import events
from cas_events.domain.commands import Execute
from cas_events.domain.decide import Claim, Last
from cas_events.errors import (
    ConnectionLostError,
    InvalidCommandError,
    NotConnectedError,
    PayloadTooLargeError,
    WireError,
)
from cas_events.jetstream.patience import patiently
from cas_events.runner.admission import (
    has_to_wait,
    is_for_others,
    is_fresh,
    is_refused,
    stands_back,
    waited_s,
)
from cas_events.runner.endings import cancelled_members
from cas_events.runner.execution import Execution
from cas_events.runner.gate import leave
from cas_events.runner.jobs import Job
from cas_events.runner.overruling import append_over, duplicate, duplicate_of, refuse, stored_cancel
from cas_events.runner.questions import is_readable
from cas_events.runner.tracing import traced
from cas_events.runner.workplace import Workplace
from cas_events.wire.claims import is_claim
from cas_events.wire.commands import BAD_CLAIM_CHECK, decode_cancel, decode_execute
from cas_events.wire.jsonvalue import decode_json

_log = logging.getLogger(__name__)


async def claim_and_run(
    place: Workplace, job: Job, claim: Claim, last: Last | None, *, is_first: bool
) -> bool:
    """Claim a task and run it to the end of the attempt; or settle it otherwise.

    Args:
        place: what the process shares.
        job: the delivery.
        claim: what the delivery table said.
        last: the task's last lifecycle event, if any.
        is_first: a first delivery, for which nothing has been read yet.

    Returns:
        Whether the delivery is to be decided anew: it is not settled, and the task has an answer to go on with.

    Raises:
        LostRaceError: another writer was faster; decide anew.
    """
    if is_for_others(place, job) or (is_fresh(last) and await is_refused(place, job, claim)):
        return False
    try:
        execute = decode_execute(job.command)
    except InvalidCommandError as error:
        await refuse(place, job, claim, await duplicate_of(place, job) or (error.reason, str(error)))
        return False
    execute = await _with_thread(place, job, await place.rooted(execute))
    if await has_to_wait(place, job, claim, last, execute):
        return False
    if stands_back(place, job):
        return False
    if (
        claim.resume
        and last is not None
        and not await is_readable(place, job.facts(execute), last, job.answer)
    ):
        return True
    facts, trace = traced(job.facts(execute), claim, last)
    execution = Execution(place, job.spec, facts, job.offer, claim, trace)
    place.running[execution.facts.key] = execution
    place.desk.claims.add(execution.facts.key)
    is_first = (
        is_first
        and execution.terms.queue_timeout_s is None
        and not place.breakers.fails_fast(job.spec.agent_id)
    )
    try:
        is_open = await (
            _open_first(place, job, execution) if is_first else _open(place, job, execution, last)
        )
        if is_open:
            fetched = await _fetch_large(place, execution)
    except BaseException:
        execution.release()
        raise
    if is_open:
        _tell_claimed(place, job, execution, last)
    if is_open and fetched is not None:
        input_, execution.metadata = fetched
        await execution.run(input_)
        job.offer.delivery = execution.delivery  # It may have been delivered again meanwhile.
        return execution.is_answered
    execution.release()
    return False


async def _with_thread(place: Workplace, job: Job, execute: Execute) -> Execute:
    """A graph's command with its metadata, however large: they name the thread, whose turn is asked for first."""
    if not (job.spec.has_threads and is_claim(execute.metadata)):
        return execute
    found, _ = await _read_claim(place, execute.metadata)
    # One that leads nowhere is left for the claim, which rejects the task.
    return execute if found is None else structs.replace(execute, metadata=found)


# --- opening the attempt -------------------------------------------------------------------------------------------------


async def _open_first(place: Workplace, job: Job, execution: Execution) -> bool:
    """Append `started` at once, with the reads beside it; whether user code may run."""
    cancel_subject = place.names.cancel(job.task_id)
    any_execute = place.names.execute("*", job.task_id)
    try:
        reads = place.reads.last(cancel_subject), place.reads.first(any_execute)
    except NotConnectedError:
        reads = None  # They are made up for below, once the append has gone through.
    appended = await execution.append(events.STARTED, _started_members(place, execution))
    execution.begin(appended)
    try:
        cancel, first = (await reads[0], await reads[1]) if reads else (None, None)
    except ConnectionLostError:
        reads = None
    if reads is None:
        cancel, first = await place.last_command(cancel_subject), await place.first_command(any_execute)
    second_use = duplicate(job, first)
    if second_use is not None:
        await refuse(place, job, execution.claim, second_use, lock_seq=appended)
        return False
    if cancel is not None:
        await execution.append(events.CANCELLED, cancelled_members(decode_cancel(cancel.data), started=False))
        await leave(place, execution.facts)
        place.ack(job.delivery)
        return False
    return True


async def _open(place: Workplace, job: Job, execution: Execution, last: Last | None) -> bool:
    """Read first, then append `started` or what stands in its way; whether user code may run."""
    # A `started` goes out beside the look at the id's first use: who died in it may not have looked.
    if is_fresh(last) or execution.claim.after_crash:
        second_use = await duplicate_of(place, job)
        if second_use is not None:
            await refuse(place, job, execution.claim, second_use)
            return False
    obstacle = await _obstacle(place, job, execution, last)
    if obstacle is not None:
        await append_over(place, job, last, *obstacle)
        place.ack(job.delivery)
        return False
    lock_seq = execution.claim.expected_seq
    if execution.claim.resume:
        assert job.answer is not None
        members = {"interrupt_id": job.answer.interrupt, "value": job.answer.value()}
        lock_seq = await execution.append(events.RESUMED, members, expected_seq=lock_seq)
    started = await execution.append(
        events.STARTED, _started_members(place, execution), expected_seq=lock_seq
    )
    execution.begin(started)
    return True


async def _obstacle(
    place: Workplace, job: Job, execution: Execution, last: Last | None
) -> tuple[str, dict[str, Any]] | None:
    """The terminal event that stands in a claim's way, if any; a stored cancel wins over everything."""
    cancel = await stored_cancel(place, job.task_id)
    if cancel is not None:
        return events.CANCELLED, cancelled_members(cancel, started=not is_fresh(last))
    claim = execution.claim
    if place.breakers.fails_fast(job.spec.agent_id):
        problem = {
            "type": "CircuitOpenError",
            "message": f"the circuit breaker of {job.spec.agent_id} is open",
        }
        return events.FAILED, {"error": problem, "reason": "circuit_open"}
    waited_too_long = _queue_problem(job, execution, last)
    if waited_too_long is not None:
        return events.FAILED, {"error": waited_too_long, "reason": "timeout"}
    problem = {"type": "RunnerLostError", "message": "the runner of the last attempt is gone"}
    if claim.after_crash and job.spec.on_crash == "fail":
        return events.FAILED, {"error": problem, "reason": "error"}
    if claim.tries > execution.terms.max_attempts:
        return events.FAILED, {"error": problem, "reason": "attempts_exhausted"}
    return None


def _queue_problem(job: Job, execution: Execution, last: Last | None) -> dict[str, Any] | None:
    """The error of a task that has waited too long for its first start, if it has."""
    limit_s = execution.terms.queue_timeout_s
    if limit_s is None or not is_fresh(last):
        return None
    so_far_s = waited_s(job, execution.facts.execute)
    if so_far_s <= limit_s:
        return None
    message = f"the task waited {so_far_s:.1f} s for its start, longer than {limit_s:g} s"
    return {"type": "QueueTimeoutError", "message": message}


def _tell_claimed(place: Workplace, job: Job, execution: Execution, last: Last | None) -> None:
    since_s = waited_s(job, execution.facts.execute) if is_fresh(last) else None
    if since_s is not None:
        execution.trace.waited(time.time() - since_s)
    place.meter.claimed(job.spec.agent_id, waited_s=since_s, after_crash=execution.claim.after_crash)


def _started_members(place: Workplace, execution: Execution) -> dict[str, Any]:
    claim = execution.claim
    return {
        "input": execution.facts.execute.input,
        "runner": place.runner_id,
        "resumed": claim.resume or claim.after_resumed,
    }


async def _fetch_large(
    place: Workplace, execution: Execution
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Input and metadata themselves; None if a claim check leads nowhere, which has rejected the task."""
    execute = execution.facts.execute
    if not (is_claim(execute.input) or is_claim(execute.metadata)):
        return execute.input, execute.metadata
    input_ = await _fetch(place, execution, "input", execute.input)
    if input_ is None:
        return None
    metadata = await _fetch(place, execution, "metadata", execute.metadata)
    return None if metadata is None else (input_, metadata)


async def _fetch(
    place: Workplace, execution: Execution, name: str, value: dict[str, Any]
) -> dict[str, Any] | None:
    """A member of the command itself; None if its claim check leads nowhere, which rejects the task."""
    if not is_claim(value):
        return value
    found, problem = await _read_claim(place, value)
    if found is not None:
        return found
    members = {"reason": BAD_CLAIM_CHECK, "detail": f"{name}: {problem}", "raw": ""}
    await execution.append(events.REJECTED, members)
    await leave(place, execution.facts)
    place.ack(execution.delivery)
    return None


async def _read_claim(place: Workplace, value: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The JSON object that a claim check stands for; None, and why, if it leads nowhere."""
    try:
        limit_bytes = place.limits.claim_bytes_max
        blob = await patiently(lambda: place.blobs.get(value["sha256"], max_bytes=limit_bytes))
        found = decode_json(blob)
    except (WireError, PayloadTooLargeError) as error:
        return None, str(error)
    return (found, "") if isinstance(found, dict) else (None, "its object holds no JSON object")
