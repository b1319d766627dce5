"""Cancels: heard on core NATS for speed, delivered by the shared consumer for certainty (PROTOCOL section 6).

What is heard may not have been stored, so it is confirmed by a leader read. What is delivered is acknowledged only
when the task's last event is terminal or no execute exists; until then it comes back, and when the owner has had its
grace and a lease, any runner ends the task under the lock, whoever the owner is.
"""

from __future__ import annotations

import asyncio
import logging
import time

from cas_events.domain import events
from cas_events.domain.commands import Cancel, Execute
from cas_events.domain.decide import Last
from cas_events.errors import InvalidCommandError
from cas_events.jetstream.connection import Message
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.queue import Delivery
from cas_events.runner.descent import end_children
from cas_events.runner.endings import cancelled_members
from cas_events.runner.facts import TaskFacts
from cas_events.runner.holds import Offer
from cas_events.runner.ledger import LostRaceError
from cas_events.runner.overruling import append_for, stored_cancel
from cas_events.runner.workplace import Workplace
from cas_events.wire.commands import decode_cancel, decode_execute

_log = logging.getLogger(__name__)

# It is heard before it is stored, on several replicas by milliseconds; what is never stored is forgotten.
CONFIRM_PAUSES_S = (0.0, 0.01, 0.05, 0.25, 1.0)


class Cancels:
    """Ends tasks on request."""

    def __init__(self, place: Workplace) -> None:
        self._place = place

    def hear(self, message: Message) -> None:
        """A cancel passed by on core NATS: if the task runs here, make sure that it is stored, then act."""
        subject = self._place.names.parse_command(message.subject)
        if subject is not None and self._place.running_with_id(subject.task):
            self._place.spawn(self._confirm(subject.task))

    async def _confirm(self, task_id: str) -> None:
        for pause_s in CONFIRM_PAUSES_S:
            await asyncio.sleep(pause_s)
            cancel = await stored_cancel(self._place, task_id)
            if cancel is not None:
                for execution in self._place.running_with_id(task_id):
                    execution.cancel(cancel)
                return

    async def handle(self, offer: Offer) -> None:
        """Deal with one delivered cancel."""
        delivery = offer.delivery
        subject = self._place.names.parse_command(delivery.subject)
        if subject is None or await self._is_final(subject.task, delivery):
            self._place.ack(delivery)
            return
        rest_s = self._owner_has_s(offer)
        self._place.nak(delivery, max(rest_s, 0.5))

    async def _is_final(self, task_id: str, delivery: Delivery) -> bool:
        """Bring the task to its end if that is anybody's to do now; whether nothing is left to do."""
        cancel = decode_cancel(delivery.data)
        for mine in self._place.running_with_id(task_id):
            mine.cancel(cancel)
            # A task that ends on request does so within its grace; the delivery waits for it here.
            try:
                await asyncio.wait_for(mine.ended.wait(), timeout=self._place.grace_s)
            except TimeoutError:
                return False
        command = await self._place.first_command(self._place.names.execute("*", task_id))
        if command is None:
            return True  # Valid for ever: whoever claims the task later reads the cancel first.
        return await self._end(await self._facts(command), cancel, delivery)

    async def _end(self, facts: TaskFacts, cancel: Cancel, delivery: Delivery) -> bool:
        while True:
            last = await self._place.ledger.last(facts.agent_id, facts.task_id)
            if last is not None and last.is_terminal:
                # This is what keeps the parent's cancel undone until every child has its own.
                await end_children(self._place, *facts.key, last.type)
                return True
            if self._has_owner(last) and not self._owner_had_its_time(delivery):
                return False
            try:
                members = cancelled_members(cancel, started=last is not None and not last.is_foreign)
                await append_for(self._place, facts, last, events.CANCELLED, members)
            except LostRaceError:
                _log.debug("cancel of %s lost a race, looking again", facts.task_id)

    async def _facts(self, command: StoredMessage) -> TaskFacts:
        _, _, _, agent_id, task_id = command.subject.split(".")
        try:
            execute = await self._place.rooted(decode_execute(command.data))
        except InvalidCommandError:
            execute = Execute()
        return TaskFacts(task_id=task_id, agent_id=agent_id, execute=execute, command_seq=command.seq)

    @staticmethod
    def _has_owner(last: Last | None) -> bool:
        return last is not None and last.type in {events.STARTED, events.RESUMED}

    def _owner_had_its_time(self, delivery: Delivery) -> bool:
        return time.time() - delivery.time_ns / 1e9 >= self._place.grace_s + self._place.lease_s

    def _owner_has_s(self, offer: Offer) -> float:
        """Seconds until the owner had its grace and a lease since the cancel was stored."""
        whole_s = self._place.grace_s + self._place.lease_s
        # A clock that is behind the server's must not stretch it.
        return min(whole_s, offer.delivery.time_ns / 1e9 + whole_s - time.time())
