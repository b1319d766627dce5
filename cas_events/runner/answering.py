"""A delivery that finds its task interrupted: a stored cancel, a stored answer, or a time that is over.

The delivery is in hand and not acknowledged, so what it finds is governed by it: if this process dies on the way, the
delivery comes again and finds the same.
"""

from __future__ import annotations

from dataclasses import replace

from cas_events.domain import events
from cas_events.domain.commands import Execute
from cas_events.domain.decide import Last, ReadAnswers, answer
from cas_events.runner.claiming import claim_and_run
from cas_events.runner.endings import cancelled_members
from cas_events.runner.gate import leave_by
from cas_events.runner.jobs import Job
from cas_events.runner.overruling import append_over, stored_cancel
from cas_events.runner.questions import Answer, stored_answer
from cas_events.runner.registry import NO_DEFAULT
from cas_events.runner.timers import store_wake
from cas_events.runner.workplace import Workplace
from cas_events.wire.jsonvalue import encode_json


async def act_on_answers(place: Workplace, job: Job, action: ReadAnswers, last: Last) -> bool:
    """Act on what is stored for an interrupted task, else acknowledge; whether to decide anew.

    Raises:
        LostRaceError: another writer was faster.
    """
    cancel = await stored_cancel(place, job.task_id)
    if cancel is not None:
        await append_over(place, job, last, events.CANCELLED, cancelled_members(cancel, started=True))
        place.ack(job.delivery)
        return False
    facts = job.facts(Execute())
    found = await stored_answer(place, facts, action.interrupts)
    if found is None and action.overdue and job.spec.interrupt_default is not NO_DEFAULT:
        body = encode_json({"value": job.spec.interrupt_default}, path="interrupt_default")
        found = Answer(action.overdue[0], body)
    if found is not None:
        return await claim_and_run(place, replace(job, answer=found), answer(last), last, is_first=False)
    if action.overdue:
        await _fail(place, job, action, last)
    elif job.hint.kind == "wake" and last.timeouts:
        due_s = min(due_s for _, due_s in last.timeouts)
        await store_wake(place, facts, attempt=last.attempt, delay_s=due_s - job.now_s)
    await leave_by(place, job, attempt=last.attempt)
    place.ack(job.delivery)
    return False


async def _fail(place: Workplace, job: Job, action: ReadAnswers, last: Last) -> None:
    """The time of an interrupt is over."""
    problem = {"type": "InterruptTimeoutError", "message": f"nobody answered {action.overdue[0]} in time"}
    await append_over(place, job, last, events.FAILED, {"error": problem, "reason": "timeout"})
