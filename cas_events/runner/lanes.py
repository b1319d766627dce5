"""One lane in the log: slots or start times taken, and passed on to who waits (the rules are ``domain.flow``'s).

The lane is one message, replaced under the condition that it is what was read. Who finds no room first stores that it
waits and then looks for room once more; who makes room first changes the lane and then looks who waits. So one of the
two sees the other, and nobody is forgotten. Admitting is: change the lane, wake the admitted task, remove its message
from the waiting ones. Whoever dies in between leaves that message, and the next one to look finishes the work.

What it does not do: decide what becomes of a delivery; that is ``gate``'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cas_events.domain.flow import PRIORITIES, Lane, Priority, holds_on, next_class
from cas_events.errors import WireError, WrongLastSequenceError
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently
from cas_events.runner.timers import store_start, wake_now
from cas_events.wire.flow import LaneSubjects, Waiter, decode_lane, decode_waiter, encode

if TYPE_CHECKING:
    from cas_events.runner.workplace import Workplace

_log = logging.getLogger(__name__)


class LaneLog:
    """One lane of an agent, as stored.

    Args:
        place: what the process shares.
        agent_id: whose lane it is.
        subjects: of the lane.
    """

    def __init__(self, place: Workplace, agent_id: str, subjects: LaneSubjects) -> None:
        self._place = place
        self._agent_id = agent_id
        self._subjects = subjects
        self._stream = place.names.checkpoints

    async def read(self) -> tuple[Lane, int]:
        """The lane, and the sequence of its message; 0 if there is none."""
        found = await self._last(self._subjects.lane)
        if found is None:
            return Lane(), 0
        try:
            return decode_lane(found.data), found.seq
        except WireError as problem:
            _log.warning("%s counts as empty: %s", self._subjects.lane, problem)
            return Lane(), found.seq

    async def write(self, lane: Lane, *, expected_seq: int) -> bool:
        """Replace it; False if it has changed since, or may have."""
        try:
            await patiently(
                lambda: self._place.js.append(
                    self._subjects.lane, encode(lane), expected_last_seq=expected_seq
                )
            )
        except WrongLastSequenceError:
            return False
        return True

    async def wait(self, task_id: str, priority: Priority, waiter: Waiter) -> None:
        """Store that a task waits; once stored, it keeps its place in the order of arrival."""
        subject = self._subjects.waiter(priority, task_id)
        try:
            await patiently(lambda: self._place.js.append(subject, encode(waiter), expected_last_seq=0))
        except WrongLastSequenceError:
            _log.debug("task %s waits already", task_id)

    async def wait_no_more(self, task_id: str, priority: Priority) -> None:
        """Remove a task from the waiting ones, if it is one."""
        found = await self._last(self._subjects.waiter(priority, task_id))
        if found is not None:
            self.forget(found.seq)

    async def somebody_waits(self) -> bool:
        """Whether any task waits."""
        return await self._first(self._subjects.everybody) is not None

    async def heads(self, behind: Mapping[Priority, int]) -> dict[Priority, StoredMessage]:
        """Who is first in each class in which somebody waits, behind these sequences, which are dealt with."""
        if not await self.somebody_waits():
            return {}
        found = await asyncio.gather(
            *(
                self._first(self._subjects.of_class(name), from_seq=behind.get(name, 0) + 1)
                for name in PRIORITIES
            )
        )
        return {name: head for name, head in zip(PRIORITIES, found, strict=True) if head is not None}

    async def _last(self, subject: str) -> StoredMessage | None:
        return await patiently(lambda: self._place.js.last_message(self._stream, subject))

    async def _first(self, subject_filter: str, *, from_seq: int = 1) -> StoredMessage | None:
        return await patiently(
            lambda: self._place.js.next_message(self._stream, subject_filter, from_seq=from_seq)
        )

    async def has_ended(self, task_id: str) -> bool:
        """Whether a task's last lifecycle event is a terminal one."""
        last = await self._place.ledger.last(self._agent_id, task_id)
        return last is not None and last.is_terminal

    def forget(self, seq: int) -> None:
        """Remove a message by its sequence, so that a newer one stays; what remains is found by the next one to look."""
        if self._place.connection.is_connected:
            self._place.js.forget(self._stream, seq)

    async def wake(self, waiting: StoredMessage, *, start_ns: int | None = None) -> None:
        """Have an admitted task claimed, now or at its start time."""
        task_id, waiter = task_of(waiting), decode_waiter(waiting.data)
        if start_ns is None:
            await wake_now(
                self._place, self._agent_id, task_id, attempt=waiter.after, command_seq=waiter.command_seq
            )
        else:
            await store_start(
                self._place, (self._agent_id, task_id), waiter.after, waiter.command_seq, start_ns=start_ns
            )

    async def idle_holders(self, lane: Lane) -> list[str]:
        """Who has a slot and no need of it: its end was stored, and who stored it died before passing the slot on."""
        lasts = await asyncio.gather(
            *(self._place.ledger.last(self._agent_id, slot.task) for slot in lane.held)
        )
        return [slot.task for slot, last in zip(lane.held, lasts, strict=True) if not holds_on(slot, last)]


