"""Looking ahead in the queues of agents with ``priorities``, so that a task of a higher class need not stand in line.

The server knows nothing of classes and delivers in the order of arrival. So a runner reads on in the queue, beside
its work, and wakes who may overtake (``domain.ahead``): a second way to the same claim, so that a task still runs once.
A runner serves both ways by turns, so the order of arrival gets its half of the places whatever overtakes: a task of
any class starts after about twice the wait, at most, that it would have had without classes.

Best effort by design: every runner looks, what one wakes another need not, and what nobody wakes comes in its turn.
Each command is read once by each runner. Agents without ``priorities`` cost nothing.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from cas_events.domain.ahead import Ahead
from cas_events.domain.flow import DEFAULT_PRIORITY, Priority
from cas_events.errors import CasEventsError, WrongLastSequenceError
from cas_events.jetstream.messages import StoredMessage
from cas_events.runner.timers import wake_if_alone
from cas_events.runner.workplace import Workplace

_log = logging.getLogger(__name__)

LOOK_S = 0.25
PAGE = 500
PAGES_AT_ONCE = 20  # then the other agents are looked at
OVERTAKING_MAX = 2_000  # noted; beyond that reading waits
# How many may be woken and not taken yet: few, since a later one of a higher class stands behind them; more while all
# of them are taken between two looks.
WOKEN_MIN, WOKEN_MAX = 16, 1_024


class _Class(msgspec.Struct):
    """What matters of an execute here."""

    priority: Priority = DEFAULT_PRIORITY


_decode = msgspec.json.Decoder(_Class).decode


class Lookahead:
    """Looks ahead for every agent of a runner that asks for it.

    Args:
        place: what the process shares.
    """

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._queues: dict[str, Ahead] = {}
        self._bounds: dict[str, int] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while not self._place.is_stopping:
            for agent_id in self._served():
                try:
                    await self._look(agent_id, self._queues.setdefault(agent_id, Ahead()))
                except (
                    CasEventsError
                ) as problem:  # Looked at again soon; the order is that of arrival till then.
                    _log.info("the queue of %s is not looked at now: %s", agent_id, problem)
            await asyncio.sleep(LOOK_S)

    def _served(self) -> list[str]:
        """The agents that ask for it and are served now; they come and go at run time."""
        served = self._place.roster.served
        return [name for name in served if (spec := self._place.agents.get(name)) and spec.priorities]

    async def _look(self, agent_id: str, queue: Ahead) -> None:
        js, names = self._place.js, self._place.names
        line = await js.consumer_info(names.commands, f"agent-{agent_id}")
        queue.deliver(line.delivered.stream_seq)
        if not line.num_pending:
            return
        await self._read_on(agent_id, queue)
        if not len(queue):
            return
        woken = (await js.consumer_info(names.timers, f"wake-{agent_id}")).num_pending
        bound = self._bounds.get(agent_id, WOKEN_MIN)
        self._bounds[agent_id] = max(WOKEN_MIN, bound // 2) if woken else min(WOKEN_MAX, bound * 2)
        while woken < bound and (task_id := queue.overtakes()) is not None:
            woken += await self._wake(agent_id, task_id)

    async def _wake(self, agent_id: str, task_id: str) -> bool:
        """Wake a task, unless it has started or another runner has woken it."""
        if await self._place.ledger.last(agent_id, task_id) is not None:
            return False
        try:
            await wake_if_alone(self._place, agent_id, task_id)
        except WrongLastSequenceError:
            return False
        return True

    async def _read_on(self, agent_id: str, queue: Ahead) -> None:
        """Note what stands behind what has been noted."""
        subject, stream = self._place.names.execute(agent_id, "*"), self._place.names.commands
        for _ in range(PAGES_AT_ONCE):
            if len(queue) >= OVERTAKING_MAX:
                return
            messages, more = await self._place.js.direct_batch(
                stream, subject, from_seq=queue.seen_until + 1, batch=PAGE
            )
            for message in messages:
                queue.note(message.seq, message.subject.rpartition(".")[2], class_of(message))
            if not more or not messages:
                return


def class_of(command: StoredMessage) -> Priority:
    """The class of an execute; one that is unreadable, and will be rejected in its turn, is an ordinary one."""
    try:
        return _decode(command.data).priority
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return DEFAULT_PRIORITY
