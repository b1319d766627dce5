"""Turns on a shared thread: asked for before a task is claimed, passed on when it has ended.

The line (``domain.turns``) is one message beside the thread's checkpoints, replaced under the condition that it is
what was read. A task that waits has no lifecycle event yet and holds no place: its command is acknowledged, and a
schedule wakes it now and then, in case that whoever ends before it dies before it has passed the turn on. Usually the
turn is passed on at once, by a wake of the next in the line.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from cas_events.domain.turns import STRATEGIES, Place, TaskKey, Verdict, leave, take_turn
from cas_events.errors import ServerError, WrongLastSequenceError
from cas_events.jetstream.patience import patiently
from cas_events.runner.timers import wake_now
from cas_events.wire.commands import BAD_BODY
from cas_events.wire.threads import ThreadSubjects

if TYPE_CHECKING:
    from cas_events.runner.facts import TaskFacts
    from cas_events.runner.workplace import Workplace

_log = logging.getLogger(__name__)

LOOK_AGAIN_S = 20.0
THREAD_BUSY = "thread_busy"

Turn = Literal["mine", "wait", "refused"]
_decode = msgspec.json.Decoder(list[Place]).decode


def thread_of(facts: TaskFacts) -> str:
    """The shared thread of a task, by its metadata; empty if it has one of its own."""
    return thread_named(facts.execute.metadata)


def thread_named(metadata: Mapping[str, Any]) -> str:
    """The thread that a task's metadata names; empty if it names none."""
    thread_id = metadata.get("thread_id")
    return "" if thread_id is None else str(thread_id)


async def obstacle_of_turn(place: Workplace, facts: TaskFacts) -> tuple[str, str] | Literal["wait"] | None:
    """What keeps a task that has not started from its thread; None if nothing does, or it has no shared thread.

    Returns:
        Why it is rejected (reason and detail), or that it waits for its turn.
    """
    thread_id = thread_of(facts)
    if not thread_id:
        return None
    strategy = facts.execute.metadata.get("multitask_strategy", "enqueue")
    if strategy not in STRATEGIES:
        words = ", ".join(STRATEGIES)
        return BAD_BODY, f"metadata.multitask_strategy is {strategy!r}; use one of {words}"
    turn, holder = await Line(place, thread_id).take_turn(facts)
    if turn == "refused":
        return THREAD_BUSY, f"thread {thread_id} is busy with task {holder}"
    return "wait" if turn == "wait" else None


class Line:
    """The line of one thread.

    Args:
        place: what the process shares.
        thread_id: the thread.
    """

    def __init__(self, place: Workplace, thread_id: str) -> None:
        self._place = place
        self._subject = ThreadSubjects.of(place.names, thread_id).line

    async def read(self) -> tuple[list[Place], int]:
        """The line, and the sequence of its message."""
        stream = self._place.names.checkpoints
        found = await patiently(lambda: self._place.js.last_message(stream, self._subject))
        if found is None:
            return [], 0
        try:
            return _decode(found.data), found.seq
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
            _log.warning("a line that is none of ours on %s counts as empty: %s", self._subject, problem)
            return [], found.seq

    async def _write(self, line: Sequence[Place], *, expected_seq: int) -> bool:
        """Replace it; False if it has changed since, or may have."""
        data = msgspec.json.encode(line)
        try:
            await patiently(
                lambda: self._place.js.append(self._subject, data, expected_last_seq=expected_seq)
            )
        except WrongLastSequenceError:
            return False
        return True

    async def take_turn(self, facts: TaskFacts) -> tuple[Turn, str]:
        """Join the line; what follows, and who is before the task."""
        strategy = facts.execute.metadata.get("multitask_strategy", "enqueue")
        while True:
            line, seq = await self.read()
            verdict = take_turn(line, facts.key, strategy, ended=await self._ended(line, facts.key))
            if verdict.line == tuple(line) or await self._write(verdict.line, expected_seq=seq):
                break
        if verdict.is_refused:
            return "refused", verdict.line[0].task
        if verdict.is_mine:
            return "mine", ""
        await self._cancel(verdict, facts)
        return "wait", verdict.line[0].task

    async def _ended(self, line: Sequence[Place], me: TaskKey) -> set[TaskKey]:
        """Those at the line's beginning that have ended."""
        ended: set[TaskKey] = set()
        for place in line:
            if place.key == me or not await self.has_ended(place.key):
                break
            ended.add(place.key)
        return ended

    async def has_ended(self, task: TaskKey) -> bool:
        """Whether a task's last word is a terminal event."""
        last = await self._place.ledger.last(*task)
        return last is not None and last.is_terminal

    async def _cancel(self, verdict: Verdict, facts: TaskFacts) -> None:
        from cas_events.submit import send_cancel  # noqa: PLC0415 - Only these two strategies cancel.

        reason = f"task {facts.task_id} took the thread over"
        for _, task_id in verdict.ahead:
            await send_cancel(self._place.js, self._place.names, task_id, reason, "multitask_strategy")

    async def undone_by(self, me: TaskKey) -> list[str]:
        """The tasks whose checkpoints this one deletes before it begins."""
        line, _ = await self.read()
        return next((place.undo for place in line if place.key == me), [])

    async def pass_on(self, me: TaskKey) -> None:
        """The task has ended: wake the next one."""
        while True:
            line, seq = await self.read()
            rest = leave(line, me)
            if len(rest) == len(line) or await self._write(rest, expected_seq=seq):
                break
        if rest and await self._place.ledger.last(*rest[0].key) is None:
            await wake_now(self._place, *rest[0].key)


def has_ended(place: Workplace, facts: TaskFacts) -> None:
    """A task has ended, whoever ended it: if it had a shared thread, the next one's turn has come."""
    thread_id = thread_of(facts)
    if thread_id:
        place.spawn(_pass_on(place, thread_id, facts.key))


async def _pass_on(place: Workplace, thread_id: str, me: TaskKey) -> None:
    try:
        await Line(place, thread_id).pass_on(me)
    except ServerError as problem:
        _log.info("the next task of thread %s is woken by its schedule: %s", thread_id, problem)