def task_of(waiting: StoredMessage) -> str:
    """The task that a waiting one's message is about."""
    return waiting.subject.rpartition(".")[2]


async def take_slot(log: LaneLog, limit: int, task_id: str, *, after: int) -> bool:
    """Take a slot if one is free and nobody waits for it; True too if the task has one."""
    while True:
        lane, seq = await log.read()
        mine = lane.slot_of(task_id)
        if mine is not None and mine.after == after:
            return True
        if mine is None and (len(lane.held) >= limit or await log.somebody_waits()):
            return False
        if await log.write(lane.with_slot(task_id, after=after), expected_seq=seq):
            return True


async def free_slot(log: LaneLog, task_id: str, *, attempt: int | None) -> None:
    """Give the task's slot back, unless it was admitted anew after that attempt; None: whichever it has."""
    while True:
        lane, seq = await log.read()
        mine = lane.slot_of(task_id)
        if mine is None or (attempt is not None and mine.after >= attempt):
            return
        if await log.write(lane.without(task_id), expected_seq=seq):
            return


async def pass_slots_on(log: LaneLog, limit: int, *, looks_for_idle: bool = False) -> None:
    """Give free slots to who waits, in the order of ``domain.flow``, and finish what somebody else left half done."""
    done: dict[Priority, int] = {}
    while True:
        lane, seq = await log.read()
        heads = await log.heads(done)
        if not heads:
            if not lane.held and seq:
                log.forget(seq)
            return
        admitted = {name: head for name, head in heads.items() if lane.slot_of(task_of(head)) is not None}
        if not admitted and len(lane.held) >= limit:
            if not looks_for_idle or not await _drop_idle(log, lane, seq):
                return
            continue
        if not admitted:
            name = next_class(lane.turn, heads.keys())
            if not await _admit(log, heads[name], lane, seq):
                continue
            admitted = {name: heads[name]}
        for name, head in admitted.items():
            await log.wake(head)
            log.forget(head.seq)
            done[name] = head.seq


async def _drop_idle(log: LaneLog, lane: Lane, seq: int) -> bool:
    """Take the slots of those who need none; whether there are any."""
    idle = await log.idle_holders(lane)
    if idle:
        await log.write(lane.without(*idle), expected_seq=seq)
    return bool(idle)


async def _admit(log: LaneLog, head: StoredMessage, lane: Lane, seq: int) -> bool:
    """Give a slot to a waiting task; False if the lane has changed since it was read."""
    lane = lane.with_slot(task_of(head), after=decode_waiter(head.data).after)
    return await log.write(lane.next_turn(), expected_seq=seq)


async def take_start(log: LaneLog, rate_per_s: float, *, now_ns: int) -> int | None:
    """Take a start time if there is one within the horizon and nobody waits for it; nanoseconds since the epoch."""
    while True:
        lane, seq = await log.read()
        taken = lane.reserve(rate_per_s, now_ns=now_ns)
        if taken is None or await log.somebody_waits():
            return None
        lane, start_ns = taken
        if await log.write(lane, expected_seq=seq):
            return start_ns


async def pass_starts_on(
    log: LaneLog, rate_per_s: float, *, now_ns: Callable[[], int] = time.time_ns
) -> None:
    """Give the start times within the horizon to who waits, in the order of ``domain.flow``."""
    done: dict[Priority, int] = {}
    while True:
        lane, seq = await log.read()
        taken = lane.reserve(rate_per_s, now_ns=now_ns())
        heads = await log.heads(done) if taken is not None else {}
        if taken is None or not heads:
            return
        name = next_class(lane.turn, heads.keys())
        head = heads[name]
        if not await log.has_ended(task_of(head)):  # A start time that nobody uses is lost.
            if not await log.write(taken[0].next_turn(), expected_seq=seq):
                continue
            await log.wake(head, start_ns=taken[1])
        log.forget(head.seq)
        done[name] = head.seq
