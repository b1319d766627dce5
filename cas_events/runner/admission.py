"""Whether a task may be claimed here and now: its agent, its time, its turn on a thread, its slot and its start time.

One that may not waits without a place (PROTOCOL section 5): what wakes it is stored, and its delivery is acknowledged.
Or it is refused, because it comes too late or its thread is busy. A stored cancel lets it pass: the claim ends it.
"""

from __future__ import annotations

import time

from cas_events.domain.agents import AGENT_DEREGISTERED
from cas_events.domain.commands import Execute
from cas_events.domain.decide import Claim, Last
from cas_events.runner import gate
from cas_events.runner.jobs import Job
from cas_events.runner.overruling import duplicate_of, refuse, stored_cancel
from cas_events.runner.terms import terms_of
from cas_events.runner.timers import store_wake
from cas_events.runner.turns import LOOK_AGAIN_S, obstacle_of_turn, thread_of
from cas_events.runner.workplace import Workplace
from cas_events.wire.commands import EXPIRED, parse_time

CLOCK_SLACK_S = 0.001  # times are rounded on their way
CLAIMED_HERE_S = 0.5  # when to look again at a task that another delivery is being claimed for


async def has_to_wait(place: Workplace, job: Job, claim: Claim, last: Last | None, execute: Execute) -> bool:
    """Whether a task may not be claimed now; its delivery is settled then.

    Raises:
        LostRaceError: another writer was faster; decide anew.
    """
    if is_fresh(last) and (
        await _is_not_due(place, job, claim, execute) or await _is_not_its_turn(place, job, claim, execute)
    ):
        return True
    return job.spec.has_lanes and await _is_held_back(place, job, claim, last, execute)


def is_for_others(place: Workplace, job: Job) -> bool:
    """Whether nothing begins here, neither a task nor an attempt: it is given back, to begin elsewhere or later."""
    if not place.is_stopping and place.roster.stance(job.spec.agent_id) != "wait":
        return False
    place.nak(job.delivery, 0.0)
    return True


def stands_back(place: Workplace, job: Job) -> bool:
    """Whether the task is given back after all, with its agent or because it is being claimed here already."""
    if job.key in place.running:
        # Two answers at once, for example: the claim that is on its way here already goes first.
        place.nak(job.delivery, CLAIMED_HERE_S)
        return True
    return is_for_others(place, job)


async def is_refused(place: Workplace, job: Job, claim: Claim) -> bool:
    """Whether a task that has not begun is rejected, because its agent was deregistered so; a stored cancel wins."""
    if place.roster.stance(job.spec.agent_id) != "refuse" or await stored_cancel(place, job.task_id):
        return False
    detail = f"agent {job.spec.agent_id} is deregistered and takes no new tasks"
    await refuse(place, job, claim, await duplicate_of(place, job) or (AGENT_DEREGISTERED, detail))
    return True


def is_fresh(last: Last | None) -> bool:
    """Whether a task has no lifecycle event of ours yet."""
    return last is None or last.is_foreign


async def _is_not_due(place: Workplace, job: Job, claim: Claim, execute: Execute) -> bool:
    """Whether a fresh task may not start: too early (its wake is stored), or too late."""
    not_before_s = parse_time(execute.not_before)
    if not_before_s is not None and not_before_s > job.now_s + CLOCK_SLACK_S:
        # A cancel that came before its execute is acknowledged; nobody else would act on it until the task is due.
        if await stored_cancel(place, job.task_id) is not None:
            return False
        await store_wake(place, job.facts(execute), attempt=0, delay_s=not_before_s - job.now_s)
        place.ack(job.delivery)
        return True
    if place.keeper.storage.has_expired(job.command_time_ns):
        await refuse(place, job, claim, (EXPIRED, "the log no longer reaches back to this command"))
        return True
    return False


async def _is_not_its_turn(place: Workplace, job: Job, claim: Claim, execute: Execute) -> bool:
    """Whether a fresh task finds its thread busy: it waits (its wake is stored), or it is refused."""
    facts = job.facts(execute)
    if not (job.spec.has_threads and thread_of(facts)) or await stored_cancel(place, job.task_id) is not None:
        return False
    obstacle = await duplicate_of(place, job) or await obstacle_of_turn(place, facts)
    if obstacle is None:
        return False
    if obstacle != "wait":
        await refuse(place, job, claim, obstacle)
        return True
    limit_s = terms_of(job.spec, execute).queue_timeout_s
    rest_s = LOOK_AGAIN_S if limit_s is None else limit_s - waited_s(job, execute)
    if rest_s <= 0:
        return False  # The claim finds that it has waited too long.
    await store_wake(place, facts, attempt=0, delay_s=min(rest_s + CLOCK_SLACK_S, LOOK_AGAIN_S))
    place.ack(job.delivery)
    return True


async def _is_held_back(
    place: Workplace, job: Job, claim: Claim, last: Last | None, execute: Execute
) -> bool:
    """Whether a task finds no room in its key or its agent's rate: it waits, or it was refused."""
    if await stored_cancel(place, job.task_id) is not None:
        return False
    second_use = await duplicate_of(place, job) if is_fresh(last) else None
    if second_use is not None:
        await refuse(place, job, claim, second_use)
        return True
    limit_s = terms_of(job.spec, execute).queue_timeout_s if is_fresh(last) else None
    rest_s = None if limit_s is None else limit_s - waited_s(job, execute) + CLOCK_SLACK_S
    return await gate.has_to_wait(place, job, claim, last, execute, limit_s=rest_s)


def waited_s(job: Job, execute: Execute) -> float:
    """Seconds since a task could have started."""
    return time.time() - max(job.command_time_ns / 1e9, parse_time(execute.not_before) or 0.0)
