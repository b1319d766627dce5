"""The gate before an attempt: slots per key and the agent's rate, for the whole fleet (``lanes``, ``domain.flow``).

A task that has to wait holds no place: it is stored as waiting, its delivery is acknowledged, and whoever makes room
wakes it. It passes by its key first and takes its start time last, so that the rate holds for starts. A crash's next
attempt passes, since the task has its slot still; so the death of a runner frees nothing and loses nothing. A slot is
given back after the event that ends its use and before the delivery is acknowledged: who dies in between leaves a
delivery that comes again, to somebody who gives it back (`leave`). A schedule lets each waiting task look for itself
now and then.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from cas_events.domain.commands import Execute
from cas_events.domain.decide import Claim, Last
from cas_events.domain.flow import DEFAULT_PRIORITY, key_of
from cas_events.errors import InvalidCommandError
from cas_events.runner.lanes import (
    LaneLog,
    free_slot,
    pass_slots_on,
    pass_starts_on,
    take_slot,
    take_start,
)
from cas_events.runner.timers import LOOK, START, purpose_of, store_wake
from cas_events.wire.commands import decode_execute
from cas_events.wire.flow import LaneSubjects, Waiter

if TYPE_CHECKING:
    from cas_events.runner.facts import TaskFacts
    from cas_events.runner.jobs import Job
    from cas_events.runner.registry import AgentSpec
    from cas_events.runner.workplace import Workplace

LOOK_AGAIN_S = 20.0
LOOK_AGAIN_MAX_S = 300.0
AT_ONCE_S = 0.02  # a start time so near is waited for here: a schedule takes as long


class Gate:
    """The lanes that one task has to pass.

    Args:
        place: what the process shares.
        spec: the task's agent.
        facts: the task.
    """

    def __init__(self, place: Workplace, spec: AgentSpec, facts: TaskFacts) -> None:
        self._place = place
        self._facts = facts
        self._priority = facts.execute.priority or DEFAULT_PRIORITY
        self._limit = spec.concurrency_per_key
        self._rate_per_s = spec.rate_per_s
        key = None if self._limit is None else key_of(facts.execute, spec.key)
        names, agent_id = place.names, facts.agent_id
        self._slots = None if key is None else self._log(LaneSubjects.of_key(names, agent_id, key))
        is_free = self._rate_per_s is None
        self._starts = None if is_free else self._log(LaneSubjects.of_rate(names, agent_id))

    def _log(self, subjects: LaneSubjects) -> LaneLog:
        return LaneLog(self._place, self._facts.agent_id, subjects)

    async def lets_pass(self, waiter: Waiter, *, purpose: str, look_s: float) -> bool:
        """Whether the task may start now; if not, it waits, and its delivery is to be acknowledged.

        Args:
            waiter: how it would be woken.
            purpose: what the wake says that it is for, if it is one.
            look_s: how long it waits until it looks for itself.
        """
        slots, limit = self._slots, self._limit
        if slots is not None and limit is not None:
            task_id = self._facts.task_id
            if not await take_slot(slots, limit, task_id, after=waiter.after):
                await self._wait(slots, waiter, look_s)
                await pass_slots_on(slots, limit, looks_for_idle=purpose == LOOK)
                return False
        starts, rate_per_s = self._starts, self._rate_per_s
        if starts is None or rate_per_s is None:
            return True
        if purpose == START:
            await pass_starts_on(starts, rate_per_s)
            return True
        return await self._has_start(starts, rate_per_s, waiter, look_s)

    async def _has_start(self, starts: LaneLog, rate_per_s: float, waiter: Waiter, look_s: float) -> bool:
        start_ns = await take_start(starts, rate_per_s, now_ns=time.time_ns())
        if start_ns is None:
            await self._wait(starts, waiter, look_s)
            await pass_starts_on(starts, rate_per_s)
            return False
        wait_s = (start_ns - time.time_ns()) / 1e9
        if wait_s <= AT_ONCE_S:
            await asyncio.sleep(max(wait_s, 0.0))
            return True
        await self._store_wake(waiter, wait_s, START)
        return False

    async def _wait(self, log: LaneLog, waiter: Waiter, look_s: float) -> None:
        # The schedule first: the one of the task's start time takes its place.
        await self._store_wake(waiter, look_s, LOOK)
        await log.wait(self._facts.task_id, self._priority, waiter)

    async def _store_wake(self, waiter: Waiter, delay_s: float, purpose: str) -> None:
        await store_wake(
            self._place,
            self._facts,
            attempt=waiter.after,
            delay_s=delay_s,
            purpose=purpose,
            command_seq=waiter.command_seq,
        )

    async def leave(self, *, attempt: int | None, has_waited: bool) -> None:
        """Give the slot back and admit who is next; see `leave`."""
        if self._slots is not None and self._limit is not None:
            if has_waited:
                await self._slots.wait_no_more(self._facts.task_id, self._priority)
            await free_slot(self._slots, self._facts.task_id, attempt=attempt)
            await pass_slots_on(self._slots, self._limit)
        if has_waited and self._starts is not None and self._rate_per_s is not None:
            await self._starts.wait_no_more(self._facts.task_id, self._priority)
            await pass_starts_on(self._starts, self._rate_per_s)


async def has_to_wait(
    place: Workplace, job: Job, claim: Claim, last: Last | None, execute: Execute, *, limit_s: float | None
) -> bool:
    """Whether a task may not start yet: then it waits without a place, and its delivery is acknowledged.

    Args:
        place: what the process shares.
        job: the delivery.
        claim: what the delivery table said.
        last: the task's last lifecycle event, if any.
        execute: the task's command.
        limit_s: how long it may still wait for its first start; None for no limit.
    """
    if claim.after_crash or claim.after_resumed or (limit_s is not None and limit_s <= 0):
        return False
    is_started = last is not None and not last.is_foreign
    waiter = Waiter(
        after=last.attempt if last is not None and is_started else 0,
        command_seq=last.command_seq if last is not None and is_started else job.hint.command_seq,
    )
    waited_s = time.time() - job.command_time_ns / 1e9
    look_s = min(max(LOOK_AGAIN_S, waited_s), LOOK_AGAIN_MAX_S)
    purpose = purpose_of(job.delivery.data) if job.offer.source.kind == "wake" else ""
    gate = Gate(place, job.spec, job.facts(execute))
    if await gate.lets_pass(
        waiter, purpose=purpose, look_s=look_s if limit_s is None else min(look_s, limit_s)
    ):
        return False
    place.ack(job.delivery)
    return True


async def leave(
    place: Workplace, facts: TaskFacts, *, attempt: int | None = None, has_waited: bool = False
) -> None:
    """A task needs its slot no more; whoever is next is admitted. Twice does no harm.

    Args:
        place: what the process shares.
        facts: the task.
        attempt: the attempt that goes to wait; None if the task has ended.
        has_waited: it has ended without running here, so it may be among the waiting ones.
    """
    spec = place.agents.get(facts.agent_id)
    if spec is not None and spec.has_lanes:
        await Gate(place, spec, facts).leave(attempt=attempt, has_waited=has_waited)


async def leave_by(place: Workplace, job: Job, *, attempt: int | None = None) -> None:
    """The same, for a delivery that finds nothing left to do."""
    if job.spec.has_lanes:
        try:
            execute = decode_execute(job.command)
        except InvalidCommandError:
            return  # It was never admitted.
        await leave(place, job.facts(execute), attempt=attempt, has_waited=attempt is None)
